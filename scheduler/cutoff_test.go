package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api"
)

// playOn plays events on a new core and returns the player, to check what scripts do not show.
func playOn(t *testing.T, lines ...string) *player {
	t.Helper()
	return playWith(t, testConfig(), lines...)
}

// playWith is playOn with a configuration.
func playWith(t *testing.T, cfg Config, lines ...string) *player {
	t.Helper()
	p := &player{
		t: t, core: NewCore(cfg), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		prepared: map[api.AgentID]PrepareExecutor{},
	}
	for _, line := range lines {
		for _, act := range p.step(line) {
			if prepare, ok := act.(PrepareExecutor); ok {
				p.prepared[prepare.Agent] = prepare
			}
		}
	}
	return p
}

// ticks plays the given number of seconds and returns the actions of each.
func (p *player) ticks(seconds int) [][]Action {
	var out [][]Action
	for range seconds {
		p.now = p.now.Add(time.Second)
		out = append(out, p.core.Step(p.now, Tick{}))
	}
	return out
}

// TestNodeOfAnAgentThatIsCutOffIsLeftToBecomeNotReady: the node controller goes by the lease, so the scheduler must neither renew
// it nor mark the node ready.
func TestNodeOfAnAgentThatIsCutOffIsLeftToBecomeNotReady(t *testing.T) {
	p := playOn(t, "synced", "subscribed", "node n1 a1", "node n2 a2 port=5052",
		"offer o1 a1 host=n1 cpus=4 mem=4096", "offer o2 a2 host=n2 cpus=4 mem=4096 port=5052")
	about := func(name string) []string {
		var said []string
		for _, acts := range p.ticks(30) {
			for _, act := range acts {
				switch act := act.(type) {
				case RenewLease:
					if act.Name == name {
						said = append(said, act.String())
					}
				case MarkReady:
					if act.Name == name {
						said = append(said, act.String())
					}
				}
			}
		}
		return slices.Compact(said)
	}
	if diff := cmp.Diff([]string{"renew lease of n1"}, about("n1")); diff != "" {
		t.Errorf("while the agent is there: %s", diff)
	}
	p.step("lost a1")
	p.step("node n1 a1 ready=Unknown")
	if said := about("n1"); len(said) > 0 {
		t.Errorf("of the lost one: %v", said)
	}
	if diff := cmp.Diff([]string{"renew lease of n2"}, about("n2")); diff != "" {
		t.Errorf("of the other one: %s", diff)
	}
	p.step("offer o3 a1 host=n1 cpus=4 mem=4096")
	if diff := cmp.Diff([]string{"mark node n1 ready", "renew lease of n1"}, about("n1")[:2]); diff != "" {
		t.Errorf("when the agent is back: %s", diff)
	}
}

// reconciled returns the number of tasks reconciled in each second; -1 stands for implicit reconciliation.
func reconciled(seconds [][]Action) map[int]int {
	asked := map[int]int{}
	for second, acts := range seconds {
		for _, act := range acts {
			if r, ok := act.(Reconcile); ok && len(r.Tasks) > 0 {
				asked[second+1] = len(r.Tasks)
			} else if ok {
				asked[second+1] = -1
			}
		}
	}
	return asked
}

func TestTasksAreReconciledInBatchesWithGrowingPausesUntilMesosAnswers(t *testing.T) {
	p := playOn(t, "synced", "node n1 a1")
	for i := range 250 {
		p.step(fmt.Sprintf("pod p%03d node=n1 task=p%03d.1 agent=a1", i, i))
	}
	acts := p.core.Step(p.now, Subscribed{Framework: "fw"})
	if len(acts) != 2 || acts[0].String() != "reconcile all" || len(acts[1].(Reconcile).Tasks) != reconcileBatch {
		t.Fatalf("on subscription: %v", acts)
	}
	if got := acts[1].(Reconcile).Tasks[0]; got != (TaskRef{Task: "p000.1", Agent: "a1"}) {
		t.Errorf("asked for %v", got)
	}
	// The rest of the first round, then a pause of 2 s; the second round, then one of 4 s.
	want := map[int]int{1: 100, 2: 50, 4: 100, 5: 100, 6: 50, 10: 100, 11: 100, 12: 50}
	if diff := cmp.Diff(want, reconciled(p.ticks(15))); diff != "" {
		t.Error(diff)
	}
	for i := 3; i < 250; i++ {
		p.step(fmt.Sprintf("update p%03d.1 a1 RUNNING", i))
	}
	if diff := cmp.Diff(map[int]int{5: 3}, reconciled(p.ticks(15))); diff != "" {
		t.Errorf("when most have been answered: %s", diff)
	}
	for i := range 3 {
		p.step(fmt.Sprintf("update p%03d.1 a1 RUNNING", i))
	}
	if got := reconciled(p.ticks(300)); len(got) > 0 {
		t.Errorf("after all answers: %v", got)
	}
}

func TestReconciliationIsImplicitEveryTenMinutesAndAfterEachSubscription(t *testing.T) {
	p := playOn(t, "synced", "subscribed")
	if diff := cmp.Diff(map[int]int{600: -1, 1200: -1}, reconciled(p.ticks(1500))); diff != "" {
		t.Error(diff)
	}
	p.step("disconnected")
	if got := reconciled(p.ticks(1500)); len(got) > 0 {
		t.Errorf("without a connection: %v", got)
	}
	if acts := p.step("subscribed"); len(reconciled([][]Action{acts})) != 1 {
		t.Errorf("on the next subscription: %v", acts)
	}
}

// TestTaskThatAYoungerOneTakesOverFromIsAskedForNoMore starts a scheduler after its predecessor died just after a launch.
func TestTaskThatAYoungerOneTakesOverFromIsAskedForNoMore(t *testing.T) {
	p := playOn(t, "pod web node=n1 task=web.1 agent=a1", "node n1 a1", "synced", "subscribed", "update web.2 a1 RUNNING uuid=u1")
	for _, acts := range p.ticks(100) {
		for _, act := range acts {
			if r, ok := act.(Reconcile); ok && r.String() != "reconcile all" {
				t.Fatalf("asked: %s", r)
			}
		}
	}
}

func TestLeaseIsRenewedWithAWordOnWhetherAMinionRunsThere(t *testing.T) {
	p := playOn(t, "synced", "subscribed", "node n1 a1", "node n2 a2 port=5052",
		"offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "offer o2 a2 host=n2 cpus=4 mem=4096 port=5052")
	got := map[string]bool{}
	for _, acts := range p.ticks(15) {
		for _, act := range acts {
			if renew, ok := act.(RenewLease); ok {
				got[renew.Name] = renew.Minion
			}
		}
	}
	if diff := cmp.Diff(map[string]bool{"n1": true, "n2": false}, got); diff != "" {
		t.Error(diff)
	}
}
