package stepout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/k8sm/k8sm/minion/warden"
)

// devices is the cgroup v1 controller that denies a container the devices which it is not given.
const devices = "devices"

// membership is a process's place in one hierarchy: a line of /proc/PID/cgroup. The unified hierarchy has no controllers.
type membership struct{ controllers, cgroup string }

func parseMemberships(text string) (all []membership) {
	for line := range strings.Lines(text) {
		if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(fields) == 3 {
			all = append(all, membership{controllers: fields[1], cgroup: fields[2]})
		}
	}
	return all
}

// of tells whether the cgroup is that of the Mesos container or below it: an agent names it after the container's id.
func (m membership) of(container string) bool {
	return container != "" && slices.Contains(strings.Split(m.cgroup, "/"), container)
}

// inContainer tells whether a process with these memberships was started in the Mesos container.
func inContainer(memberships, container string) bool {
	return slices.ContainsFunc(parseMemberships(memberships), func(m membership) bool { return m.of(container) })
}

// joins are the files by which a process with the memberships own gets those of another process, except that it is in no
// devices cgroup of the Mesos container's. With its own for the other's, all that it does is to leave that one. The mounts are
// as in /proc/PID/mountinfo.
func joins(own, other, mounts, container string) (files []string, err error) {
	mine := map[string]string{}
	for _, m := range parseMemberships(own) {
		mine[m.controllers] = m.cgroup
	}
	var problems []error
	for _, m := range parseMemberships(other) {
		if m.controllers == devices && m.of(container) {
			m.cgroup = "/"
		}
		if mine[m.controllers] == m.cgroup {
			continue
		}
		root := warden.HierarchyRoot(m.controllers, mounts)
		if root == "" {
			problems = append(problems, fmt.Errorf("the cgroup hierarchy %q is not mounted", m.controllers))
			continue
		}
		files = append(files, filepath.Join(root, m.cgroup, "cgroup.procs"))
	}
	return files, errors.Join(problems...)
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
	own, mounts, err := ownCgroups()
	if err != nil {
		return err
	}
	files, err := joins(own, own, mounts, container)
	if err != nil {
		return err
	}
	return join(files)
}

// ownCgroups are the memberships of this process and what this thread sees mounted.
func ownCgroups() (memberships, mounts string, err error) {
	memberships, err = readText("/proc/thread-self/cgroup")
	if err != nil {
		return "", "", err
	}
	mounts, err = readText("/proc/thread-self/mountinfo")
	return memberships, mounts, err
}

func readText(path string) (string, error) {
	data, err := os.ReadFile(path)
	return string(data), err
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
