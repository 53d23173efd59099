package cri

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"github.com/prometheus/procfs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestHostWithoutSysResourceClampsTheOOMScore(t *testing.T) {
	for _, c := range []struct {
		host   host
		wanted int64
		want   int
	}{{fullHost, -998, -998}, {limitedHost, -998, 0}, {limitedHost, 1000, 1000}} {
		if got := c.host.oomScore(c.wanted); got != c.want {
			t.Errorf("oomScore(%d) = %d; want %d", c.wanted, got, c.want)
		}
	}
}

func TestHostSaysOnceWhatItCannotGive(t *testing.T) {
	if got := fullHost.limits(); got != "" {
		t.Errorf("a host that can give all says %q", got)
	}
	if diff := cmp.Diff([]string{"SYS_RESOURCE", "MKNOD"}, limitedHost.missing); diff != "" {
		t.Error(diff)
	}
}

func TestFamilyIsDescendantsAndSession(t *testing.T) {
	all := []procfs.ProcStat{
		{PID: 1, Session: 1}, {PID: 10, PPID: 1, Session: 10}, {PID: 11, PPID: 10, Session: 10}, {PID: 12, PPID: 11, Session: 12}, // a new session
		{PID: 13, PPID: 1, Session: 10}, {PID: 20, PPID: 1, Session: 20}, // an orphan and a stranger
	}
	if diff := cmp.Diff([]int{10, 11, 12, 13}, family(10, all)); diff != "" {
		t.Error(diff)
	}
}

func TestCgroupOfAProcessIsFoundInBothVersions(t *testing.T) {
	v1 := []procfs.Cgroup{
		{HierarchyID: 12, Controllers: []string{"hugetlb"}, Path: "/docker/x"},
		{HierarchyID: 3, Controllers: []string{"cpu", "cpuacct"}, Path: "/docker/y"},
		{Path: "/unified"},
	}
	for controller, want := range map[string]string{"hugetlb": "hugetlb/docker/x", "cpu": "cpu,cpuacct/docker/y", "memory": "/unified"} {
		if got := cgroupPath(v1, controller); got != want {
			t.Errorf("cgroup of %s: %q; want %q", controller, got, want)
		}
	}
	settings, err := cgroupSettings(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"memory.oom.group": "1"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]cgroupSetting{{"hugetlb.2MB.max", "4194304"}, {"memory.oom.group", "1"}}, settings); diff != "" {
		t.Error(diff)
	}
}

func TestWorkingSetLeavesOutWhatCanBeDropped(t *testing.T) {
	for name, key := range map[string]string{"cgroup v1": "total_inactive_file", "cgroup v2": "inactive_file"} {
		usage := memoryUsage(sample{Stats: cgroups.Stats{MemoryStats: cgroups.MemoryStats{
			Usage: cgroups.MemoryData{Usage: 100, Limit: 1000}, Stats: map[string]uint64{key: 30}}}})
		if usage.WorkingSetBytes.Value != 70 || usage.AvailableBytes.GetValue() != 930 {
			t.Errorf("%s: %v", name, usage)
		}
	}
}
