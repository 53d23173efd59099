package logs

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api/logs"
)

// Names that the kubelet gives (https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md). They
// are those of Kubernetes objects, so nothing else can be meant.
var (
	podDirectory       = regexp.MustCompile(`^([a-z0-9-]{1,63})_([a-z0-9.-]{1,253})_([0-9A-Za-z-]{1,64})$`)
	containerDirectory = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	// The kubelet adds the time to the name of a log that it rotates. What it compresses it reads itself.
	logName = regexp.MustCompile(`^([0-9]{1,9})\.log(\.[0-9]{8}-[0-9]{6})?$`)
)

// componentsPod stands in the place of a pod for the node's components. No pod has this directory.
const componentsPod = "node"

// sourceOf returns the pod that a directory is of.
func sourceOf(pod string) (logs.Source, bool) {
	if pod == componentsPod {
		return logs.Source{}, true
	}
	parts := podDirectory.FindStringSubmatch(pod)
	if parts == nil {
		return logs.Source{}, false
	}
	return logs.Source{Namespace: parts[1], Pod: parts[2], FileID: logs.FileID{UID: parts[3]}}, true
}

// openDirectory opens a directory below dir. It follows no symbolic link.
func openDirectory(dir *os.File, name string) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// found is a file of a log in its directory.
type found struct {
	inodeInfo
	name    string
	restart int
	rotated string // when, as text that sorts; "" for the one that is being written
}

// readLogs returns the files of logs in a container's directory, for each restart in the order in which they were written. odd are
// names of what should not be there.
func readLogs(dir *os.File) (files []found, odd []string, err error) {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		parts := logName.FindStringSubmatch(name)
		if parts == nil {
			continue
		}
		info, err := statAt(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // renamed or deleted in between, so the directory will be read again
		}
		if err != nil {
			return nil, nil, err
		}
		if !info.regular {
			odd = append(odd, name)
			continue
		}
		restart, _ := strconv.Atoi(parts[1])
		files = append(files, found{inodeInfo: info, name: name, restart: restart, rotated: parts[2]})
	}
	slices.SortFunc(files, func(a, b found) int {
		if (a.rotated == "") != (b.rotated == "") { // the one that is being written is the last
			return cmp.Compare(len(b.rotated), len(a.rotated))
		}
		return cmp.Compare(a.rotated, b.rotated)
	})
	return files, odd, nil
}

func statAt(dir *os.File, name string) (inodeInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return inodeInfo{}, &os.PathError{Op: "fstatat", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return infoOf(&st), nil
}

// openRegular opens a file in a directory, unless it has more names than mostNames. It follows no symbolic link, and does not wait for a
// FIFO.
func openRegular(dir *os.File, name string, mostNames uint64) (*os.File, inodeInfo, error) {
	info, err := statAt(dir, name)
	if err != nil {
		return nil, inodeInfo{}, err
	}
	path := filepath.Join(dir.Name(), name)
	if !info.regular || info.names > mostNames { // opening a device may do something
		return nil, inodeInfo{}, &os.PathError{Op: "open", Path: path, Err: errNotOurs}
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, inodeInfo{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	if info, err = statFile(file); err == nil && !info.regular {
		err = &os.PathError{Op: "open", Path: path, Err: errNotOurs}
	}
	if err != nil {
		return nil, inodeInfo{}, errors.Join(err, file.Close())
	}
	return file, info, nil
}

func statFile(file *os.File) (inodeInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return inodeInfo{}, &os.PathError{Op: "fstat", Path: file.Name(), Err: err}
	}
	return infoOf(&st), nil
}
