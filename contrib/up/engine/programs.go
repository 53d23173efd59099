package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/client"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func (e *Engine) path(name string) string  { return filepath.Join(e.dir, name) }
func (e *Engine) containerdSocket() string { return e.path("c.sock") }
func (e *Engine) dockerSocket() string     { return e.path(socketName) }

// containerdProcess describes containerd: no CRI of its own, because ours is minion/cri.
func (e *Engine) containerdProcess() (*process, error) {
	program, err := find("containerd")
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		e.path("containerd"), e.path("run"), e.containerdSocket())
	if err := os.WriteFile(e.path("containerd.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	return &process{
		name:    "containerd",
		dir:     e.dir,
		command: []string{program, "--config", e.path("containerd.toml")},
		ready: func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", e.containerdSocket())
			if err != nil {
				return err
			}
			return conn.Close()
		},
	}, nil
}

// dockerdProcess describes dockerd (https://docs.docker.com/reference/cli/dockerd/). Its settings are in a file of its own, because
// dockerd would otherwise read the machine's /etc/docker/daemon.json.
func (e *Engine) dockerdProcess(settings map[string]any) (*process, error) {
	program, err := find("dockerd")
	if err != nil {
		return nil, err
	}
	all := map[string]any{
		"bridge":       "none",
		"containerd":   e.containerdSocket(),
		"data-root":    e.path("data"),
		"exec-root":    e.path("exec"),
		"hosts":        []string{e.Host()},
		"ip6tables":    false,
		"iptables":     false,
		"live-restore": true,
		"pidfile":      e.path("d.pid"),
	}
	maps.Copy(all, settings)
	config, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(e.path("dockerd.json"), append(config, '\n'), 0o600); err != nil {
		return nil, err
	}
	return &process{
		name:       "dockerd",
		dir:        e.dir,
		command:    []string{program, "--config-file", e.path("dockerd.json")},
		ready:      e.ping,
		ownPIDFile: e.path("d.pid"),
	}, nil
}

func (e *Engine) ping(ctx context.Context) error {
	c, err := client.NewClientWithOpts(client.WithHost(e.Host()))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Ping(ctx)
	return err
}

// searchPath is where the Engine's programs are searched, also by each other: root's PATH often lacks the sbin folders, where Debian
// installs dockerd and runc.
func searchPath() []string {
	return append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin")
}

func find(program string) (string, error) {
	for _, dir := range searchPath() {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: install Docker Engine 20.10 or later (Debian: apt-get install docker.io)", program)
}

// unmount removes the mounts that dockerd leaves behind: its data root's bind mount and the network namespaces.
func (e *Engine) unmount() error {
	targets, err := mountsBelow(e.dir)
	if err != nil {
		return err
	}
	var problems []error
	for _, target := range targets {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			problems = append(problems, fmt.Errorf("cannot unmount %s: %w", target, err))
		}
	}
	return errors.Join(problems...)
}

// mountsBelow returns the mount points below dir, innermost first.
func mountsBelow(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(below(dir))
	if err != nil {
		return nil, fmt.Errorf("cannot list the mounts below %s: %w", dir, err)
	}
	return innermostFirst(mounts), nil
}

// below keeps only mounts below dir. A mount of dir itself is the operator's.
func below(dir string) mountinfo.FilterFunc {
	return func(m *mountinfo.Info) (skip, stop bool) { return !strings.HasPrefix(m.Mountpoint, dir+"/"), false }
}

func innermostFirst(mounts []*mountinfo.Info) []string {
	var targets []string
	for _, m := range mounts {
		targets = append(targets, m.Mountpoint)
	}
	slices.Sort(targets)
	slices.Reverse(targets)
	return targets
}
