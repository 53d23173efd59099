package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// ofControlPlane are the files of a state directory that a snapshot brings back, or a start makes anew. The others are those of the
// local Mesos and of the nodes, which live on.
var ofControlPlane = []string{"pki", "etcd", "etcd.json", "encryption.*", "*.kubeconfig", "authentication.json", "audit-policy.json",
	"metrics", "metrics.yaml", "logs", "*.lock"}

// restored kills the cluster, destroys all of its control plane, and brings it back from a snapshot: Mesos' tasks are adopted.
func restored(t *testing.T, c *scratch.Cluster, dir string) *scratch.Cluster {
	p := create(t, c, pod("kept", forever))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	awaitTask(t, c, p, "TASK_RUNNING")
	started := containers(t, c, p)
	file, fresh := filepath.Join(t.TempDir(), "k8sm.tar"), filepath.Join(t.TempDir(), "state")
	run := func(says string, args ...string) {
		t.Helper()
		out, err := c.KM(within(t, time.Minute), args...).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), says) {
			t.Fatalf("km %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("saved "+file, "snapshot", "save", file)
	if err := c.Kill(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range ofControlPlane {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.RemoveAll(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	run("restored "+fresh, "--state-dir="+fresh, "snapshot", "restore", file)
	files, err := os.ReadDir(fresh)
	if err != nil || len(files) < 3 {
		t.Fatalf("restored only %v, %v", files, err)
	}
	for _, f := range files {
		if err := os.Rename(filepath.Join(fresh, f.Name()), filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	again := comeBack(t, c, dir)
	got := awaitPhase(t, again, p.Name, corev1.PodRunning)
	awaitTask(t, again, p, "TASK_RUNNING")
	if got.UID != p.UID || got.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod is %s, was %s; it was restarted %d times", got.UID, p.UID, got.Status.ContainerStatuses[0].RestartCount)
	}
	if diff := cmp.Diff(started, containers(t, again, p)); diff != "" {
		t.Errorf("the containers are others, or started again: %s", diff)
	}
	remove(t, again, p)
	return again
}
