package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// settle is the idle time before the memory is read. Within half of it km's processes give back what only their start needed.
const settle = time.Minute

// sums are of several roles: what a cluster takes without the Docker Engine and add-ons, and what a node takes of that.
var sums = map[string][]string{
	"cluster": {"up", "dns", "minion", "kubelet", "proxy", "warden"},
	"node":    {"minion", "kubelet", "proxy", "warden"},
}

// memory measures the processes of idle clusters, with one figure per role.
type memory map[string]*figure

// measure reads the memory of the cluster's processes after an idle time.
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
	total, byRole := 0.0, map[string]float64{}
	for _, p := range processes {
		bytes, err := p.Memory()
		if err != nil {
			continue // it ended since it was listed
		}
		m.add(p.Role, float64(bytes)/(1<<20))
		byRole[p.Role] += float64(bytes) / (1 << 20)
		total += float64(bytes) / (1 << 20)
	}
	for name, roles := range sums {
		sum := 0.0
		for _, role := range roles {
			sum += byRole[role]
		}
		m.add(name, sum)
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
