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

// podCgroup is a node's own cgroup, below which its kubelet makes those of the pods' QoS classes and of the pods. A
// kubelet ends what runs in pods' cgroups that it does not know, so kubelets of one machine must not share one, and
// without cgroups for pods it cannot resize them: v1.36 crashes at each attempt.
type podCgroup struct {
	parent  string // that of the Mesos container, such as "/mesos/ID", if that is to contain the pods; else empty
	name    string
	systemd bool // the Docker Engine makes cgroups through systemd, so the kubelet does, too
	cpus    float64
}

// cgroupName is that of the node which has its files in a directory: the same for each of its minions, and for no other
// node of this machine. Systemd makes folders of dashes in a name, so there is none.
func cgroupName(dir string) string {
	h := fnv.New64a()
	h.Write([]byte(dir))
	return fmt.Sprintf("k8sm_%016x", h.Sum64())
}

// path is as the kubelet wants it, in the way of cgroupfs also with systemd.
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

// make makes the cgroup unless it is there, and gives it as many of the machine's processors as Mesos has given to the
// node, should others want them, too.
func (c podCgroup) make() error {
	m, err := c.manager()
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil {
		return fmt.Errorf("cannot make cgroup %s: %w", c.path(), err)
	}
	resources := &cgroups.Resources{SkipDevices: true, CpuShares: uint64(max(2, c.cpus*1024))}
	resources.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(resources.CpuShares)
	if err := m.Set(resources); err != nil {
		return fmt.Errorf("cannot set the limits of cgroup %s: %w", c.path(), err)
	}
	return nil
}

// remove removes the cgroup and all below it. Nothing may run there any more.
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

// podCgroup is the node's below a parent, made in the way that its Docker Engine makes cgroups.
func (n *node) podCgroup(ctx context.Context, parent string) (podCgroup, error) {
	info, err := n.docker.Info(ctx)
	if err != nil {
		return podCgroup{}, fmt.Errorf("cannot ask Docker Engine for its cgroup driver: %w", err)
	}
	return podCgroup{
		parent: parent, name: cgroupName(n.files.dir), systemd: info.CgroupDriver == "systemd", cpus: n.registration.AgentResources["cpus"],
	}, nil
}

// makePodCgroup makes the node's cgroup and has the kubelet use it.
func (n *node) makePodCgroup(ctx context.Context) error {
	c, err := n.podCgroup(ctx, n.cgroupParent)
	if err != nil {
		return err
	}
	n.settings.cgroup = c.path()
	return c.make()
}

// removePodCgroups removes the node's cgroup wherever minions have made it.
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
