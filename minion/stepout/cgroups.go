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

// devices is the cgroup v1 controller that restricts a container's access to devices.
const devices = "devices"

// of reports whether the cgroup belongs to the Mesos container or lies below: an agent names it after the container's id.
func of(m procfs.Cgroup, container string) bool {
	return container != "" && slices.Contains(strings.Split(m.Path, "/"), container)
}

// inContainer reports whether a process with these memberships was started in the Mesos container.
func inContainer(memberships []procfs.Cgroup, container string) bool {
	return slices.ContainsFunc(memberships, func(m procfs.Cgroup) bool { return of(m, container) })
}

// joins returns the files to write to for moving a process from its own cgroups to those of another process, except the Mesos
// container's devices cgroup. With own for other, the move only leaves the devices cgroup.
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

// hierarchyRoot returns where the root of the membership's hierarchy is mounted, or "".
func hierarchyRoot(m procfs.Cgroup, mounts []*mountinfo.Info) string {
	for _, mount := range mounts {
		kind := "cgroup"
		if len(m.Controllers) == 0 {
			kind = "cgroup2"
		}
		// The super block options of a v1 hierarchy name its controllers: rw,cpu,cpuacct or rw,xattr,name=systemd.
		options := strings.Split(mount.VFSOptions, ",")
		other := func(controller string) bool { return !slices.Contains(options, controller) }
		if mount.Root == "/" && mount.FSType == kind && !slices.ContainsFunc(m.Controllers, other) {
			return mount.Mountpoint
		}
	}
	return ""
}

// join moves this process, with all its threads, to the cgroups.
func join(files []string) error {
	for _, file := range files {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil { // 0 means the writing process
			return fmt.Errorf("cannot change the cgroup: %w", err)
		}
	}
	return nil
}

// leaveDevices moves this process out of the Mesos container's devices cgroup, if cgroup v1 has one.
func leaveDevices(container string) error {
	own, err := ownCgroups()
	if err != nil {
		return err
	}
	return move(own, own, container)
}

// takeCgroups moves this process to the cgroups of the process from, except its devices cgroup.
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

// move performs what joins returns, with the mounts that this thread sees.
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

// ownCgroups returns the memberships of this process, even if /proc belongs to another PID namespace.
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

// allowKmsg is the flag of a Mesos agent that lets executors read /dev/kmsg, as the kubelet must.
const allowKmsg = `--allowed_devices='{"allowed_devices":[{"device":{"path":"/dev/kmsg"},"access":{"read":true}}]}'`

// checkKmsg returns an Obstacle if the kernel's messages cannot be read: the kubelet exits at once then.
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
	return &Obstacle{Problem: fmt.Sprintf("the kubelet cannot start: %s", err), Remedy: "create /dev/kmsg on the machine"}
}
