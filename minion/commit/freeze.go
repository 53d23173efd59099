package commit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// freezer is the cgroup by which a container's processes are stopped for a moment. Docker Engine's own pause is not safe: an exec that
// starts at that moment, such as one of a probe, hangs, and the Engine waits for it while it holds what it needs to unpause.
type freezer string

// freezerOf returns the cgroup of a container, given its id and a process in it.
func freezerOf(id string, pid int) (freezer, error) {
	memberships, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("cannot find the cgroup of container %s: %w", id, err)
	}
	controller, root := "", "/sys/fs/cgroup"
	if !cgroups.IsCgroup2UnifiedMode() {
		controller = "freezer"
		if root, err = cgroups.FindCgroupMountpoint("", controller); err != nil {
			return "", fmt.Errorf("cannot find the cgroup of container %s: %w", id, err)
		}
	}
	// Below the container's cgroup there may be others, which it has made itself.
	elements := strings.Split(memberships[controller], "/")
	at := slices.IndexFunc(elements, func(e string) bool { return strings.Contains(e, id) })
	if at < 0 { // the process has ended, and its number is another's
		return "", fmt.Errorf("process %d is not in a cgroup of container %s", pid, id)
	}
	return freezer(filepath.Join(root, filepath.Join(elements[:at+1]...))), nil
}

// freeze returns when all processes have stopped.
func (f freezer) freeze() error { return f.set(cgroups.Frozen) }

// thaw lets them go on. Nothing is wrong if the container has ended.
func (f freezer) thaw() error {
	err := f.set(cgroups.Thawed)
	if _, gone := os.Stat(string(f)); errors.Is(gone, os.ErrNotExist) {
		return nil
	}
	return err
}

func (f freezer) set(state cgroups.FreezerState) error {
	m, err := f.manager()
	if err == nil {
		err = m.Freeze(state)
	}
	if err != nil {
		return fmt.Errorf("cannot set cgroup %s to %s: %w", f, state, err)
	}
	return nil
}

func (f freezer) manager() (cgroups.Manager, error) {
	controller := "freezer"
	if cgroups.IsCgroup2UnifiedMode() {
		controller = ""
	}
	return manager.NewWithPaths(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, map[string]string{controller: string(f)})
}
