package localmesos

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupsRoot is Mesos's default for --cgroups_root.
const cgroupsRoot = "mesos"

// Limits of the subsystems of Mesos's cgroups isolator
// (https://mesos.apache.org/documentation/latest/isolators/cgroups-cpu/, .../cgroups-mem/).
const (
	sharesPerCPU          = 1024
	sharesPerRevocableCPU = 10 // as with Mesos' default, --revocable_cpu_low_priority
	minShares             = 2
	cfsPeriod             = 100 * time.Millisecond
	minQuota              = time.Millisecond
	minMemory             = 32 // MB
)

// destroyTimeout is how long a container's processes may take to die after SIGKILL (--cgroups_destroy_timeout).
const destroyTimeout = 30 * time.Second

// leaveTimeout is how long a cgroup may take to become empty after its processes are dead. Mesos waits --cgroups_destroy_timeout,
// but handles other containers meanwhile.
const leaveTimeout = time.Second

// hierarchy is where a cgroup v1 controller is mounted (https://man7.org/linux/man-pages/man7/cgroups.7.html).
func hierarchy(controller string) string { return filepath.Join("/sys/fs/cgroup", controller) }

func isCgroup(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
	return err == nil
}

// hierarchies returns those in which each container has a cgroup. The freezer is last, so a process joins it after all others.
func (i isolators) hierarchies() []string {
	if !i.launcher() {
		return nil
	}
	var dirs []string
	for _, name := range append(slices.Clone(i.subsystems), "freezer") {
		if dir, err := filepath.EvalSymlinks(hierarchy(name)); err == nil && !slices.Contains(dirs, dir) { // cpu,cpuacct may be one
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// cgroups of one container.
func (i isolators) cgroups(container string) []string {
	dirs := i.hierarchies()
	for n := range dirs {
		dirs[n] = filepath.Join(dirs[n], cgroupsRoot, container)
	}
	return dirs
}

func (i isolators) has(subsystem string) bool { return slices.Contains(i.subsystems, subsystem) }

// prepare creates the container's cgroups with their limits, and returns the files that a process writes to join them.
func (i isolators) prepare(container string, resources pool) (join []string, err error) {
	for _, dir := range i.cgroups(container) {
		err := os.MkdirAll(dir, 0o755)
		if errors.Is(err, fs.ErrNotExist) { // another Mesos has just removed the empty parent
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot make the container's cgroup: %w", err)
		}
		join = append(join, filepath.Join(dir, "cgroup.procs"))
	}
	if i.has("cpuset") {
		if err := inheritCpuset(container); err != nil {
			return nil, err
		}
	}
	if i.has("devices") {
		if err := allowDevices(container); err != nil {
			return nil, err
		}
	}
	return join, i.limit(container, resources)
}

// inheritCpuset copies the parent's cpuset. A cgroup without one accepts no process.
func inheritCpuset(container string) error {
	above := hierarchy("cpuset")
	for _, name := range []string{cgroupsRoot, container} {
		dir := filepath.Join(above, name)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			has, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return fmt.Errorf("cannot read the container's cpuset: %w", err)
			}
			if len(bytes.TrimSpace(has)) > 0 {
				continue
			}
			value, err := os.ReadFile(filepath.Join(above, file))
			if err != nil {
				return fmt.Errorf("cannot read the machine's cpuset: %w", err)
			}
			if err := writeCgroup(dir, file, string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
		above = dir
	}
	return nil
}

// allowedDevices are those of src/slave/containerizer/mesos/isolators/cgroups/subsystems/devices.cpp: any may be made, and console,
// tty0, tty1, pts/*, ptmx, net/tun, null, zero, full, tty, urandom and random opened.
var allowedDevices = []string{
	"c *:* m", "b *:* m", "c 5:1 rwm", "c 4:0 rwm", "c 4:1 rwm", "c 136:* rwm", "c 5:2 rwm", "c 10:200 rwm", "c 1:3 rwm", "c 1:5 rwm",
	"c 1:7 rwm", "c 5:0 rwm", "c 1:9 rwm", "c 1:8 rwm",
}

// allowDevices denies all other devices to the container.
func allowDevices(container string) error {
	dir := filepath.Join(hierarchy("devices"), cgroupsRoot, container)
	err := writeCgroup(dir, "devices.deny", "a *:* rwm")
	for _, device := range allowedDevices {
		err = errors.Join(err, writeCgroup(dir, "devices.allow", device))
	}
	return err
}

// limit sets the limits to the resources of the container's tasks and executor. As in Mesos, none of them may be zero.
func (i isolators) limit(container string, resources pool) error {
	var problems []string
	for _, subsystem := range []struct {
		name   string
		update func(container string, resources pool) error
	}{{"cpu", i.limitCPU}, {"memory", limitMemory}} {
		if !i.has(subsystem.name) {
			continue
		}
		if err := subsystem.update(container, resources); err != nil {
			problems = append(problems, fmt.Sprintf("Failed to update subsystem '%s': %v", subsystem.name, err))
		}
	}
	if len(problems) > 0 {
		return errors.New("Failed to update subsystems: " + strings.Join(problems, "; ")) //nolint:staticcheck // Mesos's own words
	}
	return nil
}

// limitCPU follows src/slave/containerizer/mesos/isolators/cgroups/subsystems/cpu.cpp.
func (i isolators) limitCPU(container string, resources pool) error {
	cpus := resources.scalar("cpus")
	if cpus == 0 {
		return errors.New("No cpus resource given") //nolint:staticcheck // Mesos's own words
	}
	perCPU := int64(sharesPerCPU)
	if resources.revocable("cpus") {
		perCPU = sharesPerRevocableCPU
	}
	dir := filepath.Join(hierarchy("cpu"), cgroupsRoot, container)
	err := writeCgroup(dir, "cpu.shares", max(minShares, cpus*perCPU/1000))
	if err != nil || !i.cfs {
		return err
	}
	quota := max(time.Duration(cpus)*cfsPeriod/1000, minQuota)
	return errors.Join(writeCgroup(dir, "cpu.cfs_period_us", cfsPeriod.Microseconds()), writeCgroup(dir, "cpu.cfs_quota_us", quota.Microseconds()))
}

// limitMemory follows src/slave/containerizer/mesos/isolators/cgroups/subsystems/memory.cpp: the hard limit never decreases,
// because memory of an ended task may take a while to be released.
func limitMemory(container string, resources pool) error {
	mem := resources.scalar("mem")
	if mem == 0 {
		return errors.New("No memory resource given") //nolint:staticcheck // Mesos's own words
	}
	dir := filepath.Join(hierarchy("memory"), cgroupsRoot, container)
	limit := max(minMemory, mem/1000) << 20
	if err := writeCgroup(dir, "memory.soft_limit_in_bytes", limit); err != nil {
		return err
	}
	const hard = "memory.limit_in_bytes"
	text, err := os.ReadFile(filepath.Join(dir, hard))
	if err != nil {
		return fmt.Errorf("cannot read the container's limit: %w", err)
	}
	const unlimited = 1 << 62 // the kernel reports a huge number for "no limit"
	if now, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && now < unlimited && now >= limit {
		return nil
	}
	return writeCgroup(dir, hard, limit)
}

// writeCgroup writes a number or a text to a file of a cgroup.
func writeCgroup(dir, file string, value any) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot limit the container: %w", err)
	}
	_, err = fmt.Fprint(f, value)
	return errors.Join(err, f.Close())
}

// destroy kills all processes in the container's freezer cgroup and below it, and removes the container's cgroups. Processes that
// left the freezer cgroup survive, and keep other cgroups that they are in: destroy in src/linux/cgroups.cpp.
func (i isolators) destroy(container string) error {
	dirs := i.cgroups(container)
	slices.Reverse(dirs)
	var problems []error
	for n, dir := range dirs {
		patience := leaveTimeout
		if n == 0 {
			patience = destroyTimeout
		}
		for deadline := time.Now().Add(patience); ; <-time.After(10 * time.Millisecond) {
			var err error
			if n == 0 {
				err = killBelow(dir)
			}
			if err == nil {
				err = removeBelow(dir)
			}
			if err == nil || errors.Is(err, fs.ErrNotExist) && !isCgroup(dir) {
				break
			}
			if time.Now().After(deadline) {
				problems = append(problems, fmt.Errorf("cannot remove the container's cgroup %s: %w", dir, err))
				break
			}
		}
	}
	return errors.Join(problems...)
}

// killBelow sends SIGKILL to every process in the cgroup and below it. It freezes them first, so that they cannot fork.
func killBelow(dir string) error {
	return eachBelow(dir, func(cgroup string) error {
		if err := os.WriteFile(filepath.Join(cgroup, "freezer.state"), []byte("FROZEN"), 0); err != nil {
			return err
		}
		pids, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		for _, text := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(text); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
			}
		}
		return errors.Join(err, os.WriteFile(filepath.Join(cgroup, "freezer.state"), []byte("THAWED"), 0))
	})
}

func removeBelow(dir string) error { return eachBelow(dir, unix.Rmdir) }

// eachBelow visits the cgroup and its descendants, the innermost first.
func eachBelow(dir string, visit func(string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if err := eachBelow(filepath.Join(dir, entry.Name()), visit); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return visit(dir)
}

// removeRoot removes the parent cgroup of all containers if it is empty.
func (i isolators) removeRoot() {
	for _, dir := range i.hierarchies() {
		_ = unix.Rmdir(filepath.Join(dir, cgroupsRoot)) // another Mesos may use it
	}
}

// scalar returns the amount of a resource over all roles, in thousandths.
func (p pool) scalar(name string) int64 {
	var sum int64
	for _, a := range p {
		if a.name == name {
			sum += a.scalar
		}
	}
	return sum
}

// revocable reports whether any of a resource is revocable.
func (p pool) revocable(name string) bool {
	return slices.ContainsFunc(p, func(a amount) bool { return a.name == name && a.revocable && a.scalar > 0 })
}
