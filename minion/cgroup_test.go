package minion

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/cgroups"
)

func TestNodesCgroupIsMadeWithItsShareAndRemovedWithAllBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	if cgroups.IsCgroup2UnifiedMode() {
		t.Skip("looks at the files of cgroup v1")
	}
	c := podCgroup{name: cgroupName(t.TempDir()), cpus: 2}
	t.Cleanup(func() {
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	})
	for range 2 { // the node's second minion finds an existing cgroup
		if err := c.make(); err != nil {
			t.Fatal(err)
		}
	}
	shares, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpu", c.name, "cpu.shares"))
	if err != nil || string(shares) != "2048\n" {
		t.Errorf("cpu.shares is %q, %v", shares, err)
	}
	below := filepath.Join("/sys/fs/cgroup/memory", c.name, "kubepods", "pod1")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "systemd"} {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", controller, c.name)); !os.IsNotExist(err) {
			t.Errorf("the cgroup still exists in %s: %v", controller, err)
		}
	}
}
