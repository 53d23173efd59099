package minion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// nodeLocks is the directory for the locks of all nodes on this machine; see node.locks.
const nodeLocks = "/run/k8sm-nodes"

// machineLock is the lock file that all minions in this network namespace hold, shared: kube-proxy's rules are the same for all of
// them, because they are of one cluster (see claims). Agents in separate namespaces on one machine (`km up --nodes`) share nothing.
func machineLock() (string, error) { return namespaceLock("proxy") }

// portLock is the lock file of the minion in this network namespace whose kubelet has the default port. Without it, two minions that
// start at the same time would both find the port free.
func portLock() (string, error) { return namespaceLock("kubelet-port") }

func namespaceLock(what string) (string, error) {
	const own = "/proc/thread-self/ns/net"
	var namespace unix.Stat_t
	if err := unix.Stat(own, &namespace); err != nil {
		return "", fmt.Errorf("cannot tell which network namespace this is: %s: %w", own, err)
	}
	return filepath.Join(nodeLocks, fmt.Sprintf("%s-%d.lock", what, namespace.Ino)), nil
}

// lock takes the file's exclusive lock, and waits while another process holds it. The kernel releases the lock when a process dies.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	file, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	if _, err := file.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return file.Close, nil
}

// claim tries to take the file's lock, and holds it until claimed is closed. claimed is nil if another process holds it.
func claim(path string) (claimed *flock.Flock, err error) {
	file, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	switch held, err := file.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	case !held:
		return nil, nil
	}
	return file, nil
}

// lockFile is the file for a lock, in a directory that only root may enter. The lock is one of flock(2), as a warden's.
func lockFile(path string) (*flock.Flock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of a lock: %w", err)
	}
	return flock.New(path), nil
}

// claimKubeletPort returns the kubelet's default port to one minion in this network namespace, until it calls release or dies.
// Others get 0, which means any free port.
func claimKubeletPort() (port int, release func() error, err error) {
	path, err := portLock()
	if err != nil {
		return 0, nil, err
	}
	claimed, err := claim(path)
	if err != nil {
		return 0, nil, err
	}
	if claimed == nil {
		return 0, func() error { return nil }, nil
	}
	return kubeletPort, claimed.Close, nil
}

// shareThisMachine takes a share of the rules in this network namespace.
func shareThisMachine() (*machineShare, error) {
	path, err := machineLock()
	if err != nil {
		return nil, err
	}
	return shareMachine(path)
}

// machineShare is a minion's share of the rules that all minions in a network namespace use.
type machineShare struct{ *flock.Flock }

func shareMachine(path string) (*machineShare, error) {
	file, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	if err := file.RLock(); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return &machineShare{file}, nil
}

// last gives up the share, and reports whether no other minion holds one. If several leave at once, exactly one is the last.
func (s *machineShare) last() bool {
	alone, err := s.TryLock()
	return alone && err == nil
}

// unmountBelow detaches the mounts of pods below the directory: tmpfs volumes, secrets and others.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("cannot list mounts below %s: %w", dir, err)
	}
	slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return strings.Compare(b.Mountpoint, a.Mountpoint) }) // inner first
	var problems []error
	for _, mount := range mounts {
		if mount.Mountpoint == dir {
			continue // a file system of the operator's
		}
		if err := unix.Unmount(mount.Mountpoint, unix.MNT_DETACH); err != nil {
			problems = append(problems, fmt.Errorf("cannot unmount %s: %w", mount.Mountpoint, err))
		}
	}
	return errors.Join(problems...)
}
