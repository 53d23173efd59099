package minion

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"path"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// podCgroup is the node's own cgroup. The kubelet creates the cgroups of QoS classes and pods below it. A kubelet kills processes in
// pod cgroups that it does not know, so two kubelets on one machine must not share one. Without pod cgroups a kubelet cannot resize
// pods: v1.36 crashes at each attempt.
type podCgroup struct {
	parent  string // the Mesos container's cgroup, such as "/mesos/ID", if pods run below it; else empty
	name    string
	systemd bool // Docker Engine uses the systemd cgroup driver, so the kubelet must, too
	cpus    float64
}

// cgroupName returns the name of the cgroup for a node with its files in dir. All minions of the node share it, and no other node on
// this machine has it. It has no dashes: systemd turns those into nested slices.
func cgroupName(dir string) string {
	h := fnv.New64a()
	h.Write([]byte(dir))
	return fmt.Sprintf("k8sm_%016x", h.Sum64())
}

// path returns the cgroup as the kubelet expects it: in cgroupfs notation, with the systemd driver, too.
func (c podCgroup) path() string { return path.Join("/", c.parent, c.name) }

func (c podCgroup) manager() (cgroups.Manager, error) {
	config := &cgroups.Cgroup{Path: c.path(), Resources: &cgroups.Resources{SkipDevices: true}}
	if c.systemd {
		config.Path, config.Systemd, config.Parent, config.Name = "", true, "-.slice", c.name+".slice"
	}
	m, err := manager.New(config)
	if err != nil {
		return nil, fmt.Errorf("cannot use cgroup %s: %w", c.path(), err)
	}
	return m, nil
}

// make creates the cgroup unless it exists. Its CPU weight is what Mesos gave to the node.
func (c podCgroup) make() error {
	m, err := c.manager()
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil {
		return fmt.Errorf("cannot create cgroup %s: %w", c.path(), err)
	}
	resources := &cgroups.Resources{SkipDevices: true, CpuShares: uint64(max(2, c.cpus*1024))}
	resources.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(resources.CpuShares)
	if err := m.Set(resources); err != nil {
		return fmt.Errorf("cannot set the limits of cgroup %s: %w", c.path(), err)
	}
	return nil
}

// remove removes the cgroup and all cgroups below it. No process may be left in them.
func (c podCgroup) remove() error {
	m, err := c.manager()
	if err != nil {
		return err
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("cannot remove cgroup %s: %w", c.path(), err)
	}
	return nil
}

// podCgroup returns the node's cgroup below a parent, for Docker Engine's cgroup driver.
func (n *node) podCgroup(ctx context.Context, parent string) (podCgroup, error) {
	info, err := n.docker.Info(ctx)
	if err != nil {
		return podCgroup{}, fmt.Errorf("cannot ask Docker Engine for its cgroup driver: %w", err)
	}
	return podCgroup{
		parent: parent, name: cgroupName(n.files.dir), systemd: info.CgroupDriver == "systemd", cpus: n.registration.AgentResources["cpus"],
	}, nil
}

// makePodCgroup creates the node's cgroup and configures the kubelet to use it.
func (n *node) makePodCgroup(ctx context.Context) error {
	c, err := n.podCgroup(ctx, n.cgroupParent)
	if err != nil {
		return err
	}
	n.cgroup, n.settings.cgroup = c, c.path()
	return c.make()
}

// removePodCgroups removes the node's cgroup below every parent that a minion has used.
func (n *node) removePodCgroups(ctx context.Context) error {
	parents, err := n.notedCgroups()
	for _, parent := range append(parents, "") {
		c, failed := n.podCgroup(ctx, parent)
		if failed == nil {
			failed = c.remove()
		}
		err = errors.Join(err, failed)
	}
	return err
}
