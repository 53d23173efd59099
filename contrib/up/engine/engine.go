// Package engine starts a private Docker Engine: containerd and dockerd with all their state below one directory, for a cluster on a
// laptop (`km up`) and for tests. It knows the programs' flags and life cycle, but not what runs in the Engine, and it imports
// nothing of k8sm.
//
// The Engine belongs to its directory, not to the process that started it: it survives when that process is killed, together with
// its containers, and Start adopts it again. It creates no bridge and no iptables rules, because minion/network does that.
//
// Start reading at Start.
package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/gofrs/flock"
)

// maxSocketPath is the longest path that fits into sockaddr_un with its closing zero (unix(7)).
const maxSocketPath = 107

// startTimeout bounds the wait for the API: the first start initializes the data root, which takes seconds on a slow disk.
const startTimeout = 60 * time.Second

// Config configures an Engine.
type Config struct {
	// Dir has all files of the Engine: data, sockets, pid files and logs. It is created if missing. Its absolute path must be short,
	// because paths of Unix sockets are limited to 107 bytes.
	Dir string
	// Settings extend and override the Engine's own; the names are those of dockerd's configuration file
	// (https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file).
	Settings map[string]any
	// Enter calls do in the network namespace for the Engine; nil means this process's own.
	Enter func(do func() error) error
}

// Engine is a running Docker Engine. Its methods may be called by one goroutine at a time.
type Engine struct {
	dir        string
	containerd *process
	dockerd    *process
}

// Start returns the Engine of cfg.Dir, running or new, when its API answers. If that fails, Start stops what it started itself.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	e, err := newEngine(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot start a Docker Engine: %w", err)
	}
	unlock, err := lock(filepath.Join(e.dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("cannot start a Docker Engine in %s: %w", e.dir, err)
	}
	defer func() { _ = unlock() }()

	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, p := range []*process{e.containerd, e.dockerd} {
		if err = p.ensure(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot start a Docker Engine in %s: %w", e.dir, err), e.abandon())
		}
	}
	return e, nil
}

const (
	// lookInterval is the time between two looks at whether the programs run, and the shortest pause after a failed start.
	lookInterval = 500 * time.Millisecond
	// longestPause is the longest one.
	longestPause = 30 * time.Second
)

// Keep starts a program of the Engine again when it has ended by itself or was killed, until ctx ends. Containers run on meanwhile. It
// tells each time in a line, and why an attempt failed; it tries again with growing pauses.
func (e *Engine) Keep(ctx context.Context, tell func(string)) {
	pause := lookInterval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		switch started, err := e.restart(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = min(2*pause, longestPause)
			tell(fmt.Sprintf("cannot start the Docker Engine in %s again: %v; trying again in %s", e.dir, err, pause))
		default:
			pause = lookInterval
			for _, name := range started {
				tell(fmt.Sprintf("%s of the Docker Engine in %s had ended, and was started again", name, e.dir))
			}
		}
	}
}

// restart starts the programs that do not run, and returns their names.
func (e *Engine) restart(ctx context.Context) (started []string, err error) {
	if e.containerd.pid() != 0 && e.dockerd.pid() != 0 {
		return nil, nil
	}
	unlock, err := lock(filepath.Join(e.dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = unlock() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, p := range []*process{e.containerd, e.dockerd} {
		if p.pid() != 0 {
			continue
		}
		if err := p.ensure(ctx); err != nil {
			return started, err
		}
		started = append(started, p.name)
	}
	return started, nil
}

// newEngine prepares the directory and the configuration of both programs, and starts nothing.
func newEngine(cfg Config) (*Engine, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	e := &Engine{dir: dir}
	// containerd listens on a second socket beside its own; it is the longest name below dir.
	if longest := e.containerdSocket() + ".ttrpc"; len(longest) > maxSocketPath {
		return nil, fmt.Errorf("the directory %s is too long: the socket %s has %d bytes and Unix allows %d",
			dir, longest, len(longest), maxSocketPath)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	if e.containerd, err = e.containerdProcess(); err != nil {
		return nil, err
	}
	if e.dockerd, err = e.dockerdProcess(cfg.Settings); err != nil {
		return nil, err
	}
	e.containerd.enter, e.dockerd.enter = cfg.Enter, cfg.Enter
	return e, nil
}

// Host is the Engine's address, as DOCKER_HOST takes it.
func (e *Engine) Host() string { return Host(e.dir) }

// socketName is the file on which dockerd listens.
const socketName = "d.sock"

// Host is the address of the Engine of a directory, also before it runs. The path is absolute.
func Host(dir string) string { return "unix://" + filepath.Join(dir, socketName) }

// Stop stops the Engine and unmounts its mounts, so that its directory can be removed; data and logs stay. It does not stop
// containers: while some are running it returns an error with their number, because without an Engine no one could reach them.
func (e *Engine) Stop(ctx context.Context) error {
	unlock, err := lock(filepath.Join(e.dir, "lock"))
	if err != nil {
		return fmt.Errorf("cannot stop the Docker Engine in %s: %w", e.dir, err)
	}
	defer func() { _ = unlock() }()

	running, err := e.running(ctx)
	if err == nil && running > 0 {
		return fmt.Errorf("cannot stop the Docker Engine in %s: %d of its containers still run", e.dir, running)
	}
	// Stop an Engine that does not answer, too.
	for _, p := range []*process{e.dockerd, e.containerd} {
		if err := p.stop(ctx); err != nil {
			return fmt.Errorf("cannot stop the Docker Engine in %s: %w", e.dir, err)
		}
	}
	return e.unmount()
}

// running counts the running containers.
func (e *Engine) running(ctx context.Context) (int, error) {
	c, err := client.NewClientWithOpts(client.WithHost(e.Host()), client.WithAPIVersionNegotiation())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := c.ContainerList(ctx, container.ListOptions{})
	return len(list), err
}

// abandon stops what this Engine's Start started, and nothing that it found running.
func (e *Engine) abandon() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var problems []error
	for _, p := range []*process{e.dockerd, e.containerd} {
		if p.adopted {
			continue
		}
		problems = append(problems, p.stop(ctx))
	}
	return errors.Join(problems...)
}

// lock takes the directory's lock, so that two programs never start two Engines in one place.
func lock(path string) (unlock func() error, err error) {
	file := flock.New(path)
	held, err := file.TryLock()
	if err == nil && !held {
		err = errors.New("another process is starting or stopping it")
	}
	if err != nil {
		return nil, fmt.Errorf("%w (lock %s)", err, path)
	}
	return file.Close, nil
}
