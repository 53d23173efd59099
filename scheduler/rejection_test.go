package scheduler

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestNoRejectionStorm plays, for an hour and for each reason, a controller that at once replaces each pod that a kubelet rejects,
// while Mesos offers plenty.
func TestNoRejectionStorm(t *testing.T) {
	for _, reason := range []string{"OutOfcpu", "OutOfpods", "OutOfexample.com/dongle", "NodeAffinity", "UnexpectedAdmissionError", "Evicted"} {
		p := playOn(t, "synced", "subscribed", "node n1 a1", "executor a1 ok", "offer o0 a1 host=n1 cpus=400 mem=40960 executor=ours")
		made, rejected := 0, 0
		create := func() {
			made++
			p.step(fmt.Sprintf("pod p%d cpus=1", made))
		}
		for range 23 {
			create()
		}
		for second := range 3600 {
			p.step("+1s")
			for _, task := range p.core.tasks.live() {
				name := task.Pod[len("default/"):]
				p.step(fmt.Sprintf("update %s a1 STARTING", task.ID))
				p.step(fmt.Sprintf("bound %s ok", task.ID))
				p.step(fmt.Sprintf("pod %s cpus=1 node=n1 task=%s agent=a1 phase=Failed reason=%s started=yes", name, task.ID, reason))
				p.step(fmt.Sprintf("update %s a1 FAILED", task.ID))
				rejected++
				create()
			}
			p.step(fmt.Sprintf("offer o%d a1 host=n1 cpus=400 mem=40960 executor=ours", second+1))
		}
		if rejected < 5 || rejected > 23+12 { // a first batch, then one at a time with growing pauses
			t.Errorf("%s: %d pods were rejected in an hour", reason, rejected)
		}
		if got := p.core.Snapshot().PodsRejected; got != uint64(rejected) {
			t.Errorf("%s: %d of %d were counted", reason, got, rejected)
		}
	}
}

func TestPodThatHasFailedByItselfWasNotRejected(t *testing.T) {
	state := []v1.ContainerStatus{{Name: "c"}}
	for name, status := range map[string]v1.PodStatus{
		"ended":           {Phase: v1.PodFailed, ContainerStatuses: state},
		"evicted":         {Phase: v1.PodFailed, Reason: "Evicted", ContainerStatuses: state},
		"in its first":    {Phase: v1.PodFailed, Reason: "DeadlineExceeded", InitContainerStatuses: state},
		"runs":            {Phase: v1.PodRunning, Reason: "OutOfcpu"},
		"without reasons": {Phase: v1.PodFailed},
	} {
		if isRejected(&v1.Pod{Spec: v1.PodSpec{NodeName: "n1"}, Status: status}) {
			t.Errorf("%s: it counts as rejected", name)
		}
	}
}
