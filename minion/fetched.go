package minion

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// self is this program, even after its file was removed. Children are started from it.
const self = "/proc/self/exe"

// removeFetched removes the program's file from the sandbox if the Mesos fetcher put it there for this executor alone. Agents keep
// sandboxes for a week by default (--gc_delay), and disk/du charges for their files.
func removeFetched(sandbox string) error {
	path := filepath.Join(sandbox, "km")
	fetched, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove the fetched program from the sandbox: %w", err)
	}
	running, err := os.Stat(self)
	if err != nil {
		return fmt.Errorf("cannot remove the fetched program from the sandbox: %w", err)
	}
	if !os.SameFile(fetched, running) {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove the fetched program from the sandbox: %w", err)
	}
	return nil
}
