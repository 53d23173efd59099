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

	"golang.org/x/sys/unix"
)

// cgroupRoot is where the kernel's cgroup hierarchies are mounted (https://man7.org/linux/man-pages/man7/cgroups.7.html).
const cgroupRoot = "/sys/fs/cgroup"

// membership is a process's place in one hierarchy: a line of /proc/PID/cgroup.
type membership struct {
	controllers []string // none for cgroup v2
	cgroup      string
}

func parseMemberships(text string) []membership {
	var all []membership
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		m := membership{cgroup: fields[2]}
		if fields[1] != "" {
			m.controllers = strings.Split(fields[1], ",")
		}
		all = append(all, m)
	}
	return all
}

// dir is where the hierarchy is mounted; beside those of cgroup v1, that of v2 has no controllers and a folder of its own.
func (m membership) dir(v2 bool) string {
	switch {
	case v2:
		return cgroupRoot
	case len(m.controllers) == 0:
		return filepath.Join(cgroupRoot, "unified")
	}
	return filepath.Join(cgroupRoot, strings.TrimPrefix(strings.Join(m.controllers, ","), "name="))
}

// containerCgroup returns the cgroup of the Mesos container with this id, of a process in it; empty if its agent limits neither
// cpu nor memory by cgroups. It is the container's id that tells: elsewhere the process is where the agent is. Mesos has
// processes of cgroup v2 in a leaf below the container's
// (https://mesos.apache.org/documentation/latest/isolators/cgroups2/).
func containerCgroup(all []membership, container string) string {
	for _, m := range all {
		limits := onlyV2(all) || slices.Contains(m.controllers, "memory") || slices.Contains(m.controllers, "cpu")
		elements := strings.Split(m.cgroup, "/")
		if at := slices.Index(elements, container); limits && at >= 0 && container != "" {
			return strings.Join(elements[:at+1], "/")
		}
	}
	return ""
}

// onlyV2 tells whether all controllers are in cgroup v2.
func onlyV2(all []membership) bool { return len(all) == 1 && len(all[0].controllers) == 0 }

// contain decides on the cgroup that containers are to be below, and notes it for whoever cleans up.
func (n *node) contain(ctx context.Context) error {
	n.cgroupParent = ""
	if n.cluster.ContainPods == nil || !*n.cluster.ContainPods {
		return nil
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("cannot find this minion's cgroup: %w", err)
	}
	return n.containAs(ctx, parseMemberships(string(text)))
}

// containAs is contain for a minion with these memberships.
func (n *node) containAs(ctx context.Context, own []membership) error {
	parent := containerCgroup(own, filepath.Base(n.env.Directory))
	if parent == "" {
		n.log.Warn("the pods' containers are not contained: the agent has no cgroup isolators (mesos-agent --isolation=cgroups/cpu,cgroups/mem)")
		return nil
	}
	info, err := n.docker.Info(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask Docker Engine for its cgroup driver: %w", err)
	}
	if info.CgroupDriver != "cgroupfs" {
		return fmt.Errorf("cannot contain pods: Docker Engine at %s makes cgroups through %s, which takes no cgroup of Mesos's as a parent; "+
			"start it with --exec-opt native.cgroupdriver=cgroupfs, or the control plane without --contain-pods", n.cluster.DockerHost, info.CgroupDriver)
	}
	if err := n.noteCgroup(ctx, parent); err != nil {
		return err
	}
	n.cgroupParent = parent
	n.log.WithField("cgroup", parent).Info("containing the pods' containers")
	return nil
}

// noteCgroup adds the cgroup to those that something may be left of, and takes away those of minions before.
func (n *node) noteCgroup(ctx context.Context, parent string) error {
	before, err := n.notedCgroups()
	if err != nil {
		return err
	}
	for _, cgroup := range before {
		if cgroup == parent {
			continue
		}
		// Mesos has killed what was there; of hierarchies that it does not use, the kubelet's cgroups are left.
		c, err := n.podCgroup(ctx, cgroup)
		if err == nil {
			err = c.remove()
		}
		if err != nil {
			n.log.WithError(err).Warn("something of an earlier minion is left")
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
		return nil, fmt.Errorf("cannot read which cgroups containers were in: %w", err)
	}
	return strings.Fields(string(text)), nil
}

func (n *node) writeCgroups(noted []string) error {
	if err := os.WriteFile(n.files.cgroups(), []byte(strings.Join(noted, "\n")), 0o600); err != nil {
		return fmt.Errorf("cannot note which cgroups containers are in: %w", err)
	}
	return nil
}

// removeCgroups removes what the Engine made of the noted cgroups in hierarchies that Mesos has no cgroup of the container in,
// and so does not remove itself. One that still holds something stays, and so does keep.
func (n *node) removeCgroups(keep string) error {
	noted, err := n.notedCgroups()
	if err != nil || len(noted) == 0 {
		return err
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("cannot list the cgroup hierarchies: %w", err)
	}
	all := parseMemberships(string(text))
	var left []string
	for _, cgroup := range noted {
		gone := cgroup != keep
		for _, m := range all {
			member := m.cgroup == cgroup || strings.HasPrefix(m.cgroup, cgroup+"/")
			if cgroup != keep && !member && !removeCgroup(m.dir(onlyV2(all)), cgroup) {
				gone = false
			}
		}
		if !gone {
			left = append(left, cgroup)
		}
	}
	return n.writeCgroups(left)
}

// removeCgroup removes an empty cgroup and those above it that become empty; false if it is not empty.
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
