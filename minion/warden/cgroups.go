package warden

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// leaveCgroups moves this process from the Mesos container's cgroups to the roots of their hierarchies. An agent destroys a
// container by killing every process in its freezer (v1) or unified (v2) cgroup
// (https://man7.org/linux/man-pages/man7/cgroups.7.html). Other cgroups of the process stay.
func leaveCgroups(container string) (problems []error) {
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return []error{errors.New("cannot leave the Mesos container's cgroups: " + err.Error())}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []error{errors.New("cannot leave the Mesos container's cgroups: " + err.Error())}
	}
	roots, unmounted := rootsToEnter(string(memberships), string(mounts), container)
	const stuck = "cannot leave a cgroup of the Mesos container, so the warden may be killed with it: "
	for _, root := range roots {
		if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte("0"), 0); err != nil { // 0 means the writing process
			problems = append(problems, errors.New(stuck+err.Error()))
		}
	}
	for _, hierarchy := range unmounted {
		problems = append(problems, errors.New(stuck+"hierarchy "+strconv.Quote(hierarchy)+" is not mounted"))
	}
	return problems
}

// rootsToEnter returns the mount points of the hierarchies in which the process is in a cgroup named after the container,
// and the controllers of those that are not mounted. It reads /proc/PID/cgroup and /proc/PID/mountinfo.
func rootsToEnter(memberships, mounts, container string) (roots, unmounted []string) {
	for line := range strings.Lines(memberships) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		if len(fields) < 3 || container == "" || !slices.Contains(strings.Split(fields[2], "/"), container) {
			continue
		}
		if root := hierarchyRoot(fields[1], mounts); root != "" {
			roots = append(roots, root)
		} else {
			unmounted = append(unmounted, fields[1])
		}
	}
	return roots, unmounted
}

// hierarchyRoot returns the mount point of the root cgroup of the hierarchy with these controllers, or "". The unified hierarchy
// lists no controllers. mounts is /proc/PID/mountinfo.
func hierarchyRoot(controllers, mounts string) string {
	for line := range strings.Lines(mounts) {
		front, back, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(kind) < 3 || fields[3] != "/" {
			continue
		}
		if controllers == "" && kind[0] == "cgroup2" {
			return fields[4]
		}
		// Options of the super block: rw,cpu,cpuacct or rw,xattr,name=systemd.
		if controllers != "" && kind[0] == "cgroup" && containsAll(strings.Split(kind[2], ","), strings.Split(controllers, ",")) {
			return fields[4]
		}
	}
	return ""
}

func containsAll(all, some []string) bool {
	for _, s := range some {
		if !slices.Contains(all, s) {
			return false
		}
	}
	return true
}
