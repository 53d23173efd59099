package scheduler

import (
	"strings"
	"testing"
)

// TestNodeWhosePodsNobodyLooksAfterBecomesNotReady: otherwise Kubernetes would never replace pods whose executor has ended and
// whose next tasks do not fit.
func TestNodeWhosePodsNobodyLooksAfterBecomesNotReady(t *testing.T) {
	p := playOn(t, "synced", "subscribed", "node n1 a1", "pod web cpus=1 node=n1 task=web.1 agent=a1", "update web.1 a1 RUNNING",
		"update web.1 a1 FAILED reason=REASON_EXECUTOR_TERMINATED", "exited a1", "node n1 a1 ready=Unknown")
	about := func() (said []string) {
		for _, acts := range p.ticks(30) {
			for _, act := range acts {
				if text := act.String(); strings.HasPrefix(text, "renew lease of n1") || strings.HasPrefix(text, "mark node n1 ready") {
					said = append(said, text)
				}
			}
		}
		return said
	}
	if said := about(); len(said) > 0 {
		t.Errorf("nobody looks after the pod, and the scheduler does: %q", said)
	}
	p.step("pod-gone web")
	if said := about(); len(said) < 3 {
		t.Errorf("the node has no pods and shall be ready: %q", said)
	}
}
