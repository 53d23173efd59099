package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writeFile replaces the file atomically, so that readers and crashes never see half of it. A file that exists keeps its owner and
// mode: an operator may let a program read it that does not run as root.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot create the directory of %s: %w", path, err)
	}
	fresh := path + ".new"
	if err := writeLike(fresh, path, data); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, errors.Join(err, discard(fresh)))
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("cannot replace %s: %w", path, err)
	}
	return nil
}

// writeChanged is writeFile for a file that may have these contents already. Programs read their files again when they change.
func writeChanged(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return writeFile(path, data)
}

// writeLike writes a file with the owner and the mode of another one, or with those of a secret if there is no other. If there is, the
// data is on the disk when it returns: a machine that loses power has the old or the new file.
func writeLike(path, other string, data []byte) error {
	if err := discard(path); err != nil { // of a process that was killed
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, likeOther(file, other), file.Close())
}

func likeOther(file *os.File, other string) error {
	info, err := os.Stat(other)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && (int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid()) {
		if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return errors.Join(file.Chmod(info.Mode().Perm()), file.Sync())
}

// discard removes a file, if it exists.
func discard(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
