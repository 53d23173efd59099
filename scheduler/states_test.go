package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// outcome is the effect of a status update on an unbound pod, a bound pod and the agent.
type outcome struct{ unbound, bound, agent string }

const (
	kept  = "kept"
	binds = "is bound now"
	waits = "waits for another task"
	asked = "kept, and Mesos is asked" // because its agent is not there
	there = "there"
	away  = "cut off"
	gone  = "gone"
)

// becomes plays a task's update and returns the effect on its pod. It checks that each update is acknowledged once, and that of a
// task that is being bound only afterwards.
func becomes(t *testing.T, state TaskState, lines ...string) (podOutcome, agentOutcome string) {
	t.Helper()
	p := playOn(t, append(lines, "synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours",
		"pod idle", "executor a1 ok")...)
	if p.core.pods.byUID["web"].task == nil {
		t.Fatal("the pod has no task to begin with")
	}
	acknowledged := 0
	for _, act := range p.core.Step(p.now, TaskUpdated{Status: TaskStatus{Task: "web.1", Agent: "a1", State: state, UUID: []byte("u")}}) {
		if _, ack := act.(Acknowledge); ack {
			acknowledged++
		}
	}
	podOutcome, agentOutcome = kept, there
	switch task := p.core.pods.byUID["web"].task; {
	case task == nil:
		podOutcome = waits
	case task.binding:
		podOutcome = binds
	case !task.heard:
		podOutcome = asked
	}
	switch a := p.core.agents.byID["a1"]; {
	case a == nil:
		agentOutcome = gone
	case !a.Alive:
		agentOutcome = away
	}
	if want := map[bool]int{true: 0, false: 1}[podOutcome == binds]; acknowledged != want {
		t.Errorf("%s: acknowledged %d times, want %d", state, acknowledged, want)
	}
	return podOutcome, agentOutcome
}

func TestWhatBecomesOfTaskPodAndNodeInEachState(t *testing.T) {
	want := map[string]outcome{
		"TASK_STAGING":          {kept, kept, there},
		"TASK_STARTING":         {binds, kept, there},
		"TASK_RUNNING":          {binds, kept, there},
		"TASK_KILLING":          {kept, kept, there},
		"TASK_FINISHED":         {waits, waits, there},
		"TASK_FAILED":           {waits, waits, there},
		"TASK_KILLED":           {waits, waits, there},
		"TASK_ERROR":            {waits, waits, there},
		"TASK_LOST":             {waits, waits, there},
		"TASK_DROPPED":          {waits, waits, there},
		"TASK_UNREACHABLE":      {waits, kept, away},
		"TASK_GONE":             {waits, waits, there},
		"TASK_GONE_BY_OPERATOR": {waits, asked, gone},
		"TASK_UNKNOWN":          {waits, waits, there},
	}
	got := map[string]outcome{}
	for state := range numStates {
		unbound, agent := becomes(t, state, "pod web")
		bound, again := becomes(t, state, "pod web node=n1 task=web.1 agent=a1")
		if agent != again {
			t.Errorf("%s: the agent is %s, or %s", state, agent, again)
		}
		got[state.String()] = outcome{unbound, bound, agent}
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Error(diff)
	}
}

// TestTaskOfAnExecutorThatIsGoneIsLaunchedAgainForEachReason: the pod's containers may outlive the executor.
func TestTaskOfAnExecutorThatIsGoneIsLaunchedAgainForEachReason(t *testing.T) {
	for _, reason := range append([]string{""}, executorEnded...) {
		p := playOn(t, "pod web node=n1 task=web.1 agent=a1", "synced", "subscribed", "node n1 a1",
			"offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "update web.1 a1 FAILED reason="+reason)
		got := p.core.pods.byUID["web"].backoff.until.Sub(p.now)
		if soon := got < overGrace; soon != (reason != "") {
			t.Errorf("reason %q: the next is tried after %s", reason, got)
		}
	}
}

// TestPodThatItsExecutorSaysEndedIsNotLaunchedAgainAtOnce: executors send some of the reasons that agents use when an executor
// ended. Only the reason that says that the executor itself ends has the same meaning from both.
func TestPodThatItsExecutorSaysEndedIsNotLaunchedAgainAtOnce(t *testing.T) {
	for _, reason := range executorEnded {
		if reason == "REASON_EXECUTOR_TERMINATED" {
			continue
		}
		p := playOn(t, "pod web node=n1 task=web.1 agent=a1", "synced", "subscribed", "node n1 a1",
			"offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours")
		p.core.Step(p.now, TaskUpdated{Status: TaskStatus{Task: "web.1", Agent: "a1", State: Failed, Reason: reason, ByExecutor: true}})
		if got := p.core.pods.byUID["web"].backoff.until.Sub(p.now); got < overGrace {
			t.Errorf("reason %s: the next is tried after %s", reason, got)
		}
	}
}
