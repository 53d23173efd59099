package mesos_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// metrics returns what the scheduler that was started last knows of its master, such as "mesos_master_cpus total" = 4.
func (c *cluster) metrics(ctx context.Context) map[string]float64 {
	c.t.Helper()
	out := map[string]float64{}
	for _, s := range c.last.Metrics(ctx) {
		out[strings.TrimSpace(s.Family.Name+" "+strings.Join(s.Labels, " "))] = s.Value
	}
	return out
}

// awaitMetrics waits until the metrics have these values.
func (c *cluster) awaitMetrics(want map[string]float64) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		got := c.metrics(ctx)
		wrong := ""
		for name, value := range want {
			if has, known := got[name]; !known || has != value {
				wrong += fmt.Sprintf(" %s %v (known: %t), want %v;", name, has, known, value)
			}
		}
		if wrong == "" {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("the metrics are wrong:%s", wrong)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestMetricsOfTheMasterFollowPodsAndItsRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	c.createPod("big", "100")
	c.awaitMetrics(map[string]float64{
		"mesos_up": 1, "mesos_master_elected": 1, "mesos_master_cpus total": 8, "mesos_master_cpus used": 0.75, "mesos_master_cpus free": 7.25,
		"mesos_master_slaves_state connected_active": 2, "mesos_master_slaves_state connected_inactive": 0, "mesos_master_slaves_state unreachable": 0,
		"mesos_master_frameworks_state connected_active": 1, "mesos_master_task_states_current running": 1, "mesos_master_messages launch_tasks": 1,
		"mesos_master_task_states_exit_total failed": 0,
		// Two agents' cpus of four: the pod, the minion, and what is offered or held of the rest.
		"mesos_master_allocator_resources_cpus total": 8, "mesos_master_slave_registration_events_total register": 2,
	})
	got := c.metrics(t.Context())
	for _, name := range []string{
		"mesos_allocator_role_dominant_share *", "mesos_registrar_state_store_ms mean", "mesos_master_allocation_run_ms p99", "mesos_master_uptime_seconds",
		"mesos_master_event_queue_length message", "mesos_master_allocator_offer_filters_active *", "mesos_registrar_registry_size_bytes",
	} {
		if _, known := got[name]; !known {
			t.Errorf("no %s in %v", name, got)
		}
	}
	c.mesos.KillMaster()
	c.awaitMetrics(map[string]float64{"mesos_up": 0})
	if got := c.metrics(t.Context()); len(got) != 1 {
		t.Errorf("without a master: %v", got)
	}
	if err := c.mesos.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	c.awaitMetrics(map[string]float64{"mesos_up": 1, "mesos_master_slave_registration_events_total reregister": 2, "mesos_master_task_states_current running": 1})
	c.wait("big", "to be told why it waits", func(pod *v1.Pod) bool { return len(pod.Status.Conditions) == 1 }) // the scheduler works on
}
