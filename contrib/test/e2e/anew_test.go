package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// The control plane is lost with its authority, and one of the same name is recreated; the node keeps its directory and what
// ran on it.
func TestControlPlaneMadeAnewTakesOverTheNodesOfTheOneBefore(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		first := up(t, dir)
		old := create(t, first, pod("old", forever))
		awaitPhase(t, first, old.Name, corev1.PodRunning)
		if len(containers(t, first, old)) != 2 {
			t.Fatal("the pod has no containers")
		}
		kill(t, first, "up", "minion", "warden", "kubelet", "proxy")
		if err := first.Kill(within(t, 30*time.Second)); err != nil {
			t.Fatal(err)
		}
		// An agent with filesystem/linux has its directory as a mount, which a kill leaves.
		if err := unix.Unmount(filepath.Join(dir, "mesos", "agents", "0"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if name := entry.Name(); name != "nodes" && name != "engine" {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}

		anew := comeBack(t, first, dir)
		if err := anew.Usable(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		p := create(t, anew, pod("new", forever))
		awaitPhase(t, anew, p.Name, corev1.PodRunning)
		err = scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
			out, err := anew.KM(ctx, "kubectl", "exec", p.Name, "--", "/bin/busybox", "echo", "here").CombinedOutput()
			if err == nil && string(out) != "here\n" {
				err = fmt.Errorf("it says %q", out)
			}
			if err != nil {
				return fmt.Errorf("exec in a pod of the new control plane: %w: %s", err, out)
			}
			if left := containers(t, anew, old); len(left) > 0 {
				return fmt.Errorf("of the pod of the control plane before containers run on: %v", left)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
