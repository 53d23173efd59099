package run

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
)

// snapshotMetrics are the metrics after the snapshots of TestMetricsShowTheLastSnapshot.
const snapshotMetrics = `
# HELP k8sm_scheduler_agents_alive Mesos agents that are reachable.
# TYPE k8sm_scheduler_agents_alive gauge
k8sm_scheduler_agents_alive 3
# HELP k8sm_scheduler_agents_draining Mesos agents that an operator has drained.
# TYPE k8sm_scheduler_agents_draining gauge
k8sm_scheduler_agents_draining 6
# HELP k8sm_scheduler_agents_failing Mesos agents where the last task failed before it ran.
# TYPE k8sm_scheduler_agents_failing gauge
k8sm_scheduler_agents_failing 11
# HELP k8sm_scheduler_agents_maintenance_planned Mesos agents with planned maintenance.
# TYPE k8sm_scheduler_agents_maintenance_planned gauge
k8sm_scheduler_agents_maintenance_planned 5
# HELP k8sm_scheduler_evictions_total Attempts to evict pods for maintenance, draining or a rollout, by outcome.
# TYPE k8sm_scheduler_evictions_total counter
k8sm_scheduler_evictions_total{outcome="blocked"} 17
k8sm_scheduler_evictions_total{outcome="evicted"} 0
# HELP k8sm_scheduler_inverse_offers_total Inverse offers by how they ended.
# TYPE k8sm_scheduler_inverse_offers_total counter
k8sm_scheduler_inverse_offers_total{end="accepted"} 16
k8sm_scheduler_inverse_offers_total{end="rescinded"} 0
# HELP k8sm_scheduler_minions_held 1 while no minion is started or replaced because its kubelet would be newer than an API server, else 0.
# TYPE k8sm_scheduler_minions_held gauge
k8sm_scheduler_minions_held 1
# HELP k8sm_scheduler_nodes_outdated Nodes whose minion has another version of km than the scheduler, or other settings than the cluster.
# TYPE k8sm_scheduler_nodes_outdated gauge
k8sm_scheduler_nodes_outdated 7
# HELP k8sm_scheduler_nodes_warm Nodes that keep a minion without pods.
# TYPE k8sm_scheduler_nodes_warm gauge
k8sm_scheduler_nodes_warm 10
# HELP k8sm_scheduler_offers_ended_total Offers by how they ended.
# TYPE k8sm_scheduler_offers_ended_total counter
k8sm_scheduler_offers_ended_total{end="expired"} 0
k8sm_scheduler_offers_ended_total{end="launched"} 15
# HELP k8sm_scheduler_offers_live Offers that are held.
# TYPE k8sm_scheduler_offers_live gauge
k8sm_scheduler_offers_live 4
# HELP k8sm_scheduler_pods_rejected_total Pods that the kubelet of their node did not admit.
# TYPE k8sm_scheduler_pods_rejected_total counter
k8sm_scheduler_pods_rejected_total 12
# HELP k8sm_scheduler_pods_waiting Pods that need a task and have none.
# TYPE k8sm_scheduler_pods_waiting gauge
k8sm_scheduler_pods_waiting 1
# HELP k8sm_scheduler_preemption_attempts_total Searches for pods to preempt. Equal pods share one.
# TYPE k8sm_scheduler_preemption_attempts_total counter
k8sm_scheduler_preemption_attempts_total 13
# HELP k8sm_scheduler_preemption_victims_total Pods that were preempted for pods of higher priority.
# TYPE k8sm_scheduler_preemption_victims_total counter
k8sm_scheduler_preemption_victims_total 14
# HELP k8sm_scheduler_rollouts_stopped Nodes where the replacement of the minion failed. No other starts until an operator has acted.
# TYPE k8sm_scheduler_rollouts_stopped gauge
k8sm_scheduler_rollouts_stopped 9
# HELP k8sm_scheduler_rollouts_under_way Nodes whose minion is being replaced by one with the scheduler's version and the cluster's settings.
# TYPE k8sm_scheduler_rollouts_under_way gauge
k8sm_scheduler_rollouts_under_way 8
# HELP k8sm_scheduler_tasks Tasks that Mesos knows or should know.
# TYPE k8sm_scheduler_tasks gauge
k8sm_scheduler_tasks 2
`

// TestMetricsShowTheLastSnapshot checks names, helps and values. An equal snapshot changes no counter, and unused label values are 0.
func TestMetricsShowTheLastSnapshot(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(registry, nil)
	first := scheduler.Snapshot{
		PodsWaiting: 9, OffersEnded: map[offers.End]uint64{offers.Launched: 1, offers.Expired: 0}, PodsRejected: 1, Victims: 1,
		DisruptionSnapshot: scheduler.DisruptionSnapshot{
			InverseOffers: map[scheduler.InverseEnd]uint64{scheduler.InverseAccepted: 3}, Evictions: map[scheduler.EvictOutcome]uint64{},
		},
	}
	second := scheduler.Snapshot{
		PodsWaiting: 1, Tasks: 2, AgentsAlive: 3, Offers: 4, AgentsFailing: 11, PodsRejected: 12, Preemptions: 13, Victims: 14,
		OffersEnded: map[offers.End]uint64{offers.Launched: 15, offers.Expired: 0},
		DisruptionSnapshot: scheduler.DisruptionSnapshot{
			AgentsPlanned: 5, AgentsDraining: 6, NodesOutdated: 7, RolloutsUnderWay: 8, RolloutsStopped: 9, NodesWarm: 10, MinionsHeld: 1,
			InverseOffers: map[scheduler.InverseEnd]uint64{scheduler.InverseAccepted: 16, scheduler.InverseRescinded: 0},
			Evictions:     map[scheduler.EvictOutcome]uint64{scheduler.EvictOK: 0, scheduler.EvictBlocked: 17},
		},
	}
	for _, s := range []scheduler.Snapshot{first, second, second} {
		m.set(s)
	}
	var names []string
	for _, g := range gauges {
		names = append(names, "k8sm_scheduler_"+g.name)
	}
	for _, c := range counters {
		names = append(names, "k8sm_scheduler_"+c.name)
	}
	for _, f := range families {
		names = append(names, "k8sm_scheduler_"+f.name)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(snapshotMetrics), names...); err != nil {
		t.Error(err)
	}
}
