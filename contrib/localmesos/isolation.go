package localmesos

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// isolators is the parsed --isolation (src/slave/containerizer/mesos/containerizer.cpp in Mesos).
type isolators struct {
	subsystems []string // cgroup v1 controllers with a cgroup per container; sorted
	cfs        bool     // cgroups/cpu sets a CFS quota too
	mount      string   // filesystem/linux: path of the mount program; "" leaves containers in the machine's mount namespace
	pids       bool     // namespaces/pid
	disk       bool     // disk/du
	ports      bool     // network/ports
}

// subsystemsOf are the controllers that the cgroup isolators use
// (src/slave/containerizer/mesos/isolators/cgroups/cgroups.cpp).
var subsystemsOf = map[string][]string{
	"cgroups/blkio": {"blkio"}, "cgroups/cpu": {"cpu", "cpuacct"}, "cgroups/cpuset": {"cpuset"}, "cgroups/devices": {"devices"},
	"cgroups/hugetlb": {"hugetlb"}, "cgroups/mem": {"memory"}, "cgroups/net_cls": {"net_cls"}, "cgroups/net_prio": {"net_prio"},
	"cgroups/perf_event": {"perf_event"}, "cgroups/pids": {"pids"},
}

// formerIsolators maps deprecated names that Mesos still accepts to the current ones.
var formerIsolators = map[string][]string{
	"process": {"posix/cpu", "posix/mem"}, "cgroups": {"cgroups/cpu", "cgroups/mem"}, "posix/disk": {"disk/du"},
}

func parseIsolation(text string) (isolators, error) {
	var i isolators
	names, err := isolatorNames(text)
	if err != nil {
		return i, err
	}
	for _, name := range names {
		if err := i.add(name); err != nil {
			return i, err
		}
	}
	slices.Sort(i.subsystems)
	i.subsystems = slices.Compact(i.subsystems)
	return i, i.check(names)
}

// isolatorNames splits the list and replaces deprecated names. Mesos refuses duplicate names.
func isolatorNames(text string) ([]string, error) {
	var names []string
	for _, name := range strings.Split(text, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		if now, former := formerIsolators[name]; former {
			names = append(names, now...)
		} else {
			names = append(names, name)
		}
	}
	return names, nil
}

func (i *isolators) add(name string) (err error) {
	switch name {
	case "posix/cpu", "posix/mem", "filesystem/posix", "network/cni":
	case "filesystem/linux":
		if i.mount, err = exec.LookPath("mount"); err != nil {
			return fmt.Errorf("filesystem/linux: %w; install mount", err)
		}
	case "namespaces/pid":
		i.pids = true
	case "disk/du":
		i.disk = true
	case "network/ports":
		i.ports = true
	case "cgroups/all":
		i.subsystems = append(i.subsystems, mountedSubsystems()...)
	default:
		subsystems, known := subsystemsOf[name]
		if !known {
			return fmt.Errorf("no isolator %q: the local Mesos has posix/cpu, posix/mem, filesystem/posix, filesystem/linux, namespaces/pid, "+
				"disk/du, network/ports, cgroups/all and %s", name, strings.Join(slices.Sorted(maps.Keys(subsystemsOf)), ", "))
		}
		i.subsystems = append(i.subsystems, subsystems...)
	}
	return nil
}

// mountedSubsystems returns the mounted controllers of cgroups/all. Mesos would mount the others too.
func mountedSubsystems() (names []string) {
	for _, subsystems := range subsystemsOf {
		for _, name := range subsystems {
			if isCgroup(hierarchy(name)) {
				names = append(names, name)
			}
		}
	}
	return names
}

// check verifies that other isolators (as the create methods in Mesos do) and the machine have what each isolator needs.
func (i *isolators) check(names []string) error {
	switch {
	case slices.Contains(names, "filesystem/linux") && slices.Contains(names, "filesystem/posix"):
		return errors.New("give only one of the isolators filesystem/posix and filesystem/linux")
	case i.pids && i.mount == "":
		return errors.New("namespaces/pid needs filesystem/linux too")
	case !i.launcher():
		return nil
	case os.Geteuid() != 0:
		return fmt.Errorf("%s needs root", strings.Join(names, ","))
	case !isCgroup(hierarchy("freezer")):
		return errors.New("the local Mesos needs cgroup v1, and /sys/fs/cgroup/freezer is not a v1 hierarchy")
	}
	for _, name := range i.subsystems {
		if !isCgroup(hierarchy(name)) {
			return fmt.Errorf("cgroup v1 of %s is not at %s: mount it there, or leave its isolator out", name, hierarchy(name))
		}
	}
	return nil
}

// launcher reports whether containers need Mesos' linux launcher, which finds a container's processes by its freezer cgroup.
func (i isolators) launcher() bool { return len(i.subsystems) > 0 || i.mount != "" || i.ports }
