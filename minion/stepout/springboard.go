package stepout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/embedded"
	"github.com/k8sm/k8sm/minion/keeper"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// Command is the km command in the container that the Engine starts; see Board.
	Command = "step-out"
	// Label is on each such container. Its value is the Mesos container's id.
	Label = "io.k8sm.step-out"
	// engineLimit bounds the wait for the Engine. It is shorter than the agent's --executor_registration_timeout of one minute,
	// after which the agent kills the executor.
	engineLimit = 20 * time.Second
	// startLimit bounds the start of a minion after the Engine accepted the request.
	startLimit = 20 * time.Second
	// socketName is the file in the sandbox at which the minion finds its keeper.
	socketName = "keeper.sock"
	inside     = "/sandbox" // path of the sandbox in the container
)

// passage is what the minion gets from this process. Its files are sent with it: see passedFiles.
type passage struct {
	Args, Env           []string
	Dir, Exe, Container string
}

// Indices of the passed files.
const (
	fileStdout = iota
	fileStderr
	fileNetwork
	passedFiles
)

// leavePIDs makes the Engine start the minion in the machine's PID namespace, and becomes its keeper.
func (cfg Config) leavePIDs(ctx context.Context) error {
	err := cfg.becomeKeeper(ctx)
	return &Obstacle{
		Problem: fmt.Sprintf("cannot leave the PID namespace of the Mesos container, which Docker Engine does not share: %s", err),
		Remedy: "start the Mesos agent without namespaces/pid in its --isolation; if the agent itself runs in a container, run that with --pid=host and " +
			"the agent's --work_dir mounted at the same path as on the machine",
	}
}

// becomeKeeper returns only with an error. The minion that was started ends then, if it was.
func (cfg Config) becomeKeeper(ctx context.Context) error {
	program, err := embedded.Keeper(cfg.Sandbox) // before there is a minion that needs it
	if err != nil {
		return err
	}
	defer program.Close()
	connection, err := cfg.startOutside(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	file, err := connection.File()
	if err != nil {
		return err
	}
	defer file.Close()
	return keeper.Become(program.Path(), file)
}

// startOutside starts the minion outside the container, and returns the connection to it.
func (cfg Config) startOutside(ctx context.Context) (*net.UnixConn, error) {
	docker, err := cri.Connect(cfg.DockerHost, cfg.DockerCertPath)
	if err != nil {
		return nil, err
	}
	defer docker.Close()
	waiting, cancel := context.WithTimeout(ctx, engineLimit)
	defer cancel()
	var last error
	if err := supervise.UntilDone(waiting, "cannot start the minion outside its container: Docker Engine does not answer", func(ctx context.Context) error {
		_, last = docker.Ping(ctx)
		return last
	}); err != nil {
		return nil, fmt.Errorf("cannot reach Docker Engine at %s: %w", cfg.DockerHost, errors.Join(last, err))
	}
	path := filepath.Join(cfg.Sandbox, socketName)
	listener, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("cannot wait for the minion: %w", err)
	}
	defer listener.Close()
	starting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	gone, err := cfg.runContainer(starting, docker)
	if err != nil {
		return nil, err
	}
	return cfg.handOver(starting, listener, gone)
}

// listen creates the socket, for root only. It uses a relative path, because the absolute path may be too long for a socket.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.Chdir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	before := unix.Umask(0o077)
	defer unix.Umask(before)
	return net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Base(path), Net: "unixpacket"})
}

// runContainer starts the container from which the minion starts. ended receives the result when the container exits.
func (cfg Config) runContainer(ctx context.Context, docker *client.Client) (ended <-chan error, err error) {
	if err := removeLeft(ctx, docker); err != nil {
		logrus.WithError(err).Warn("cannot remove a container that started an earlier minion")
	}
	image, err := cri.EmbeddedImage(ctx, docker)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	host := hostConfig(program, cfg.Sandbox)
	if err := cri.Privilege(host); err != nil {
		return nil, err
	}
	made, err := docker.ContainerCreate(ctx, cfg.containerConfig(image), host, nil, nil, "")
	if err != nil {
		return nil, fmt.Errorf("cannot create a container in the machine's namespaces: %w", err)
	}
	done, failed := docker.ContainerWait(context.WithoutCancel(ctx), made.ID, container.WaitConditionRemoved)
	if err := docker.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		removed := docker.ContainerRemove(context.WithoutCancel(ctx), made.ID, container.RemoveOptions{Force: true})
		return nil, errors.Join(fmt.Errorf("cannot start a container in the machine's namespaces: %w", err), removed)
	}
	result := make(chan error, 1)
	go func() {
		select {
		case r := <-done:
			result <- fmt.Errorf("the container that starts the minion exited with status %d", r.StatusCode)
		case err := <-failed:
			result <- err
		}
	}()
	return result, nil
}

func (cfg Config) containerConfig(image string) *container.Config {
	return &container.Config{
		Image: image, User: "0:0", Entrypoint: []string{"/km", Command, filepath.Join(inside, socketName)},
		Labels: map[string]string{Label: cfg.Container},
	}
}

// hostConfig configures a container in the machine's namespaces.
func hostConfig(program, sandbox string) *container.HostConfig {
	noInit := false // the parent of the started process must belong to the Engine
	return &container.HostConfig{
		Init:    &noInit,
		PidMode: "host", IpcMode: "host", UTSMode: "host", NetworkMode: "host", UsernsMode: "host", CgroupnsMode: container.CgroupnsModeHost,
		AutoRemove: true, ReadonlyRootfs: true,
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: program, Target: "/km", ReadOnly: true},
			{Type: mount.TypeBind, Source: sandbox, Target: inside},
		},
		LogConfig: container.LogConfig{Type: "none"},
	}
}

// removeLeft removes such containers that an Engine left when it died. It leaves those that run or are about to: they are others'.
func removeLeft(ctx context.Context, docker *client.Client) error {
	list, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(
		filters.Arg("label", Label), filters.Arg("status", "exited"), filters.Arg("status", "dead"))})
	for _, c := range list {
		err = errors.Join(err, docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true}))
	}
	return err
}

// handOver sends the process that connects to the socket what it needs, and waits until the minion has the connection.
func (cfg Config) handOver(ctx context.Context, listener *net.UnixListener, gone <-chan error) (*net.UnixConn, error) {
	type arrival struct {
		connection *net.UnixConn
		err        error
	}
	arrived := make(chan arrival, 1)
	go func() {
		connection, err := listener.AcceptUnix()
		arrived <- arrival{connection, err}
	}()
	var a arrival
	select {
	case a = <-arrived:
	case err := <-gone:
		return nil, err
	case <-ctx.Done():
		return nil, fmt.Errorf("the minion did not start within %s", startLimit)
	}
	if a.err != nil {
		return nil, a.err
	}
	err := cfg.send(a.connection)
	if err == nil {
		err = keeper.Await(a.connection, startLimit)
	}
	if err != nil {
		return nil, errors.Join(err, a.connection.Close())
	}
	return a.connection, nil
}

// send sends this process's passage. The environment contains the executor's secret and goes no other way.
func (cfg Config) send(connection *net.UnixConn) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(passage{Args: os.Args, Env: os.Environ(), Dir: cfg.Sandbox, Exe: program, Container: cfg.Container})
	if err != nil {
		return err
	}
	network, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer network.Close()
	files := make([]int, passedFiles)
	files[fileStdout], files[fileStderr], files[fileNetwork] = int(os.Stdout.Fd()), int(os.Stderr.Fd()), int(network.Fd())
	if _, _, err := connection.WriteMsgUnix(text, unix.UnixRights(files...), nil); err != nil {
		return fmt.Errorf("cannot hand the minion over: %w", err)
	}
	return nil
}
