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

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/minion/supervise"
	"github.com/k8sm/k8sm/minion/warden"
)

// nodeLocks is the directory of the locks of all nodes of the machine; see node.locks.
const nodeLocks = "/run/k8sm-nodes"

// machineLock is the file whose lock is held, shared, by every minion of this network namespace: kube-proxy's rules are the same
// for all of them. Agents that have namespaces of their own on one machine (`km up --nodes`) share none.
func machineLock() (string, error) { return namespaceLock("proxy") }

// portLock is the file whose lock is held by the minion of this network namespace whose kubelet has the usual port. Of two that
// start at once, both would find it free.
func portLock() (string, error) { return namespaceLock("kubelet-port") }

func namespaceLock(what string) (string, error) {
	const own = "/proc/self/ns/net"
	var namespace unix.Stat_t
	if err := unix.Stat(own, &namespace); err != nil {
		return "", fmt.Errorf("cannot tell which network namespace this is: %s: %w", own, err)
	}
	return filepath.Join(nodeLocks, fmt.Sprintf("%s-%d.lock", what, namespace.Ino)), nil
}

// lock takes the file's lock for this process alone, and waits for another process to give it back. A process that dies
// has given it back.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	for {
		file, err := claim(path)
		if file != nil {
			return file.Close, nil
		}
		if err != nil {
			return nil, err
		}
		if err := supervise.Sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// claim takes the file's lock if nobody has it, and keeps it until claimed is closed; nil if somebody has.
func claim(path string) (claimed *os.File, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot take a lock: %w", err)
	}
	return warden.TryLock(path)
}

// claimKubeletPort returns the kubelet's usual port to one minion of this network namespace at a time, until it releases it or
// dies, and 0, which is any port, to the others.
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

// shareThisMachine takes a share of what belongs to this network namespace.
func shareThisMachine() (*machineShare, error) {
	path, err := machineLock()
	if err != nil {
		return nil, err
	}
	return shareMachine(path)
}

// machineShare is a minion's share of what belongs to the machine.
type machineShare struct{ *os.File }

func shareMachine(path string) (*machineShare, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot lock the machine's rules: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the machine's rules: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_SH); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock %s: %w", path, err), file.Close())
	}
	return &machineShare{file}, nil
}

// last gives the share back and tells whether no one else has one. Of several that leave at once, one is the last.
func (s *machineShare) last() bool {
	return unix.Flock(int(s.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// unmountBelow detaches what pods had mounted below the directory: volumes in memory, secrets and the like.
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
