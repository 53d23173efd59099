package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// podIsTraced runs a pod and reads what it waited for: all parts tell, and their times add up.
func podIsTraced(t *testing.T, c *scratch.Cluster) {
	create(t, c, pod("traced", forever))
	awaitPhase(t, c, "traced", corev1.PodRunning)
	told := timelineOf(t, c, "traced")
	var sum time.Duration
	var rows []string
	for _, r := range told.Rows {
		rows = append(rows, r.Who+": "+r.What)
		if r.Depth == 0 && r.Begin < told.Running {
			sum += r.End - r.Begin
		}
	}
	for _, want := range []string{
		"scheduler: find an agent and an offer", "Mesos: launch the task", "executor: take the task", "scheduler: bind the pod", "API server: pod is bound",
		"kubelet: volumes, cgroups", "runtime: run the sandbox", "Docker Engine: create", "Docker Engine: start", "network: attach the pod",
		"runtime: create container main", "runtime: start container main", "kubelet: report the status", "API server: pod runs",
	} {
		if !slices.Contains(rows, want) {
			t.Errorf("no span %q in %q", want, rows)
		}
	}
	if total := told.Running; sum < total || sum > total+total/10+50*time.Millisecond {
		t.Errorf("the spans add up to %s, but the pod ran after %s: %+v", sum, total, told.Rows)
	}
	text, err := c.KM(t.Context(), "trace", "pod", "traced").CombinedOutput()
	if err != nil || !strings.Contains(string(text), "ran after") {
		t.Errorf("km trace pod: %v\n%s", err, text)
	}
	t.Logf("%s", text)
	now := int64(0)
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), "traced", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Error(err)
	}
	if text, err := c.KM(t.Context(), "trace", "pod", "never").CombinedOutput(); err == nil || !strings.Contains(string(text), "pod default/never not found") {
		t.Errorf("km trace pod of none: %v, %s", err, text)
	}
}
