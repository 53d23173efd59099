package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// Docker's data root is a file system of its own, smaller than what has to be free there.
func TestFullFileSystemOfDockerIsDiskPressure(t *testing.T) {
	dir := stateDir(t)
	data := filepath.Join(dir, "engine", "data")
	if err := os.MkdirAll(data, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(data, unix.MNT_DETACH); err != nil && err != unix.EINVAL { // the Engine unmounts what lies below it
			t.Error(err)
		}
	})
	c := up(t, dir)
	create(t, c, pod("wakes-the-node", forever))
	err := scratch.Until(t.Context(), 90*time.Second, func(ctx context.Context) error {
		nodes, err := c.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, node := range nodes.Items {
			for _, condition := range node.Status.Conditions {
				if condition.Type == corev1.NodeDiskPressure && condition.Status == corev1.ConditionTrue {
					return nil
				}
			}
		}
		return fmt.Errorf("no node has disk pressure: %+v", nodes.Items)
	})
	if err != nil {
		t.Fatal(err)
	}
}
