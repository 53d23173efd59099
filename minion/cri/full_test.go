package cri

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/contrib/up/engine"
)

// tmpfs mounts a file system of so many bytes until the test ends.
func tmpfs(t *testing.T, dir, size string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o711))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // an Engine unmounts what lies below it
			t.Error(err)
		}
	})
}

// fill takes all that is left of a file system, and returns the function that gives it back.
func fill(t *testing.T, dir string) (giveBack func()) {
	t.Helper()
	path := filepath.Join(dir, "fill")
	f, err := os.Create(path)
	must(t, err)
	for block := make([]byte, 64<<10); err == nil && len(block) > 0; {
		if _, err = f.Write(block); errors.Is(err, unix.ENOSPC) {
			block, err = block[:len(block)/2], nil // to the last byte
		}
	}
	must(t, errors.Join(err, f.Close()))
	return func() { must(t, os.Remove(path)) }
}

// smallEngine is an Engine whose data root is a small file system.
func smallEngine(t *testing.T, size string) (e *engine.Engine, data string) {
	t.Helper()
	if testEngine == nil {
		t.Skip("a Docker Engine needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "f")
	must(t, err)
	data = filepath.Join(dir, "data")
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	tmpfs(t, data, size)
	e, err = engine.Start(t.Context(), engine.Config{Dir: dir})
	must(t, err)
	t.Cleanup(func() { must(t, e.Stop(context.Background())) })
	return e, data
}

// layers counts the containers' layers below an Engine's data root.
func layers(t *testing.T, data string) (count int) {
	t.Helper()
	must(t, filepath.WalkDir(filepath.Join(data, "image"), func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.Name() == "mount-id" {
			count++
		}
		return err
	}))
	return count
}

func TestFullDiskIsToldAndLeavesNothingHalfMade(t *testing.T) {
	small, data := smallEngine(t, "48m")
	docker, err := client.NewClientWithOpts(client.WithHost(small.Host()), client.WithAPIVersionNegotiation())
	must(t, err)
	defer docker.Close()
	archive, err := testArchive()
	must(t, err)
	must(t, loadArchive(t.Context(), docker, archive))

	n := newNode(t)
	n.restart(t, func(c *Config) { c.DockerHost = small.Host() })
	config, other := n.podConfig("full"), n.podConfig("other")
	config.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE // this Engine has no pod network
	other.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	pod := n.runPod(t, config)
	hostNetwork := func(c *runtimeapi.ContainerConfig) *runtimeapi.ContainerConfig {
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		return c
	}
	made := n.runContainer(t, pod, config, hostNetwork(shell("runs", "sleep 1000")))
	list, err := docker.ContainerList(t.Context(), container.ListOptions{All: true})
	must(t, err)
	before := layers(t, data)

	giveBack := fill(t, data)
	r := newRegistry(t)
	for name, call := range map[string]func() error{
		"RunPodSandbox": func() error {
			_, err := n.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: other})
			return err
		},
		"CreateContainer": func() error {
			_, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
				PodSandboxId: pod, Config: hostNetwork(shell("new", "sleep 1000")), SandboxConfig: config})
			return err
		},
		"PullImage": func() error { return n.pull(t, r.image(), nil) },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("%s on a full disk returned %v", name, err)
		}
	}
	if now, err := docker.ContainerList(t.Context(), container.ListOptions{All: true}); err != nil || len(now) != len(list) {
		t.Errorf("%d containers before, %d after what failed: %v", len(list), len(now), err)
	}
	if after := layers(t, data); after != before {
		t.Errorf("%d layers of containers before, %d after what failed", before, after)
	}
	if files, _ := filepath.Glob(filepath.Join(n.root, "pods", "*")); len(files) != 1 {
		t.Errorf("files of pods: %v; want those of the one that runs", files)
	}
	if got := n.status(t, made).State; got != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("what ran before is %s", got)
	}

	giveBack()
	n.runPod(t, other)
	n.runContainer(t, pod, config, hostNetwork(shell("new", "sleep 1000")))
	must(t, n.pull(t, r.image(), nil))
}
