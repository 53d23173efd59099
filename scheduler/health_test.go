package scheduler

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api"
)

func TestBreakerOpensEverLongerAndCountsWhatFailsTogetherOnce(t *testing.T) {
	now := scriptStart
	var b breaker
	var opened []time.Duration
	for range 9 {
		launched := now
		now = now.Add(time.Second)
		for range 3 {
			b.fail(now, launched, breakerFirst, "why")
		}
		if b.takes() {
			t.Fatal("it takes another at once")
		}
		opened = append(opened, b.until.Sub(now))
		if b.due(b.until.Add(-1)) || !b.due(b.until) || b.due(b.until) || !b.takes() {
			t.Fatal("it does not take one when its time has come")
		}
		now = b.until
		if b.try("a"); b.takes() || b.end("b") || !b.end("a") || !b.takes() {
			t.Fatal("it does not take one at a time")
		}
		b.try("a")
	}
	want := []time.Duration{10, 20, 40, 80, 160, 320, 600, 600, 600}
	for i := range want {
		want[i] *= time.Second
	}
	if diff := cmp.Diff(want, opened); diff != "" {
		t.Error(diff)
	}
	if b = (breaker{}); !b.takes() || b.String() != "" {
		t.Error("one that has never failed refuses")
	}
}

// TestFailureIsTheAgentsByItsReasonOnly plays each end of a task that has not run, and checks whether its agent is blamed.
func TestFailureIsTheAgentsByItsReasonOnly(t *testing.T) {
	reasons := []string{
		"", "REASON_INVALID_OFFERS", "REASON_AGENT_DRAINING", "REASON_AGENT_REMOVED", "REASON_TASK_INVALID", "REASON_CONTAINER_PREEMPTED",
		"REASON_EXECUTOR_TERMINATED", "REASON_CONTAINER_LAUNCH_FAILED", "REASON_GC_ERROR", "REASON_AGENT_DISCONNECTED",
	}
	blamed := []TaskState{Failed, Dropped, Gone, Lost}
	for state := range numStates {
		for i, reason := range reasons {
			for _, byExecutor := range []bool{false, true} {
				p := playOn(t, "pod web", "synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "executor a1 ok")
				p.now = p.now.Add(time.Second)
				p.core.Step(p.now, TaskUpdated{Status: TaskStatus{Task: "web.1", Agent: "a1", State: state, Reason: reason, ByExecutor: byExecutor}})
				a := p.core.agents.byID["a1"]
				if a == nil { // it is gone for good
					continue
				}
				want := i >= 6 && !byExecutor && slices.Contains(blamed, state)
				unfit := byExecutor && state == Failed && reason == "REASON_EXECUTOR_TERMINATED"
				if want = want || unfit; (a.failures.health.failures > 0) != want {
					t.Errorf("%s %s by the executor %v: %d failures", state, reason, byExecutor, a.failures.health.failures)
				}
			}
		}
	}
}

func TestTaskThatHasRunIsNoFailureOfItsAgent(t *testing.T) {
	for _, update := range []string{"update web.1 a1 RUNNING", "pod web node=n1 task=web.1 agent=a1 started=yes"} {
		p := playOn(t, "pod web", "synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "executor a1 ok",
			"update web.1 a1 STARTING", "bound web.1 ok", update, "update web.1 a1 FAILED reason=REASON_EXECUTOR_TERMINATED")
		if got := p.core.agents.byID["a1"].failures.health.failures; got != 0 {
			t.Errorf("%s: %d failures", update, got)
		}
	}
}

func TestFailingAgentIsCountedAndSeen(t *testing.T) {
	p := playOn(t, "pod web", "synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "executor a1 ok", "+1s",
		"update web.1 a1 FAILED reason=REASON_EXECUTOR_TERMINATED message=no_disk")
	if got := p.core.Snapshot().AgentsFailing; got != 1 {
		t.Errorf("%d agents fail", got)
	}
	want := "TASK_FAILED REASON_EXECUTOR_TERMINATED no_disk; tried again at 2026-01-01T00:00:11Z (failure 1)"
	if live := p.core.agents.live(p.now); len(live) != 1 || live[0].Failing != want {
		t.Errorf("seen are %+v", live)
	}
	node := p.core.agents.byID[api.AgentID("a1")]
	node.failures.rejections = []*rejection{{breaker: breaker{failures: 1, until: p.now}}}
	if p.core.health.tickRejections(p.now.Add(breakerForget), node); len(node.failures.rejections) != 0 {
		t.Error("a rejection is never forgotten")
	}
}
