// Package embedded holds the small programs that km starts on a node: the warden, the keeper and nft. The first two run as long as the
// minion, and would take tens of megabytes of memory if they were km itself; nft is started several times for each change of a
// service. make builds them from the folders program of their packages. `go build` works without them, but km then fails when it needs
// one.
//
// It writes a program to a file in a directory, or to memory if that file system is mounted noexec. Packages warden, keeper and nft
// have the programs' code, and must not import this one.
package embedded

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// programs always contains a file, so that `go build` works.
//
//go:embed all:programs
var programs embed.FS

// Program is an executable file on this machine. The caller closes it after starting the program.
type Program struct {
	path string
	file *os.File
}

// Path is the path to execute. It is valid until Close, in this process and its children.
func (p *Program) Path() string { return p.path }

// Close closes the file. A started program keeps running.
func (p *Program) Close() error { return p.file.Close() }

// Warden writes the program of package warden to the directory. Only one process at a time may call it for a directory.
func Warden(dir string) (*Program, error) { return carried("warden", dir) }

// Keeper writes the program of package keeper to the directory. Only one process at a time may call it for a directory.
func Keeper(dir string) (*Program, error) { return carried("keeper", dir) }

// NFT writes the program of package nft to the directory, in which its name is nft, so that the directory can stand in a PATH. Only one
// process at a time may call it for a directory.
func NFT(dir string) (*Program, error) {
	p, err := carried("nft", dir)
	if err != nil {
		return nil, err
	}
	if err := p.nameIn(dir, "nft"); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// nameIn links a program that is in memory into the directory.
func (p *Program) nameIn(dir, name string) error {
	path := filepath.Join(dir, name)
	if p.path == path {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by an earlier process
		return err
	}
	return os.Symlink(p.path, path)
}

func carried(name, dir string) (*Program, error) {
	data, err := programs.ReadFile("programs/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("km was built without the %s program: build it with make", name)
	}
	if err != nil {
		return nil, err
	}
	return place(name, dir, data)
}

// place writes a program to the directory or to memory, unless the directory has it already.
func place(name, dir string, data []byte) (*Program, error) {
	noexec, err := isNoexec(dir)
	if err != nil {
		return nil, err
	}
	if noexec {
		p, err := inMemory(name, data)
		if err != nil {
			return nil, fmt.Errorf("cannot run the %s from %s, whose file system is mounted noexec, nor from memory: %w: mount it without noexec", name, dir, err)
		}
		return p, nil
	}
	path := filepath.Join(dir, name)
	if file, err := verified(path, data); err == nil {
		return &Program{path: path, file: file}, nil
	}
	if err := write(path, data); err != nil {
		return nil, fmt.Errorf("cannot write the %s: %w", name, err)
	}
	file, err := verified(path, data)
	if err != nil {
		return nil, fmt.Errorf("cannot use the %s just written: %w", name, err)
	}
	return &Program{path: path, file: file}, nil
}

func isNoexec(dir string) (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return false, fmt.Errorf("cannot find out whether %s is mounted noexec: %w", dir, err)
	}
	const noexec = 0x8 // ST_NOEXEC of statfs(2)
	return stat.Flags&noexec != 0, nil
}

// verified opens the file if it has this content and only this user can change it.
func verified(path string, data []byte) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := verify(file, data); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func verify(file *os.File, data []byte) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Mode() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) || info.Size() != int64(len(data)) {
		return fmt.Errorf("%s is not this program", file.Name())
	}
	there, err := io.ReadAll(file)
	if err == nil && !bytes.Equal(there, data) {
		err = fmt.Errorf("%s is not this program", file.Name())
	}
	return err
}

// write replaces the file atomically, and safely if the machine loses power. A running program keeps the old file.
func write(path string, data []byte) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a killed process
		return err
	}
	if err := writeSynced(fresh, data); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return os.Rename(fresh, path)
}

// writeSynced holds ForkLock: a child forked meanwhile would have the file open for writing for a moment, and executing the file
// would fail with ETXTBSY.
func writeSynced(path string, data []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Chmod(0o700), file.Sync(), file.Close()) // Chmod, because Open applies the umask
}

// inMemory writes the program to an anonymous file (memfd_create(2)).
func inMemory(name string, data []byte) (*Program, error) {
	syscall.ForkLock.RLock() // as in writeSynced
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, without MFD_EXEC
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, err
	}
	written := os.NewFile(uintptr(fd), name)
	defer written.Close()
	if _, err := written.Write(data); err != nil {
		return nil, err
	}
	if err := written.Chmod(0o500); err != nil {
		return nil, err
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd)) // a file open for writing cannot be executed
	if err != nil {
		return nil, err
	}
	return &Program{path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), file: file}, nil
}
