package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/client"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/images"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/contrib/up/machines"
)

// startEngine starts the Docker Engine. If a previous run was killed, it first takes over and stops its cluster.
func (h *harness) startEngine(ctx context.Context) error {
	unlock, err := statedir.Dir("/run/k8sm").Lock("up")
	if err != nil {
		return fmt.Errorf("a cluster runs on this machine; stop it first: %w", err)
	}
	if err := unlock(); err != nil {
		return err
	}
	_, err = os.Stat(h.dir)
	left := err == nil
	h.undo.Add(h.removeEngine)
	if err := h.openEngine(ctx); err != nil {
		return err
	}
	if !left {
		return nil
	}
	fmt.Println("  ending what an earlier run left")
	if h.resources, err = h.agentResources(); err != nil {
		return err
	}
	nodes := 1
	if left, err := machines.Left(h.state()); err != nil {
		return err
	} else if left != nil {
		nodes = len(left.List)
	}
	cluster, err := scratch.Start(ctx, h.clusterConfig(nodes, nil))
	return errors.Join(err, cluster.Stop(ctx), os.RemoveAll(h.state()))
}

func (h *harness) openEngine(ctx context.Context) (err error) {
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	if h.engine, err = engine.Start(ctx, engine.Config{Dir: h.path("e")}); err != nil {
		return err
	}
	h.docker, err = client.NewClientWithOpts(client.WithHost(h.engine.Host()), client.WithAPIVersionNegotiation())
	return err
}

// removeEngine stops the Engine and removes its files. If it cannot stop the Engine, the files stay.
func (h *harness) removeEngine(ctx context.Context) error {
	if h.engine == nil {
		return nil
	}
	if h.docker != nil {
		defer h.docker.Close()
	}
	if err := h.engine.Stop(ctx); err != nil {
		return err
	}
	return os.RemoveAll(h.dir)
}

// state is the cluster's state directory. Its path is short because it contains Unix sockets.
func (h *harness) state() string { return h.path("k") }

func (h *harness) clusterConfig(nodes int, log *os.File) scratch.Config {
	flags := []string{"--resources=" + h.resources, "--warm-nodes=all"}
	if nodes == 1 {
		flags = append(flags, "--docker-host="+h.engine.Host())
	} else { // each has an Engine of its own
		flags = append(flags, "--nodes="+strconv.Itoa(nodes))
	}
	cfg := scratch.Config{KM: h.km, Dir: h.state(), Flags: flags}
	if log != nil {
		cfg.Out = log
	}
	return cfg
}

// casePorts are host ports that cases request, which are not in an agent's default range.
const casePorts = "54000-54999"

// agentResources is what a local Mesos gives each agent, and the cases' ports. Each of several nodes has its part.
func (h *harness) agentResources() (string, error) {
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return "", fmt.Errorf("cannot tell how much memory this machine has: %w", err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(h.dir, &disk); err != nil {
		return "", fmt.Errorf("cannot tell how large the file system of %s is: %w", h.dir, err)
	}
	const megabyte = 1 << 20
	mem := memory.Totalram * uint64(memory.Unit) / megabyte * 3 / 4
	return fmt.Sprintf("cpus:%d;mem:%d;disk:%d;ports:[31000-32000,%s]",
		runtime.NumCPU(), mem/uint64(h.nodes), disk.Bavail*uint64(disk.Bsize)/megabyte/uint64(h.nodes), casePorts), nil
}

func (h *harness) startCluster(ctx context.Context) error {
	var err error
	if h.resources, err = h.agentResources(); err != nil {
		return err
	}
	log, err := h.log("km-up.log")
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	h.cluster, err = scratch.Start(starting, h.clusterConfig(h.nodes, log))
	h.undo.Add(func(ctx context.Context) error {
		return errors.Join(h.cluster.Stop(ctx), h.keepLogs(), log.Close())
	})
	if err != nil {
		return fmt.Errorf("%w; see %s", err, log.Name())
	}
	if err := h.supplyNodes(ctx); err != nil {
		return err
	}
	return errors.Join(h.cluster.Usable(ctx), h.awaitKubelets(ctx))
}

// supplyNodes prepares the Engines of several nodes: it loads the images, and makes the registry reachable at the same loopback
// address on each.
func (h *harness) supplyNodes(ctx context.Context) error {
	if len(h.cluster.Engines) == 0 {
		return nil
	}
	l, err := h.readLayers(ctx)
	if err != nil {
		return err
	}
	nodes, err := machines.Load(h.state())
	if err != nil {
		return err
	}
	living, cancel := context.WithCancel(context.WithoutCancel(ctx))
	waits := []func(){cancel}
	h.undo.Add(func(context.Context) error {
		for _, wait := range waits {
			wait()
		}
		return nil
	})
	for _, node := range nodes.List {
		wait, err := node.Forward(living, h.registry.Address, h.registry.Address)
		if err != nil {
			return err
		}
		waits = append(waits, wait)
		if err := images.Load(ctx, h.cluster.Engines[node.Name], presentImages(l)...); err != nil {
			return err
		}
	}
	return nil
}

// awaitKubelets waits until each node's kubelet has reported its address, because cases expect running kubelets.
func (h *harness) awaitKubelets(ctx context.Context) error {
	return scratch.Until(ctx, 2*time.Minute, func(ctx context.Context) error {
		nodes, err := h.cluster.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(nodes.Items) != h.nodes {
			return fmt.Errorf("%d of %d nodes are there", len(nodes.Items), h.nodes)
		}
		for _, node := range nodes.Items {
			if node.Status.NodeInfo.KubeletVersion == "" || !slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP }) {
				return fmt.Errorf("the kubelet of node %s does not run", node.Name)
			}
		}
		return nil
	})
}

// keepLogs saves the logs of km up, and of the minions from their Mesos sandboxes.
func (h *harness) keepLogs() error {
	to := filepath.Join(h.build, "logs")
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(filepath.Join(h.state(), "log"))); err != nil {
		return err
	}
	sandboxes, err := filepath.Glob(filepath.Join(h.state(), "mesos/agents/*/slaves/*/frameworks/*/executors/*/runs/*"))
	if err != nil {
		return err
	}
	sandboxes = slices.DeleteFunc(sandboxes, func(path string) bool { return filepath.Base(path) == "latest" }) // a link
	for i, sandbox := range sandboxes {
		err = errors.Join(err, os.CopyFS(filepath.Join(to, fmt.Sprintf("minion-%d", i)), os.DirFS(sandbox)))
	}
	return err
}
