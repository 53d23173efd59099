package stepout

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Obstacle says why a minion cannot run in the machine, or could not work there.
type Obstacle struct {
	Problem string
	Remedy  string // what the operator of the Mesos agent can do
}

// Error returns the problem and its remedy.
func (o *Obstacle) Error() string { return o.Problem + ": " + o.Remedy }

// Config is what a minion knows at its start.
type Config struct {
	// DockerHost is the Docker Engine's address.
	DockerHost string
	// DockerCertPath is a directory with the certificates for a "tcp://" Engine; see cri.Connect.
	DockerCertPath string
	// Container is the id of the Mesos container, and Sandbox its directory.
	Container, Sandbox string
	// Outside says that a keeper waits for this minion: it has left the container's PID namespace already.
	Outside bool
}

// Out returns nil in a process that runs in the machine. Elsewhere it does not return: the process is executed again in the machine,
// or becomes the keeper of one that is. It returns an error if both fail, an *Obstacle if the operator can do something about it.
// Call it before the minion starts anything.
func Out(ctx context.Context, cfg Config) error {
	engine, err := engineProcess(cfg.DockerHost)
	unseen := err == nil && engine == 0
	if err != nil {
		engine = 0
		logrus.WithError(err).Debug("Docker Engine does not answer yet: using the namespaces of process 1")
	}
	first, err := cgroupsOf(1)
	if err != nil {
		return err
	}
	if foreign := unseen || inContainer(first, cfg.Container); foreign && !cfg.Outside {
		return cfg.leavePIDs(ctx)
	}
	if err := cfg.enterMounts(max(1, engine)); err != nil {
		return err
	}
	if err := leaveDevices(cfg.Container); err != nil {
		logrus.WithError(err).Warn("cannot leave the devices cgroup of the Mesos container")
	}
	return checkKmsg("/dev/kmsg")
}

// enterMounts executes this program again in the mount namespace of the process, unless it is there already.
func (cfg Config) enterMounts(process int) error {
	namespace := fmt.Sprintf("/proc/%d/ns/mnt", process)
	same, err := sameFile(namespace, "/proc/self/ns/mnt")
	if err == nil && same {
		return nil
	}
	if err == nil {
		err = cfg.execIn(namespace)
	}
	return &Obstacle{
		Problem: fmt.Sprintf("cannot leave the mount namespace of the Mesos container: %s", err),
		Remedy: "run the agent's executors as root with all capabilities (no linux/capabilities in its --isolation); if the agent itself runs in a container, " +
			"run that with --privileged, --pid=host and the agent's --work_dir mounted at the same path as on the machine; or start the agent without filesystem/linux in its --isolation",
	}
}

// execIn executes this program again in a mount namespace. If it returns, the process is where it was.
func (cfg Config) execIn(namespace string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: its namespace may have changed
		done <- func() error {
			if err := enterMountNamespace(namespace, cfg.Sandbox, cfg.Sandbox); err != nil {
				return err
			}
			// exec keeps the namespaces of the calling thread.
			return unix.Exec("/proc/self/exe", os.Args, os.Environ())
		}()
	}()
	return <-done
}

// enterMountNamespace moves the calling thread to a mount namespace in which dir is the same directory as here in this one, and
// makes dir its working directory. The thread must be locked, and cannot be used for anything else afterwards.
func enterMountNamespace(namespace, here, dir string) error {
	var before, after unix.Stat_t
	if err := unix.Stat(here, &before); err != nil {
		return fmt.Errorf("cannot stat the sandbox %s: %w", here, err)
	}
	target, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", namespace, err)
	}
	defer unix.Close(target)
	// A thread that shares its working directory with others may not enter a mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot unshare a thread's working directory: %w", err)
	}
	if err := unix.Setns(target, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot enter %s: %w", namespace, err)
	}
	if err := unix.Stat(dir, &after); err != nil || before.Dev != after.Dev || before.Ino != after.Ino {
		return fmt.Errorf("the sandbox %s does not exist on the machine, or is another directory", dir)
	}
	return unix.Chdir(dir)
}

func sameFile(a, b string) (bool, error) {
	first, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second), err
}

// engineProcess returns the process that listens on Docker Engine's socket, or 0 if it is not in this PID namespace. The kernel
// knows the process of every Unix socket (unix(7), SO_PEERCRED).
func engineProcess(host string) (pid int, err error) {
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return 0, errors.New("the Docker Engine does not listen on a Unix socket")
	}
	connection, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	return peer(connection.(*net.UnixConn))
}

// peer returns the process at the other end of a connection, by its PID here; 0 if it has none.
func peer(connection *net.UnixConn) (pid int, err error) {
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0, err
	}
	var who *unix.Ucred
	failed := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(failed, err); err != nil {
		return 0, fmt.Errorf("cannot get the process at the other end of a socket: %w", err)
	}
	return int(who.Pid), nil
}

// parentMounts is the mount namespace of the parent process.
func parentMounts() string { return filepath.Join("/proc", strconv.Itoa(os.Getppid()), "ns", "mnt") }
