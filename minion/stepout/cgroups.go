package stepout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/prometheus/procfs"
)

// devices is the cgroup v1 controller that denies a container the devices which it is not given.
const devices = "devices"

// of tells whether the cgroup is that of the Mesos container or below it: an agent names it after the container's id.
func of(m procfs.Cgroup, container string) bool {
	return container != "" && slices.Contains(strings.Split(m.Path, "/"), container)
}

// inContainer tells whether a process with these memberships was started in the Mesos container.
func inContainer(memberships []procfs.Cgroup, container string) bool {
	return slices.ContainsFunc(memberships, func(m procfs.Cgroup) bool { return of(m, container) })
}

// joins are the files by which a process with the memberships own gets those of another process, except that it is in no
// devices cgroup of the Mesos container's. With its own for the other's, all that it does is to leave that one.
func joins(own, other []procfs.Cgroup, mounts []*mountinfo.Info, container string) (files []string, err error) {
	mine := map[string]string{}
	for _, m := range own {
		mine[hierarchy(m)] = m.Path
	}
	var problems []error
	for _, m := range other {
		if hierarchy(m) == devices && of(m, container) {
			m.Path = "/"
		}
		if mine[hierarchy(m)] == m.Path {
			continue
		}
		root := hierarchyRoot(m, mounts)
		if root == "" {
			problems = append(problems, fmt.Errorf("the cgroup hierarchy %q is not mounted", hierarchy(m)))
			continue
		}
		files = append(files, filepath.Join(root, m.Path, "cgroup.procs"))
	}
	return files, errors.Join(problems...)
}

// hierarchy names a hierarchy by its controllers. The unified one has none.
func hierarchy(m procfs.Cgroup) string { return strings.Join(m.Controllers, ",") }

// hierarchyRoot is where the root of the membership's hierarchy is mounted, or "".
func hierarchyRoot(m procfs.Cgroup, mounts []*mountinfo.Info) string {
	for _, mount := range mounts {
		kind := "cgroup"
		if len(m.Controllers) == 0 {
			kind = "cgroup2"
		}
		// A hierarchy of v1 has its controllers among the options of its super block: rw,cpu,cpuacct or rw,xattr,name=systemd.
		options := strings.Split(mount.VFSOptions, ",")
		other := func(controller string) bool { return !slices.Contains(options, controller) }
		if mount.Root == "/" && mount.FSType == kind && !slices.ContainsFunc(m.Controllers, other) {
			return mount.Mountpoint
		}
	}
	return ""
}

// join moves this process, with all of its threads, to the cgroups.
func join(files []string) error {
	for _, file := range files {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil { // 0 is the writer itself
			return fmt.Errorf("cannot change the cgroup: %w", err)
		}
	}
	return nil
}

// leaveDevices takes this process out of the Mesos container's devices cgroup, if it is in one of cgroup v1.
func leaveDevices(container string) error {
	own, err := ownCgroups()
	if err != nil {
		return err
	}
	return move(own, own, container)
}

// takeCgroups moves this process to the cgroups of the one that it comes from, but not to its devices cgroup.
func takeCgroups(from int, container string) error {
	own, err := ownCgroups()
	if err != nil {
		return err
	}
	other, err := cgroupsOf(from)
	if err != nil {
		return err
	}
	return move(own, other, container)
}

// move has this process join what joins says, by the mounts that this thread sees.
func move(own, other []procfs.Cgroup, container string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return err
	}
	files, err := joins(own, other, mounts, container)
	if err != nil {
		return err
	}
	return join(files)
}

// ownCgroups are the memberships of this process, whatever its number is where /proc was mounted.
func ownCgroups() ([]procfs.Cgroup, error) {
	self, err := procfs.Self()
	if err != nil {
		return nil, err
	}
	return self.Cgroups()
}

func cgroupsOf(pid int) ([]procfs.Cgroup, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return nil, err
	}
	return process.Cgroups()
}

// allowKmsg is the flag of a Mesos agent that lets executors read what the kubelet has to.
const allowKmsg = `--allowed_devices='{"allowed_devices":[{"device":{"path":"/dev/kmsg"},"access":{"read":true}}]}'`

// checkKmsg tells whether the kubelet can read the kernel's messages: it ends at once if it cannot.
func checkKmsg(path string) error {
	file, err := os.Open(path)
	switch {
	case err == nil:
		return file.Close()
	case errors.Is(err, fs.ErrPermission):
		return &Obstacle{
			Problem: fmt.Sprintf("the kubelet cannot start: %s", err),
			Remedy:  "start the Mesos agent with " + allowKmsg + ", or without cgroups/devices (and cgroups/all) in its --isolation",
		}
	}
	return &Obstacle{Problem: fmt.Sprintf("the kubelet cannot start: %s", err), Remedy: "give the machine a /dev/kmsg"}
}
