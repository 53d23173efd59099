package minion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// cgroupRoot is where the kernel's cgroup hierarchies are mounted (https://man7.org/linux/man-pages/man7/cgroups.7.html).
const cgroupRoot = "/sys/fs/cgroup"

// hierarchyDir is where the hierarchy is mounted. On a hybrid host the v2 hierarchy has no controllers and a mount point of its own.
func hierarchyDir(m procfs.Cgroup, v2 bool) string {
	switch {
	case v2:
		return cgroupRoot
	case len(m.Controllers) == 0:
		return filepath.Join(cgroupRoot, "unified")
	}
	return filepath.Join(cgroupRoot, strings.TrimPrefix(strings.Join(m.Controllers, ","), "name="))
}

// ownCgroups returns this process's cgroup in each hierarchy.
func ownCgroups() ([]procfs.Cgroup, error) {
	self, err := procfs.Self()
	if err != nil {
		return nil, err
	}
	return self.Cgroups()
}

// containerCgroup returns the cgroup of the Mesos container with this id, given a process in it. It returns "" if the agent limits
// neither cpu nor memory by cgroups: without the id in the path, the process is in the agent's own cgroup. With cgroup v2, Mesos
// puts processes into a leaf below the container's cgroup (https://mesos.apache.org/documentation/latest/isolators/cgroups2/).
func containerCgroup(all []procfs.Cgroup, container string) string {
	for _, m := range all {
		limits := onlyV2(all) || slices.Contains(m.Controllers, "memory") || slices.Contains(m.Controllers, "cpu")
		elements := strings.Split(m.Path, "/")
		if at := slices.Index(elements, container); limits && at >= 0 && container != "" {
			return strings.Join(elements[:at+1], "/")
		}
	}
	return ""
}

// onlyV2 reports whether all controllers are in cgroup v2.
func onlyV2(all []procfs.Cgroup) bool { return len(all) == 1 && len(all[0].Controllers) == 0 }

// contain chooses the parent cgroup for containers, and records it for the cleanup.
func (n *node) contain(ctx context.Context) error {
	n.cgroupParent = ""
	if n.cluster.ContainPods == nil || !*n.cluster.ContainPods {
		return nil
	}
	own, err := ownCgroups()
	if err != nil {
		return fmt.Errorf("cannot find this minion's cgroup: %w", err)
	}
	return n.containAs(ctx, own)
}

// containAs is contain for a minion with the given memberships.
func (n *node) containAs(ctx context.Context, own []procfs.Cgroup) error {
	parent := containerCgroup(own, filepath.Base(n.env.Directory))
	if parent == "" {
		n.log.Warn(uncontained)
		if !slices.Contains(n.problems, uncontained) { // this is tried again until the machine is ready
			n.problems = append(n.problems, uncontained)
		}
		return nil
	}
	info, err := n.docker.Info(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask Docker Engine for its cgroup driver: %w", err)
	}
	if info.CgroupDriver != "cgroupfs" {
		return fmt.Errorf("cannot contain pods: Docker Engine at %s uses cgroup driver %s, which cannot use a Mesos cgroup as parent; "+
			"start it with --exec-opt native.cgroupdriver=cgroupfs, or the control plane without --contain-pods", n.cluster.DockerHost, info.CgroupDriver)
	}
	if err := n.noteCgroup(ctx, parent); err != nil {
		return err
	}
	n.cgroupParent = parent
	n.log.WithField("cgroup", parent).Info("running pods' containers in the Mesos container's cgroup")
	return nil
}

const uncontained = "cannot contain pods: the agent has no cgroup isolators; start it with mesos-agent --isolation=cgroups/cpu,cgroups/mem"

// noteCgroup records the cgroup, and removes those of earlier minions that are empty.
func (n *node) noteCgroup(ctx context.Context, parent string) error {
	before, err := n.notedCgroups()
	if err != nil {
		return err
	}
	for _, cgroup := range before {
		if cgroup == parent {
			continue
		}
		// Mesos killed its processes. The kubelet's cgroups remain in hierarchies that Mesos does not use.
		c, err := n.podCgroup(ctx, cgroup)
		if err == nil {
			err = c.remove()
		}
		if err != nil {
			n.log.WithError(err).Warn("cannot remove the cgroup of an earlier minion")
		}
	}
	if err := n.removeCgroups(parent); err != nil {
		return err
	}
	noted, err := n.notedCgroups()
	if err != nil {
		return err
	}
	if !slices.Contains(noted, parent) {
		noted = append(noted, parent)
	}
	return n.writeCgroups(noted)
}

func (n *node) notedCgroups() ([]string, error) {
	text, err := os.ReadFile(n.files.cgroups())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the record of containers' cgroups: %w", err)
	}
	return strings.Fields(string(text)), nil
}

func (n *node) writeCgroups(noted []string) error {
	if err := os.WriteFile(n.files.cgroups(), []byte(strings.Join(noted, "\n")), 0o600); err != nil {
		return fmt.Errorf("cannot record the containers' cgroup: %w", err)
	}
	return nil
}

// removeCgroups removes the recorded cgroups that Docker Engine created in hierarchies where Mesos has no cgroup for the container:
// Mesos does not remove those. It leaves cgroups that are not empty, and keep.
func (n *node) removeCgroups(keep string) error {
	noted, err := n.notedCgroups()
	if err != nil || len(noted) == 0 {
		return err
	}
	all, err := ownCgroups()
	if err != nil {
		return fmt.Errorf("cannot list the cgroup hierarchies: %w", err)
	}
	var left []string
	for _, cgroup := range noted {
		gone := cgroup != keep
		for _, m := range all {
			member := m.Path == cgroup || strings.HasPrefix(m.Path, cgroup+"/")
			if cgroup != keep && !member && !removeCgroup(hierarchyDir(m, onlyV2(all)), cgroup) {
				gone = false
			}
		}
		if !gone {
			left = append(left, cgroup)
		}
	}
	return n.writeCgroups(left)
}

// removeCgroup removes an empty cgroup and its parents that become empty. It returns false if the cgroup is not empty.
func removeCgroup(hierarchy, cgroup string) bool {
	if err := unix.Rmdir(filepath.Join(hierarchy, cgroup)); err != nil && !errors.Is(err, unix.ENOENT) {
		return false
	}
	for above := path.Dir(cgroup); above != "/" && above != "."; above = path.Dir(above) {
		if unix.Rmdir(filepath.Join(hierarchy, above)) != nil {
			break
		}
	}
	return true
}
