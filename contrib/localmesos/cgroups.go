package localmesos

import (
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

// Limits as the subsystems of Mesos's cgroups isolator have them
// (https://mesos.apache.org/documentation/latest/isolators/cgroups-cpu/, .../cgroups-mem/).
const (
	sharesPerCPU = 1024
	minShares    = 2
	minMemory    = 32 // MB
)

// destroyTimeout is how long the processes of a container may take to die of SIGKILL, as --cgroups_destroy_timeout.
const destroyTimeout = 30 * time.Second

// isolators says what --isolation names: nothing, or the cgroups of cpu and memory, and then the freezer's too, by which the
// launcher of Mesos finds all processes of a container.
type isolators struct{ cpu, mem bool }

func parseIsolation(text string) (isolators, error) {
	var i isolators
	for _, name := range strings.Split(text, ",") {
		switch strings.TrimSpace(name) {
		case "", "posix/cpu", "posix/mem":
		case "cgroups/cpu":
			i.cpu = true
		case "cgroups/mem":
			i.mem = true
		default:
			return i, fmt.Errorf("no isolator %q: the local Mesos has posix/cpu, posix/mem, cgroups/cpu and cgroups/mem", name)
		}
	}
	if (i.cpu || i.mem) && !isCgroup(hierarchy("freezer")) {
		return i, errors.New("the local Mesos isolates by cgroup v1, and /sys/fs/cgroup/freezer is none")
	}
	return i, nil
}

// hierarchy is where a cgroup v1 controller is mounted (https://man7.org/linux/man-pages/man7/cgroups.7.html).
func hierarchy(controller string) string { return filepath.Join("/sys/fs/cgroup", controller) }

func isCgroup(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
	return err == nil
}

// hierarchies are those in which each container has a cgroup, the freezer's last: a process is in all before it is in that.
func (i isolators) hierarchies() []string {
	var names []string
	if i.cpu {
		names = append(names, "cpu", "cpuacct")
	}
	if i.mem {
		names = append(names, "memory")
	}
	if len(names) > 0 {
		names = append(names, "freezer")
	}
	var dirs []string
	for _, name := range names {
		if dir, err := filepath.EvalSymlinks(hierarchy(name)); err == nil && !slices.Contains(dirs, dir) { // cpu,cpuacct may be one
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// cgroups are those of one container.
func (i isolators) cgroups(container string) []string {
	dirs := i.hierarchies()
	for n := range dirs {
		dirs[n] = filepath.Join(dirs[n], cgroupsRoot, container)
	}
	return dirs
}

// prepare makes the container's cgroups with their limits, and returns the files by which a process joins them.
func (i isolators) prepare(container string, resources pool) (join []string, err error) {
	for _, dir := range i.cgroups(container) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the container's cgroup: %w", err)
		}
		join = append(join, filepath.Join(dir, "cgroup.procs"))
	}
	return join, i.limit(container, resources)
}

// limit sets what the container's tasks and executor may use. As in Mesos, the hard limit of memory never goes down: what a
// task that has ended leaves may take a while to be given back.
func (i isolators) limit(container string, resources pool) error {
	if i.cpu {
		dir := filepath.Join(hierarchy("cpu"), cgroupsRoot, container)
		shares := max(minShares, resources.scalar("cpus")*sharesPerCPU/1000)
		if err := writeCgroup(dir, "cpu.shares", shares); err != nil {
			return err
		}
	}
	if !i.mem {
		return nil
	}
	dir := filepath.Join(hierarchy("memory"), cgroupsRoot, container)
	bytes := max(minMemory, resources.scalar("mem")/1000) << 20
	if err := writeCgroup(dir, "memory.soft_limit_in_bytes", bytes); err != nil {
		return err
	}
	const hard = "memory.limit_in_bytes"
	text, err := os.ReadFile(filepath.Join(dir, hard))
	if err != nil {
		return fmt.Errorf("cannot read the container's limit: %w", err)
	}
	const unlimited = 1 << 62 // what the kernel says is the largest number of pages
	if now, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && now < unlimited && now >= bytes {
		return nil
	}
	return writeCgroup(dir, hard, bytes)
}

func writeCgroup(dir, file string, value int64) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot limit the container: %w", err)
	}
	_, err = f.WriteString(strconv.FormatInt(value, 10))
	return errors.Join(err, f.Close())
}

// destroy kills all that is in the container's cgroups or in cgroups below them, whoever made those, and removes the cgroups.
func (i isolators) destroy(container string) error {
	dirs := i.cgroups(container)
	slices.Reverse(dirs)
	deadline := time.Now().Add(destroyTimeout)
	for n, dir := range dirs {
		for {
			err := killBelow(dir, n == 0)
			if err == nil {
				err = removeBelow(dir)
			}
			if err == nil || errors.Is(err, fs.ErrNotExist) && !isCgroup(dir) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("cannot remove the container's cgroup: %w", err)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	return nil
}

// killBelow sends SIGKILL to every process in the cgroup and below it. Frozen meanwhile, they start no others.
func killBelow(dir string, freezer bool) error {
	return eachBelow(dir, func(cgroup string) error {
		if freezer {
			if err := os.WriteFile(filepath.Join(cgroup, "freezer.state"), []byte("FROZEN"), 0); err != nil {
				return err
			}
		}
		pids, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		for _, text := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(text); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
			}
		}
		if freezer {
			err = errors.Join(err, os.WriteFile(filepath.Join(cgroup, "freezer.state"), []byte("THAWED"), 0))
		}
		return err
	})
}

func removeBelow(dir string) error { return eachBelow(dir, unix.Rmdir) }

// eachBelow visits the cgroup and those below it, the inner ones first.
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

// removeRoot removes the cgroup of all containers if there is none any more.
func (i isolators) removeRoot() {
	for _, dir := range i.hierarchies() {
		_ = unix.Rmdir(filepath.Join(dir, cgroupsRoot)) // it may be another Mesos's too
	}
}

// scalar is how much of a resource there is, whatever its role, in thousandths.
func (p pool) scalar(name string) int64 {
	var sum int64
	for _, a := range p {
		if a.name == name {
			sum += a.scalar
		}
	}
	return sum
}
