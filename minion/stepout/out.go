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

// Obstacle says why a minion cannot run in the machine, or could not do there what it is for.
type Obstacle struct {
	Problem string
	Remedy  string // what the operator of the Mesos agent can do
}

// Error is the problem with its remedy.
func (o *Obstacle) Error() string { return o.Problem + ": " + o.Remedy }

// Config is what a minion knows when it starts.
type Config struct {
	// DockerHost is the Docker Engine's address.
	DockerHost string
	// Container is the id of the Mesos container, and Sandbox its directory.
	Container, Sandbox string
	// Outside says that a keeper waits for this minion: it has left the container's PID namespace already.
	Outside bool
}

// Out returns nil in a process that runs in the machine. In one that does not it returns only if it cannot do so, with an
// *Obstacle where there is something to do about it: otherwise this process is either executed anew in the machine, or
// becomes the keeper of one that is. It has to be called before anything of the minion is started.
func Out(ctx context.Context, cfg Config) error {
	engine, err := engineProcess(cfg.DockerHost)
	unseen := err == nil && engine == 0
	if err != nil {
		engine = 0
		logrus.WithError(err).Debug("taking process 1 for the machine's: the Docker Engine does not answer yet")
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

// enterMounts executes this program again in the mount namespace of the process, unless it is in there.
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
		Remedy: "let executors of the agent run as root with all capabilities (no linux/capabilities in its --isolation), and if the agent runs in a container itself, " +
			"give that --privileged, --pid=host and the agent's --work_dir at the path that it has on the machine; or start the agent without filesystem/linux in its --isolation",
	}
}

// execIn executes this program again in a mount namespace. It returns only with an error, and then in the namespace where it was.
func (cfg Config) execIn(namespace string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: it may have changed its namespace
		done <- func() error {
			if err := enterMountNamespace(namespace, cfg.Sandbox, cfg.Sandbox); err != nil {
				return err
			}
			// What is executed has the namespaces of the thread that asked for it.
			return unix.Exec("/proc/self/exe", os.Args, os.Environ())
		}()
	}()
	return <-done
}

// enterMountNamespace has the calling thread, which has to be locked and is of no use afterwards, enter a mount namespace in
// which dir is what here is in this one, and go there.
func enterMountNamespace(namespace, here, dir string) error {
	var before, after unix.Stat_t
	if err := unix.Stat(here, &before); err != nil {
		return fmt.Errorf("cannot look at the sandbox %s: %w", here, err)
	}
	target, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", namespace, err)
	}
	defer unix.Close(target)
	// Threads share their working directory, and one that does may enter no mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot prepare a thread: %w", err)
	}
	if err := unix.Setns(target, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot enter %s: %w", namespace, err)
	}
	if err := unix.Stat(dir, &after); err != nil || before.Dev != after.Dev || before.Ino != after.Ino {
		return fmt.Errorf("the sandbox %s is another directory on the machine, or none", dir)
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

// engineProcess is the process that listens on the Docker Engine's socket, 0 if this PID namespace does not have it. The kernel
// tells that of every Unix socket (unix(7), SO_PEERCRED).
func engineProcess(host string) (pid int, err error) {
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return 0, errors.New("the Engine listens on no Unix socket")
	}
	connection, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	return peer(connection.(*net.UnixConn))
}

// peer is the process at the other end of a connection, by its PID here; 0 if it has none.
func peer(connection *net.UnixConn) (pid int, err error) {
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0, err
	}
	var who *unix.Ucred
	failed := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(failed, err); err != nil {
		return 0, fmt.Errorf("cannot tell who is at the other end of a socket: %w", err)
	}
	return int(who.Pid), nil
}

// parentMounts is the mount namespace of the process that started this one.
func parentMounts() string { return filepath.Join("/proc", strconv.Itoa(os.Getppid()), "ns", "mnt") }
