package localmesos

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// namespaces are a container's own namespaces.
func (i isolators) namespaces() (flags uintptr) {
	if i.mount != "" {
		flags |= syscall.CLONE_NEWNS
	}
	if i.pids {
		flags |= syscall.CLONE_NEWPID
	}
	return flags
}

// script returns the shell script that runs before the container's command, as src/slave/containerizer/mesos/launch.cpp in Mesos.
// It joins the cgroups before starting anything, makes mounts private, and mounts /proc of its PID namespace. There the shell stays
// as PID 1 and reaps orphans; when it ends, the kernel kills the rest of the namespace. Without isolators it is empty.
func (i isolators) script(join bool) string {
	if !join && i.mount == "" {
		return ""
	}
	steps := []string{`while [ "$1" != -- ]; do echo $$ >"$1" || exit 1; shift; done`, `shift`}
	if i.mount != "" {
		steps = append(steps, i.mount+` --make-rslave / || exit 1`)
	}
	if !i.pids {
		return strings.Join(append(steps, `exec "$@"`), "\n")
	}
	return strings.Join(append(steps, i.mount+` -t proc -o nosuid,nodev,noexec proc /proc || exit 1`, `"$@"`, `exit $?`), "\n")
}

// status returns the wait status of a container's command. PID 1 cannot die of the signal that killed its command; the shell exits
// with 128 plus the signal instead.
func (i isolators) status(w syscall.WaitStatus) int32 {
	if i.pids && w.Exited() && w.ExitStatus() > 128 {
		return int32(w.ExitStatus() - 128)
	}
	return int32(w)
}

// shareWorkDir makes an agent's work directory a shared mount, unless it is in one, so that later mounts and unmounts in it
// propagate to containers (ensureSharedMount in src/slave/containerizer/mesos/isolators/filesystem/linux.cpp). Files can then not be
// linked or renamed across its border.
func (i isolators) shareWorkDir(dir string) error {
	if i.mount == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path, err := realPath(dir)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != "/" && !strings.HasPrefix(path+"/", m.Mountpoint+"/"), false
	})
	if err != nil || len(mounts) == 0 {
		return fmt.Errorf("cannot find the mount of %s: %w", path, cmp.Or(err, os.ErrNotExist))
	}
	mount := mounts[0]
	for _, m := range mounts { // the last mount on the longest path is the visible one
		if len(m.Mountpoint) >= len(mount.Mountpoint) {
			mount = m
		}
	}
	group := peers(mount)
	if group != "" && !slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m.ID != mount.ID && peers(m) == group }) {
		return nil
	}
	if mount.Mountpoint != path {
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot make %s a mount: %w", path, err)
		}
	}
	for _, propagation := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", path, "", propagation, ""); err != nil {
			return fmt.Errorf("cannot make the mount %s shared: %w", path, err)
		}
	}
	return nil
}

// peers returns the peer group of a mount; "" if it is not shared.
func peers(m *mountinfo.Info) string {
	for _, field := range strings.Fields(m.Optional) {
		if group, shared := strings.CutPrefix(field, "shared:"); shared {
			return group
		}
	}
	return ""
}

// unshareWorkDir unmounts what shareWorkDir mounted. Mesos keeps it.
func unshareWorkDir(dir string) {
	path, err := realPath(dir)
	if err != nil {
		return
	}
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil || len(mounts) == 0 || mounts[0].Root == "/" { // the root of a file system: the operator mounted it
		return
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		log.WithError(err).WithField("dir", path).Error("cannot unmount an agent's work directory")
	}
}

func realPath(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}
