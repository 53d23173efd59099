package commit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"
	"golang.org/x/sys/unix"
)

// upperDir returns the directory with a container's changes, if they can be read there as they are: overlay2 on this machine, whose
// files are neither mapped to other users nor split between layers (https://docs.docker.com/engine/storage/drivers/overlayfs-driver/).
// It returns "" if only Docker Engine can read them.
func (c Config) upperDir(there container.InspectResponse, info system.Info) string {
	upper := there.GraphDriver.Data["UpperDir"]
	if c.engineOnly || there.GraphDriver.Name != "overlay2" || upper == "" || !strings.HasPrefix(c.Docker.DaemonHost(), "unix://") {
		return ""
	}
	for _, option := range info.SecurityOptions {
		if strings.Contains(option, "name=userns") || strings.Contains(option, "name=rootless") {
			return ""
		}
	}
	var file unix.Statfs_t
	if err := unix.Statfs(upper, &file); err != nil || file.Type == unix.TMPFS_MAGIC { // which notes no time of what a program writes by mmap
		return ""
	}
	return upper
}

// errForeign says that Docker Engine has to read the changes.
var errForeign = errors.New("the changes are in a form that only Docker Engine reads")

// tick is longer than file systems' clocks take from one time to the next.
const tick = 50 * time.Millisecond

// rounds is how often changed files are copied while the container runs. A round copies what has changed since the one before it
// began, so each takes less time, unless the container writes as fast as this.
const rounds = 3

// snapshot copies a container's changes while it runs, and pauses it only to copy what has changed meanwhile: so the copy is of one
// moment. Contents are kept by inode: names, links and modes are read in the pause, and need no second look.
//
// The container may change what is read, to lead this process to files outside. So contents are read below upper only.
type snapshot struct {
	upper string // of the container
	dir   string // of the copies, by inode
	root  *os.Root
	// copied are the copies' inodes.
	copied map[uint64]bool
	// entries are those of the moment, in the order of filepath.WalkDir.
	entries []entry
}

// entry is a file of the container's changes.
type entry struct {
	path string // relative, without a leading slash
	stat unix.Stat_t
	link string // of a symbolic link
	// capability is the file's capability, if it has one.
	capability string
	opaque     bool // a directory that hides that of the layers below
}

// take makes the copy, and returns how long the container was paused.
func (s *snapshot) take(ctx context.Context, freeze, thaw func() error) (paused time.Duration, err error) {
	if s.root, err = os.OpenRoot(s.upper); err != nil {
		return 0, err
	}
	defer s.root.Close()
	since := time.Time{}
	for range rounds {
		began, err := s.sync()
		if err == nil {
			err = s.copyChanged(ctx, since)
		}
		if err != nil {
			return 0, err
		}
		since = began
	}
	begin := time.Now()
	err = freeze()
	if err == nil {
		err = s.copyChanged(ctx, since)
	}
	err = errors.Join(err, thaw())
	return time.Since(begin), err
}

// sync writes what is dirty, and returns when it began. A file changes without a new time if a program has mapped it into its memory
// and writes to a page that is dirty already. After this, such a write makes a new time again.
func (s *snapshot) sync() (began time.Time, err error) {
	dir, err := os.Open(s.upper)
	if err != nil {
		return began, err
	}
	defer dir.Close()
	began = time.Now()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return began, fmt.Errorf("cannot sync %s: %w", s.upper, err)
	}
	return began, nil
}

// copyChanged copies the files that have changed since a time, and notes all names.
func (s *snapshot) copyChanged(ctx context.Context, since time.Time) error {
	s.entries = s.entries[:0]
	return filepath.WalkDir(s.upper, func(path string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && path != s.upper {
			err = s.note(path, since)
		}
		if path != s.upper && replaced(err) {
			return nil
		}
		return err
	})
}

// replaced reports whether an error is that of a file that the container has deleted or replaced by another meanwhile.
func replaced(err error) bool {
	if errors.As(err, new(copyError)) {
		return false
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, errReplaced)
}

// copyError is a failure to write a copy.
type copyError struct{ error }

func (e copyError) Unwrap() error { return e.error }

var errReplaced = errors.New("it is another file now")

// note notes an entry, and copies its content if it has changed since a time.
func (s *snapshot) note(path string, since time.Time) error {
	relative, err := filepath.Rel(s.upper, path)
	if err != nil {
		return err
	}
	e := entry{path: relative}
	if err := unix.Lstat(path, &e.stat); err != nil {
		return err
	}
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		if e.link, err = os.Readlink(path); err != nil {
			return err
		}
	case unix.S_IFDIR:
		if err := e.readDirectory(path); err != nil {
			return err
		}
	case unix.S_IFREG:
		if err := e.readFile(path); err != nil {
			return err
		}
		changed := time.Unix(e.stat.Ctim.Unix())
		if !s.copied[e.stat.Ino] || !changed.Before(since.Add(-tick)) {
			if err := s.copy(relative, e.stat.Ino); err != nil {
				return err
			}
		}
	}
	s.entries = append(s.entries, e)
	return nil
}

// Attributes of overlayfs (https://docs.kernel.org/filesystems/overlayfs.html).
const (
	opaqueAttribute   = "trusted.overlay.opaque"
	redirectAttribute = "trusted.overlay.redirect"
	metacopyAttribute = "trusted.overlay.metacopy"
	capability        = "security.capability"
)

func (e *entry) readDirectory(path string) error {
	if _, found, err := attribute(path, redirectAttribute); found || err != nil {
		return errors.Join(err, errForeign)
	}
	value, _, err := attribute(path, opaqueAttribute)
	e.opaque = value == "y"
	return err
}

func (e *entry) readFile(path string) (err error) {
	if _, found, err := attribute(path, metacopyAttribute); found || err != nil {
		return errors.Join(err, errForeign)
	}
	e.capability, _, err = attribute(path, capability)
	return err
}

// attribute reads an extended attribute of a file, not of what it links to.
func attribute(path, name string) (value string, found bool, err error) {
	var buffer [256]byte
	n, err := unix.Lgetxattr(path, name, buffer[:])
	switch {
	case errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP):
		return "", false, nil
	case err != nil:
		return "", false, err
	}
	return string(buffer[:n]), true, nil
}

func (s *snapshot) content(inode uint64) string { return filepath.Join(s.dir, fmt.Sprint(inode)) }

// copy copies a file's content. A file system that can share the blocks of two files does.
func (s *snapshot) copy(path string, inode uint64) error {
	from, err := s.root.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &stat); err != nil {
		return err
	}
	if stat.Ino != inode || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return errReplaced
	}
	to, err := os.OpenFile(s.content(inode), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return copyError{err}
	}
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) != nil {
		_, err = io.Copy(to, from)
	}
	s.copied[inode] = true
	return errors.Join(err, to.Close())
}
