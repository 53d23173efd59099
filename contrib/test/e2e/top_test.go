package e2e

import (
	"context"
	"fmt"
	"regexp"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// usagePath is where the API tells how much the nodes use.
const usagePath = "/apis/metrics.k8s.io/v1beta1/nodes"

// topShowsUsage has kubectl top show a node, and a pod that keeps a processor busy.
func topShowsUsage(t *testing.T, c *scratch.Cluster) {
	p := create(t, c, pod("busy", "while :; do :; done"))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	topShows(t, c, `(?m)^\S+ +\d+m +\d+% +\d+Mi +\d+%`, "nodes")
	topShows(t, c, `(?m)^default +busy +[1-9]\d+m +\d+Mi`, "pods", "--all-namespaces")
	remove(t, c, p)
}

func topShows(t *testing.T, c *scratch.Cluster, want string, args ...string) {
	t.Helper()
	err := scratch.Until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
		out, err := c.KM(ctx, append([]string{"kubectl", "top"}, args...)...).CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			return fmt.Errorf("kubectl top %v: %w:\n%s", args, err, out)
		}
		t.Logf("%s", out)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
