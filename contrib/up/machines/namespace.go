package machines

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaces is the directory of named network namespaces, as for `ip netns`.
const namespaces = "/run/netns"

// Enter calls do in the machine's network namespace: its sockets and child processes belong there. Goroutines that do starts do not.
func (m *Machine) Enter(do func() error) error {
	return onThread(func() error {
		namespace, err := netns.GetFromPath(m.namespace)
		if err != nil {
			return fmt.Errorf("node %s has no network namespace: %w", m.Name, err)
		}
		defer namespace.Close()
		if err := netns.Set(namespace); err != nil {
			return fmt.Errorf("cannot enter the network namespace of node %s: %w", m.Name, err)
		}
		return do()
	})
}

// onThread calls do on a thread of its own that may enter another network namespace. If it cannot return to its own, the thread
// exits.
func onThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// /proc shows the main thread's namespace as the process's. So the main thread waits here while another one runs do.
			defer runtime.UnlockOSThread()
			done <- onThread(do)
			return
		}
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("cannot tell which network namespace this is: %w", err)
			return
		}
		defer home.Close()
		err = do()
		if back := netns.Set(home); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// ensureNamespace makes the namespace unless it is there.
func ensureNamespace(path string) error {
	if isNamespace(path) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is no network namespace and cannot be removed: %w", path, err)
	}
	return onThread(func() error {
		made, err := netns.NewNamed(filepath.Base(path))
		if err != nil {
			return fmt.Errorf("cannot make a network namespace: %w", err)
		}
		return made.Close()
	})
}

func removeNamespace(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := netns.DeleteNamed(filepath.Base(path)); err != nil {
		return fmt.Errorf("cannot remove the network namespace %s: %w", path, err)
	}
	return nil
}
