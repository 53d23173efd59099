package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupRoot is where the kernel's cgroup hierarchies are mounted (cgroups(7)).
const cgroupRoot = "/sys/fs/cgroup"

// cgroupSetting is a limit for which Docker's API has no field. It is written to the container's cgroup directly.
type cgroupSetting struct {
	File  string `json:"file"`
	Value string `json:"value"`
}

// cgroupSettings returns the settings to write, sorted by file: limits on huge pages, and values that the kubelet names by their
// cgroup v2 file, such as memory.oom.group.
func cgroupSettings(wanted *runtimeapi.LinuxContainerResources, v2 bool) ([]cgroupSetting, error) {
	var settings []cgroupSetting
	for _, limit := range wanted.GetHugepageLimits() {
		file := "hugetlb." + limit.GetPageSize() + ".limit_in_bytes"
		if v2 {
			file = "hugetlb." + limit.GetPageSize() + ".max"
		}
		settings = append(settings, cgroupSetting{file, fmt.Sprint(limit.GetLimit())})
	}
	for file, value := range wanted.GetUnified() {
		if !v2 {
			return nil, refuse("cgroup v2 setting %s is requested, but this host has cgroup v1", file)
		}
		if filepath.Base(file) != file {
			return nil, refuse("cgroup v2 setting %q is not a file name", file)
		}
		settings = append(settings, cgroupSetting{file, value})
	}
	slices.SortFunc(settings, func(a, b cgroupSetting) int { return strings.Compare(a.File, b.File) })
	return settings, nil
}

// applyCgroup writes the settings to the cgroup of the process. It skips a missing controller if the setting asks for nothing: the
// kubelet sets a limit of zero huge pages where there are none.
func applyCgroup(pid int, settings []cgroupSetting) error {
	if len(settings) == 0 {
		return nil
	}
	memberships, err := cgroupsOf(pid)
	if err != nil {
		return err
	}
	for _, s := range settings {
		controller, _, _ := strings.Cut(s.File, ".")
		path := filepath.Join(cgroupRoot, cgroupPath(memberships, controller), s.File)
		if s.Value == "0" && !exists(path) {
			continue
		}
		if err := writeSetting(path, s.Value); err != nil {
			return fmt.Errorf("cannot set %s to %s: %w", s.File, s.Value, err)
		}
	}
	return nil
}

func writeSetting(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // no O_CREATE: the kernel creates the files
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// cgroupsOf returns a process's cgroup in each hierarchy. The error is fs.ErrNotExist if there is no such process.
func cgroupsOf(pid int) ([]procfs.Cgroup, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return nil, err
	}
	return process.Cgroups()
}

// cgroupPath returns a process's cgroup for the controller, relative to the root of all hierarchies. A controller without a cgroup
// v1 hierarchy is in the unified one.
func cgroupPath(memberships []procfs.Cgroup, controller string) string {
	var unified string
	for _, m := range memberships {
		if len(m.Controllers) == 0 {
			unified = m.Path
		}
		if slices.Contains(m.Controllers, controller) {
			return filepath.Join(strings.Join(m.Controllers, ","), m.Path)
		}
	}
	return unified
}
