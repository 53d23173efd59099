package scheduler

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const underMaintenance = `synced
subscribed
node n1 a1
pod web cpus=1 node=n1 task=web.1 agent=a1
update web.1 a1 RUNNING
offer o1 a1 host=n1 cpus=2 mem=1024 executor=ours away=1m for=1h
inverse i1 a1 away=1m for=1h
+1s
node n1 a1 cordoned=yes mark=maintenance maintenance=2026-01-01T00:01:00Z/2026-01-01T01:01:00Z
+1s
evicted a1 web blocked
inverse i2 a1 away=1m for=1h
rescind-inverse i2
`

func playAll(t *testing.T, script string) *Core {
	t.Helper()
	p := &player{t: t, core: NewCore(testConfig()), now: scriptStart}
	for line := range strings.Lines(script) {
		p.step(strings.TrimSpace(line))
	}
	return p.core
}

func TestMetricsTellHowEachInverseOfferAndEvictionEnded(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	c := playAll(t, underMaintenance)
	for range 2 { // the same counts are not added again
		m.set(c.Snapshot())
	}
	want := `
# HELP k8sm_scheduler_agents_draining Mesos agents that an operator has drained.
# TYPE k8sm_scheduler_agents_draining gauge
k8sm_scheduler_agents_draining 0
# HELP k8sm_scheduler_agents_maintenance_planned Mesos agents for which maintenance is planned.
# TYPE k8sm_scheduler_agents_maintenance_planned gauge
k8sm_scheduler_agents_maintenance_planned 1
# HELP k8sm_scheduler_evictions_total Tries to evict pods from such agents, by outcome.
# TYPE k8sm_scheduler_evictions_total counter
k8sm_scheduler_evictions_total{outcome="blocked"} 1
k8sm_scheduler_evictions_total{outcome="evicted"} 0
k8sm_scheduler_evictions_total{outcome="failed"} 0
k8sm_scheduler_evictions_total{outcome="gone"} 0
# HELP k8sm_scheduler_inverse_offers_total Inverse offers by how they ended.
# TYPE k8sm_scheduler_inverse_offers_total counter
k8sm_scheduler_inverse_offers_total{end="accepted"} 1
k8sm_scheduler_inverse_offers_total{end="declined"} 1
k8sm_scheduler_inverse_offers_total{end="rescinded"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "k8sm_scheduler_agents_draining",
		"k8sm_scheduler_agents_maintenance_planned", "k8sm_scheduler_evictions_total", "k8sm_scheduler_inverse_offers_total"); err != nil {
		t.Error(err)
	}
}

func TestWindowShowsTheMaintenanceOfAnOffersAgent(t *testing.T) {
	through(t, "synced\nsubscribed\noffer o1 a1 host=one cpus=2 away=1m\n", func(ctx context.Context, w *Window) {
		live, err := w.Offers(ctx)
		if err != nil || len(live) != 1 || live[0].Unavailable != "2026-01-01T00:01:00Z/.." {
			t.Errorf("got %+v, %v", live, err)
		}
	})
}

func TestNothingIsRememberedOfPlansThatAreOver(t *testing.T) {
	c := playAll(t, underMaintenance+`offer o2 a1 host=n1 cpus=2 mem=1024 executor=ours
+6s
node n1 a1
+1s`)
	if len(c.upkeep) != 0 {
		t.Errorf("%d agents are still remembered", len(c.upkeep))
	}
}

func TestPodIsOutWhenItsGracePeriodIsOver(t *testing.T) {
	seconds, ages := int64(5), int64(math.MaxInt64)
	deleted := metav1.NewTime(scriptStart)
	for want, pod := range map[string]*v1.Pod{
		"00:01:30": {},
		"00:01:05": {Spec: v1.PodSpec{TerminationGracePeriodSeconds: &seconds}},
		"00:00:00": {ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}},
	} {
		if got := outBy(pod, scriptStart.Add(time.Minute)).Format("15:04:05"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := outBy(&v1.Pod{Spec: v1.PodSpec{TerminationGracePeriodSeconds: &ages}}, scriptStart); got.Year() < 2300 {
		t.Errorf("a pod that may take ages is out by %s", got)
	}
}
