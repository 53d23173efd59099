package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// One cluster ends in all ways in which a cluster can end, and comes back each time.
func TestClusterThatEndsComesBackWithItsPods(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir)
		t.Run("a pod reaches the API server by its service", func(t *testing.T) { reachesAPIServer(t, c) })
		t.Run("a pod is resized in place", func(t *testing.T) { resized(t, c) })
		// No subtests from here on: a cluster ends with the test that started it.
		c = killed(t, c, dir)
		c = restored(t, c, dir)
		heldUp(t, c, dir)
		c = stopped(t, c, dir)
		c = lostPower(t, c, dir)
		stoppedRightAfterACrash(t, c, dir)
	})
}

// killed kills `km up`: the pods do not notice.
func killed(t *testing.T, c *scratch.Cluster, dir string) *scratch.Cluster {
	p := create(t, c, pod("survivor", forever))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	awaitTask(t, c, p, "TASK_RUNNING")
	started := containers(t, c, p)
	if len(started) != 2 {
		t.Fatalf("the pod has containers %v", started)
	}
	minion := running(t, c, "minion")
	if len(minion) != 1 {
		t.Fatalf("the cluster has minions %v", minion)
	}
	if err := c.Kill(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	again := comeBack(t, c, dir)
	got := awaitPhase(t, again, p.Name, corev1.PodRunning)
	if got.UID != p.UID {
		t.Errorf("the pod is another one: %s, was %s", got.UID, p.UID)
	}
	awaitTask(t, again, p, "TASK_RUNNING")
	for _, pid := range minion { // its agent was killed, and another one has come with what that one knew
		if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !bytes.Contains(command, []byte("minion")) {
			t.Errorf("minion %d did not wait for the agent to come back: %q, %v", pid, command, err)
		}
	}
	if diff := cmp.Diff(started, containers(t, again, p)); diff != "" {
		t.Errorf("the containers are others, or started again: %s", diff)
	}
	remove(t, again, p)
	return again
}

// heldUp stops the cluster as a sleeping laptop does, for longer than the scheduler's lease.
func heldUp(t *testing.T, c *scratch.Cluster, dir string) {
	if err := syscall.Kill(c.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(20 * time.Second): // which is what is tested
	case <-t.Context().Done():
	}
	if err := syscall.Kill(c.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p := create(t, c, pod("after", "true"))
	awaitPhase(t, c, "after", corev1.PodSucceeded)
	if log, err := os.ReadFile(filepath.Join(dir, "log", "km.log")); err != nil || !strings.Contains(string(log), "the leadership was lost") {
		t.Errorf("the scheduler has not lost the leadership, %v: nothing was tested", err)
	}
	remove(t, c, p)
}

// stopped stops the cluster in order.
func stopped(t *testing.T, c *scratch.Cluster, dir string) *scratch.Cluster {
	p := create(t, c, pod("comes-back", forever))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	endsAsItsGraceAllows := gracePods(t, c)
	if err := c.Stop(within(t, 2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	endsAsItsGraceAllows()
	again := comeBack(t, c, dir)
	awaitTask(t, again, p, "TASK_RUNNING")
	next := create(t, again, pod("newcomer", forever))
	awaitPhase(t, again, next.Name, corev1.PodRunning)
	atOnce := int64(0) // else they end as slowly when the cluster stops for the last time
	for _, name := range []string{"ends-slowly", "never-ends"} {
		p, err := again.Kube.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Kube.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &atOnce}); err != nil {
			t.Fatal(err)
		}
		awaitContainers(t, again, p, 0)
	}
	return again
}

// lostPower kills all processes of the cluster, pods and all.
func lostPower(t *testing.T, c *scratch.Cluster, dir string) *scratch.Cluster {
	p := pod("power", forever)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	p = create(t, c, p)
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	awaitTask(t, c, p, "TASK_RUNNING")
	pods, err := c.Kube.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var inContainers []int
	for i := range pods.Items {
		for id := range containers(t, c, &pods.Items[i]) {
			info, err := c.Docker.ContainerInspect(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			inContainers = append(inContainers, info.State.Pid)
		}
	}
	kill(t, c, "up", "minion", "warden", "kubelet", "proxy", "dockerd", "containerd")
	for _, pid := range inContainers {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Kill(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	again := comeBack(t, c, dir)
	err = scratch.Until(t.Context(), 90*time.Second, func(ctx context.Context) error {
		got, err := again.Kube.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := got.Status.ContainerStatuses[0]; got.UID != p.UID || s.RestartCount != 1 || !s.Ready {
			return fmt.Errorf("pod %s: %+v", got.UID, s)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	awaitTask(t, again, p, "TASK_RUNNING")
	return again
}

// stoppedRightAfterACrash stops the cluster that takes over from a crashed one before its scheduler can bring the minion back.
func stoppedRightAfterACrash(t *testing.T, c *scratch.Cluster, dir string) {
	p := create(t, c, pod("orphan", forever))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	kill(t, c, "up", "minion")
	if err := c.Kill(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	again, err := c.Again(within(t, 3*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	stop(t, again, dir)
}
