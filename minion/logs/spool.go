package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// place is where the kubelet puts the log of a container's run: POD/CONTAINER/RESTART.log.
type place struct {
	pod, container string
	restart        int
}

// spool is the package's own directory. Below it, each file of a log has a hard link, so that it stays when the kubelet deletes it:
// links/POD/CONTAINER/RESTART.log.NUMBER. positions.json says what was shipped.
//
// Only one process may use it.
type spool struct {
	dir string
	// before is called before each change of the disk. Tests break it there.
	before func(change string) error
}

// newSpool makes the directory.
func newSpool(dir string) (*spool, error) {
	s := &spool{dir: dir, before: func(string) error { return nil }}
	if err := os.MkdirAll(s.links(), 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep logs that are to be shipped: %w", err)
	}
	return s, nil
}

func (s *spool) links() string     { return filepath.Join(s.dir, "links") }
func (s *spool) positions() string { return filepath.Join(s.dir, "positions.json") }

func (s *spool) path(p place, number int64) string {
	return filepath.Join(s.links(), p.pod, p.container, fmt.Sprintf("%d.log.%d", p.restart, number))
}

// inodeInfo is what is needed of a file's inode.
type inodeInfo struct {
	inode   uint64
	size    int64
	written int64 // nanoseconds since 1970
	names   uint64
	regular bool
}

func infoOf(st *unix.Stat_t) inodeInfo {
	return inodeInfo{inode: st.Ino, size: st.Size, written: st.Mtim.Nano(), names: st.Nlink, regular: st.Mode&unix.S_IFMT == unix.S_IFREG}
}

// errNotOurs says that a file is none that a container runtime wrote.
var errNotOurs = errors.New("it is no file that a container runtime wrote")

// link gives the file of this name in a directory a second name in the spool, and returns what the file is. It follows no symbolic
// link, and opens nothing. A file that has other names is refused: whoever made them may want us to read a file that he cannot. Names that
// the spools of other stores may have are not counted.
func (s *spool) link(dir *os.File, name string, p place, number int64) (inodeInfo, error) {
	if err := s.before("link"); err != nil {
		return inodeInfo{}, err
	}
	to := s.path(p, number)
	err := unix.Linkat(int(dir.Fd()), name, unix.AT_FDCWD, to, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(to), 0o700); err == nil {
			err = unix.Linkat(int(dir.Fd()), name, unix.AT_FDCWD, to, 0)
		}
	}
	if err != nil {
		return inodeInfo{}, &os.LinkError{Op: "link", Old: filepath.Join(dir.Name(), name), New: to, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Lstat(to, &st); err != nil {
		return inodeInfo{}, &os.PathError{Op: "lstat", Path: to, Err: err}
	}
	if info := infoOf(&st); info.regular && (info.names <= 2 || info.names <= s.mostNames()) {
		return info, nil
	}
	return inodeInfo{}, errors.Join(fmt.Errorf("%w: %s/%s", errNotOurs, dir.Name(), name), os.Remove(to))
}

// mostNames returns how many names a file of a log may have: its own, and one in the spool of each store. Spools are next to each other.
func (s *spool) mostNames() uint64 {
	most := uint64(1)
	siblings, _ := os.ReadDir(filepath.Dir(s.dir)) // without them, names are too many rather than too few
	for _, d := range siblings {
		if info, err := os.Lstat(filepath.Join(filepath.Dir(s.dir), d.Name(), filepath.Base(s.links()))); err == nil && info.IsDir() {
			most++
		}
	}
	return most
}

// remove removes a name, and directories that are empty then.
func (s *spool) remove(p place, number int64) error {
	if err := s.before("remove"); err != nil {
		return err
	}
	path := s.path(p, number)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for dir := filepath.Dir(path); dir != s.links() && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
	return nil
}

// empty removes the content of a file, which needs no space, unlike anything else.
func (s *spool) empty(p place, number int64) error {
	if err := s.before("empty"); err != nil {
		return err
	}
	return os.Truncate(s.path(p, number), 0)
}

// open opens a file of the spool.
func (s *spool) open(p place, number int64) (*os.File, error) {
	return os.OpenFile(s.path(p, number), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// stat returns what a file of the spool is.
func (s *spool) stat(p place, number int64) (inodeInfo, error) {
	path := s.path(p, number)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inodeInfo{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return infoOf(&st), nil
}

// save replaces the positions. When it returns, they are on disk.
func (s *spool) save(positions []byte) error {
	next := s.positions() + ".next"
	err := s.before("write")
	if err == nil {
		err = writeSynced(next, positions)
	}
	if err == nil {
		err = s.before("rename")
	}
	if err == nil {
		err = os.Rename(next, s.positions())
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot save what was shipped: %w", err)
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// load returns the saved positions, nil if there are none.
func (s *spool) load() ([]byte, error) {
	data, err := os.ReadFile(s.positions())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// setAside keeps positions that cannot be read, for people.
func (s *spool) setAside() error { return os.Rename(s.positions(), s.positions()+".damaged") }

// free returns how many bytes of the disk are free.
func (s *spool) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

var spooledName = regexp.MustCompile(`^([0-9]+)\.log\.([0-9]+)$`)

// list calls yield for each file in the spool. What is not ours is left alone.
func (s *spool) list(yield func(p place, number int64, info inodeInfo)) error {
	return filepath.WalkDir(s.links(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		container := filepath.Dir(path)
		pod := filepath.Dir(container)
		parts := spooledName.FindStringSubmatch(entry.Name())
		if parts == nil || filepath.Dir(pod) != s.links() {
			return nil
		}
		restart, _ := strconv.Atoi(parts[1])
		number, _ := strconv.ParseInt(parts[2], 10, 64)
		p := place{pod: filepath.Base(pod), container: filepath.Base(container), restart: restart}
		info, err := s.stat(p, number)
		if err != nil {
			return err
		}
		yield(p, number, info)
		return nil
	})
}
