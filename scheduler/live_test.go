package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const oneRunsOneWaits = `synced
subscribed
offer o1 a1 host=one cpus=2 mem=1024 disk=1000 ports=31000-31009
node one a1
pod runs cpus=1
executor a1 ok
update runs.1 a1 STARTING
bound runs.1 ok
update runs.1 a1 RUNNING
pod big cpus=8 port=80
offer o2 a1 host=one cpus=0.5 mem=700 executor=ours ports=31000-31009
+3s`

func TestLiveStateIsWhatTheCoreHolds(t *testing.T) {
	p := playOn(t, strings.Split(oneRunsOneWaits, "\n")...)
	live := p.core.offering.live()
	if len(live) != 1 {
		t.Fatalf("offers %+v", live)
	}
	if o := live[0]; o.Until.IsZero() || o.Resources != "cpus:0.5;mem:700;ports:[31000-31009]" || o.Node != "one" {
		t.Errorf("offer %+v", o)
	}
	tasks := p.core.tasks.live()
	for i := range tasks {
		tasks[i].Since = time.Time{}
	}
	want := []LiveTask{{ID: "runs.1", Pod: "default/runs", Agent: "a1", Node: "one", State: "TASK_RUNNING", Bound: true}}
	if diff := cmp.Diff(want, tasks); diff != "" {
		t.Errorf("tasks -want +got:\n%s", diff)
	}
	queue := p.core.pods.live(p.now)
	if len(queue) != 1 || queue[0].Pod != "default/big" || queue[0].Since.IsZero() {
		t.Fatalf("queue %+v", queue)
	}
	if reasons := queue[0].Reasons; len(reasons) != 1 || !strings.HasPrefix(reasons[0], "1 Insufficient cpu on the agent (requested 8, most free ") {
		t.Errorf("reasons %q", reasons)
	}
}

func TestWaitingPodTellsEachReason(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		want   []string
	}{
		"before anything was looked at": {"synced\nsubscribed\npod p", []string{"it is being matched; no agent has been found or ruled out yet"}},
		"no agent":                      {"synced\nsubscribed\npod p\n+3s", []string{"no Mesos agent has made an offer yet"}},
		"no master":                     {"synced\npod p", []string{"no Mesos master is connected"}},
		"agents that differ": {`synced
subscribed
offer o1 a1 host=one cpus=1 mem=512 port=1 ports=31000-31009
node one a1 port=1
offer o2 a2 host=two cpus=9 mem=9000 port=2 ports=31000-31009
node two a2 port=2 cordoned=yes
pod p cpus=4
+3s`, []string{"1 Insufficient cpu on the agent (requested 4, most free 0.9)", "1 node(s) were unschedulable"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := playOn(t, strings.Split(test.script, "\n")...)
			queue := p.core.pods.live(p.now)
			if len(queue) != 1 {
				t.Fatalf("queue %+v", queue)
			}
			if diff := cmp.Diff(test.want, queue[0].Reasons); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestPodWhoseTasksFailTellsWhenTheNextIsTried(t *testing.T) {
	core := NewCore(testConfig())
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	p := &player{t: t, core: core, now: now}
	p.step("synced")
	p.step("subscribed")
	p.step("pod p")
	core.pods.byUID["p"].backoff.fail(now)
	core.pods.byUID["p"].backoff.fail(now)
	want := []string{"its tasks ended 2 times; the next is tried at 12:00:02"}
	if diff := cmp.Diff(want, core.pods.live(now)[0].Reasons); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPodThatNeedsNoTaskIsNotInTheQueue(t *testing.T) {
	for name, script := range map[string]string{
		"finished":                         "pod p phase=Succeeded",
		"being deleted":                    "pod p deleting=yes",
		"bound to a node of somebody else": "node elsewhere none\npod p node=elsewhere",
		"of somebody else's scheduler":     "pod p scheduler=other",
		"gone":                             "pod p\npod-gone p",
	} {
		t.Run(name, func(t *testing.T) {
			p := playOn(t, strings.Split("synced\nsubscribed\n"+script, "\n")...)
			if queue := p.core.pods.live(p.now); len(queue) > 0 || queue == nil {
				t.Errorf("queue %#v", queue)
			}
		})
	}
}

func TestPodThatIsBoundToNoNodeIsInTheQueueAndSaysSo(t *testing.T) {
	p := playOn(t, "synced", "subscribed", "pod p node=typo")
	queue := p.core.pods.live(p.now)
	if len(queue) != 1 {
		t.Fatalf("queue %v", queue)
	}
	if diff := cmp.Diff([]string{"it is bound to node typo, which does not exist"}, queue[0].Reasons); diff != "" {
		t.Error(diff)
	}
}
