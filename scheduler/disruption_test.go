package scheduler

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

func TestSnapshotTellsHowEachInverseOfferAndEvictionEnded(t *testing.T) {
	s := playAll(t, underMaintenance).Snapshot()
	if s.AgentsDraining != 0 || s.AgentsPlanned != 1 {
		t.Errorf("%d agents draining, %d with planned maintenance; want 0 and 1", s.AgentsDraining, s.AgentsPlanned)
	}
	evictions := map[EvictOutcome]uint64{EvictOK: 0, EvictGone: 0, EvictBlocked: 1, EvictFailed: 0}
	if diff := cmp.Diff(evictions, s.Evictions); diff != "" {
		t.Errorf("evictions: %s", diff)
	}
	inverse := map[InverseEnd]uint64{InverseAccepted: 1, InverseDeclined: 1, InverseRescinded: 1}
	if diff := cmp.Diff(inverse, s.InverseOffers); diff != "" {
		t.Errorf("inverse offers: %s", diff)
	}
}

func TestLiveOfferShowsTheMaintenanceOfItsAgent(t *testing.T) {
	live := playOn(t, "synced", "subscribed", "offer o1 a1 host=one cpus=2 away=1m").core.offering.live()
	if len(live) != 1 || live[0].Unavailable != "2026-01-01T00:01:00Z/.." {
		t.Errorf("got %+v", live)
	}
}

func TestNothingIsRememberedOfPlansThatAreOver(t *testing.T) {
	c := playAll(t, underMaintenance+`offer o2 a1 host=n1 cpus=2 mem=1024 executor=ours
+6s
node n1 a1
+1s`)
	if len(c.disruptions.byAgent) != 0 {
		t.Errorf("%d agents are still remembered", len(c.disruptions.byAgent))
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
