package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// settle is how long a cluster is left alone before its memory is read.
const settle = 10 * time.Second

// memory is the memory of each process of idle clusters, a figure a role.
type memory map[string]*figure

// measure reads the memory of the cluster's processes after it was left alone for a while.
func (m memory) measure(ctx context.Context, c *scratch.Cluster) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	processes, err := c.Processes()
	if err != nil {
		return err
	}
	total := 0.0
	for _, p := range processes {
		kilobytes, err := resident(p.PID)
		if err != nil {
			continue // it ended since it was listed
		}
		m.add(p.Role, float64(kilobytes)/1024)
		total += float64(kilobytes) / 1024
	}
	m.add("total", total)
	return nil
}

func (m memory) add(role string, megabytes float64) {
	if m[role] == nil {
		m[role] = &figure{name: "idle_memory_" + role, unit: "MB"}
	}
	m[role].rounds = append(m[role].rounds, megabytes)
}

// figures are those of all roles, by name.
func (m memory) figures() []*figure {
	var all []*figure
	for _, role := range slices.Sorted(maps.Keys(m)) {
		all = append(all, m[role])
	}
	return all
}

// resident is a process's proportional set size in kB: pages that several processes share count in part
// (https://docs.kernel.org/filesystems/proc.html).
func resident(pid int) (int, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if value, ok := strings.CutPrefix(string(line), "Pss:"); ok {
			return strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		}
	}
	return 0, fmt.Errorf("no Pss line for process %d", pid)
}
