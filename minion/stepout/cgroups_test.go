package stepout

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"github.com/prometheus/procfs"
)

// What a kernel says with cgroup v1 beside an unused v2, as systemd mounts them.
const hybridMounts = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`

const unifiedMounts = "25 24 0:22 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"

// mesosV1 is an executor of an agent with cgroups/all on cgroup v1, and mesosV2 of one on v2, whose processes are in a leaf.
const (
	mesosV1 = "12:name=systemd:/mesos/c-1\n9:memory:/mesos/c-1\n7:devices:/mesos/c-1\n5:freezer:/mesos/c-1\n3:cpu,cpuacct:/mesos/c-1\n0::/system.slice/mesos-agent.service\n"
	mesosV2 = "0::/mesos/c-1/leaf\n"
)

// parseCgroups reads the text of a /proc/PID/cgroup.
func parseCgroups(t *testing.T, text string) []procfs.Cgroup {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "1"), 0o755), os.WriteFile(filepath.Join(dir, "1", "cgroup"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	proc, err := procfs.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	process, err := proc.Proc(1)
	if err != nil {
		t.Fatal(err)
	}
	all, err := process.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCgroupsThatAMinionJoins(t *testing.T) {
	for name, test := range map[string]struct {
		own, other, mounts string
		want               []string
		problem            string
	}{
		"of v1, it leaves that of devices": {own: mesosV1, other: mesosV1, mounts: hybridMounts, want: []string{"devices/cgroup.procs"}},
		"of v1, it has nothing to leave without cgroups/devices": {
			own: strings.ReplaceAll(mesosV1, "devices:/mesos/c-1", "devices:/system.slice/mesos-agent.service"), mounts: hybridMounts,
			other: strings.ReplaceAll(mesosV1, "devices:/mesos/c-1", "devices:/system.slice/mesos-agent.service"),
		},
		"of v1, it takes its keeper's but that of devices": {
			own:   "12:name=systemd:/docker/x\n9:memory:/docker/x\n7:devices:/docker/x\n5:freezer:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/system.slice/mesos-agent.service\n",
			other: mesosV1, mounts: hybridMounts,
			want: []string{"systemd/mesos/c-1/cgroup.procs", "memory/mesos/c-1/cgroup.procs", "devices/cgroup.procs", "freezer/mesos/c-1/cgroup.procs",
				"cpu,cpuacct/mesos/c-1/cgroup.procs"},
		},
		"of v2, it stays in the only one":       {own: mesosV2, other: mesosV2, mounts: unifiedMounts},
		"of v2, it takes its keeper's":          {own: "0::/docker/x\n", other: mesosV2, mounts: unifiedMounts, want: []string{"mesos/c-1/leaf/cgroup.procs"}},
		"a hierarchy that is not there is said": {own: "9:memory:/docker/x\n", other: "9:memory:/mesos/c-1\n", mounts: unifiedMounts, problem: `"memory" is not mounted`},
	} {
		t.Run(name, func(t *testing.T) {
			mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(test.mounts), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := joins(parseCgroups(t, test.own), parseCgroups(t, test.other), mounts, "c-1")
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			var want []string
			for _, file := range test.want {
				want = append(want, filepath.Join("/sys/fs/cgroup", file))
			}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v, it joins (-want +got): %s", err, diff)
			}
		})
	}
}

func TestProcessOfTheContainerIsKnownByItsCgroups(t *testing.T) {
	for memberships, want := range map[string]bool{
		mesosV1: true, mesosV2: true, "0::/init.scope\n": false, "5:freezer:/\n0::/\n": false, "0::/mesos/c-11\n": false,
	} {
		if got := inContainer(parseCgroups(t, memberships), "c-1"); got != want {
			t.Errorf("%q is in the container c-1: %t", memberships, got)
		}
	}
	if inContainer(parseCgroups(t, "0::/\n"), "") {
		t.Error("every process is in a container without a name")
	}
}

func TestWhoCannotReadTheKernelsMessagesIsToldWhatToDo(t *testing.T) {
	var obstacle *Obstacle
	if err := checkKmsg(filepath.Join(t.TempDir(), "kmsg")); !errors.As(err, &obstacle) || obstacle.Remedy == "" {
		t.Errorf("of one that is not there it says %v", err)
	}
	if err := checkKmsg("/dev/null"); err != nil {
		t.Error(err)
	}
}
