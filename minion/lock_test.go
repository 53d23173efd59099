package minion

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSecondMinionOfANodeWaitsForTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ended, path); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want to wait until the context ends", err)
	}
	got := make(chan error, 1)
	go func() {
		unlock, err := lock(t.Context(), path)
		if err == nil {
			err = unlock()
		}
		got <- err
	}()
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// A warden has no library: it calls flock(2) itself.
func TestLockIsOneThatAWardenSees(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("while the lock is held, flock(2) says %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("after that, flock(2) says %v", err)
	}
}

func TestOnlyLastMinionOfAMachineIsLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine")
	share := func() *machineShare {
		s, err := shareMachine(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	one, other := share(), share()
	if one.last() {
		t.Error("last() is true although another minion holds a share")
	}
	if !other.last() {
		t.Error("last() is false although no other minion holds a share")
	}
}

func TestUnmountBelowDetachesOnlyMountsBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	root := t.TempDir()
	mount := func(elements ...string) string {
		dir := filepath.Join(append([]string{root}, elements...)...)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			t.Skipf("cannot mount here: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	mount("node", "pods", "volume")
	mount("node", "pods", "volume", "inner")
	other := mount("node-2")
	if err := unmountBelow(filepath.Join(root, "node")); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "node")); err != nil {
		t.Errorf("a mount is left: %v", err)
	}
	if err := os.Remove(other); !errors.Is(err, unix.EBUSY) {
		t.Errorf("another node's mount is gone: %v", err)
	}
}

func TestClaimIsExclusiveUntilClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "locks", "kubelet-port")
	first, err := claim(path)
	if err != nil || first == nil {
		t.Fatalf("the first claim: %v %v", first, err)
	}
	if second, err := claim(path); second != nil || err != nil {
		t.Errorf("a second claim: %v %v", second, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claim(path)
	if err != nil || again == nil {
		t.Fatalf("a claim after the first was closed: %v %v", again, err)
	}
	again.Close()
}
