package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/prometheus/procfs"
	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/test/suite"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/network"
)

// criDockerd is the peer.
var criDockerd = suite.Module{Path: "github.com/Mirantis/cri-dockerd", Version: "v0.3.17"}

const (
	benchImage  = "k8sm.io/bench/web:latest"
	benchBridge = "k8sm-bench0" // the Engine's default network, which the peers' sandboxes join
	benchSubnet = "10.213.92.1/22"
	benchPods   = "10.213.96.0/22" // of ours
)

// criArena is an Engine with both CRI servers on it.
type criArena struct {
	build string // keeps programs and logs

	dir          string
	engine       *engine.Engine
	docker       *client.Client
	sandboxImage string
	ours, peer   runtimeapi.RuntimeServiceClient
	pods         int

	undo suite.Undo
}

// start takes all steps; stop undoes those that were begun.
func (a *criArena) start(ctx context.Context, program string) error {
	peer, err := a.buildPeer(ctx)
	if err != nil {
		return err
	}
	if a.dir, err = os.MkdirTemp("/var/lib", "k8sm-bench-"); err != nil {
		return err
	}
	a.undo.Add(func(context.Context) error { return os.RemoveAll(a.dir) })
	for _, step := range []func(context.Context) error{
		a.startEngine,
		func(ctx context.Context) error { return a.importImage(ctx, program) },
		a.prepareVolumes,
		a.serveOurs,
		func(ctx context.Context) error { return a.servePeer(ctx, peer) },
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if !sameCalls(a.runners()) {
		return errors.New("the runners do not make the same calls")
	}
	return nil
}

// stop returns when nothing is left.
func (a *criArena) stop(ctx context.Context) error { return a.undo.All(ctx) }

// runners are ours and, behind it, its peers.
func (a *criArena) runners() []podRunner {
	return []podRunner{
		criRunner("k8sm", a.ours, a.dir), criRunner("cri-dockerd", a.peer, a.dir), bareRunner(a.docker, a.sandboxImage),
	}
}

// buildPeer builds cri-dockerd as it is released, unless it was built before, and returns its program's path.
func (a *criArena) buildPeer(ctx context.Context) (string, error) {
	program, err := filepath.Abs(filepath.Join(a.build, "cri-dockerd-"+criDockerd.Version))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	fmt.Printf("building %s (once)\n", criDockerd)
	source, err := os.MkdirTemp("", "cri-dockerd-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(source)
	if err := criDockerd.CopyTo(ctx, source); err != nil {
		return "", err
	}
	out := &suite.Sampler{Out: os.Stdout, Unit: "packages compiled", Every: 100}
	return program, suite.RunGo(ctx, source, out, "build", "-v", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
}

// startEngine starts an Engine whose default network is a bridge of ours: it is the only network that cri-dockerd can use
// without programs of others.
func (a *criArena) startEngine(ctx context.Context) (err error) {
	address, err := netlink.ParseAddr(benchSubnet)
	if err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: benchBridge}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("cannot make the bridge %s: %w", benchBridge, err)
	}
	a.undo.Add(func(context.Context) error { return netlink.LinkDel(bridge) })
	if err := errors.Join(netlink.AddrAdd(bridge, address), netlink.LinkSetUp(bridge)); err != nil {
		return fmt.Errorf("cannot set up the bridge %s: %w", benchBridge, err)
	}
	settings := map[string]any{"bridge": benchBridge}
	if protects, err := mayProtectFromOOM(); err != nil {
		return err
	} else if !protects {
		runtime := filepath.Join(a.dir, "runtime")
		if err := os.WriteFile(runtime, []byte(withoutNegativeOOMScore()), 0o755); err != nil {
			return err
		}
		settings["default-runtime"] = "clamped"
		settings["runtimes"] = map[string]any{"clamped": map[string]any{"path": runtime}}
	}
	if a.engine, err = engine.Start(ctx, engine.Config{Dir: a.dir, Settings: settings}); err != nil {
		return err
	}
	a.undo.Add(a.stopEngine)
	a.docker, err = client.NewClientWithOpts(client.WithHost(a.engine.Host()), client.WithAPIVersionNegotiation())
	return err
}

// mayProtectFromOOM reports whether this host lets root lower an oom_score_adj, which takes CAP_SYS_RESOURCE.
func mayProtectFromOOM() (bool, error) {
	self, err := procfs.Self()
	if err != nil {
		return false, err
	}
	status, err := self.NewStatus()
	return status.CapBnd&(1<<unix.CAP_SYS_RESOURCE) != 0, err
}

// stopEngine ends the Engine with all that runs in it.
func (a *criArena) stopEngine(ctx context.Context) error {
	if a.docker != nil {
		defer a.docker.Close()
		list, err := a.docker.ContainerList(ctx, container.ListOptions{All: true})
		if err != nil {
			return errors.Join(err, a.engine.Stop(ctx))
		}
		for _, c := range list {
			if err := a.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
				return err
			}
		}
	}
	return a.engine.Stop(ctx)
}

func (a *criArena) importImage(ctx context.Context, program string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return scratch.ImportImage(ctx, a.docker, benchImage, "/web", data)
}

// prepareVolumes makes what the pods' containers mount.
func (a *criArena) prepareVolumes(context.Context) error {
	for _, name := range []string{"k8sm", "cri-dockerd"} {
		if err := os.MkdirAll(filepath.Join(a.dir, name, "token"), 0o755); err != nil {
			return err
		}
		for _, file := range []string{"hosts", "message"} {
			if err := os.WriteFile(filepath.Join(a.dir, name, file), nil, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// serveOurs serves minion/cri in this process.
func (a *criArena) serveOurs(ctx context.Context) error {
	log := logrus.New()
	log.SetOutput(io.Discard)
	socket := filepath.Join(a.dir, "k8sm.sock")
	pods, err := network.New(network.Config{Cluster: "bench", Node: "bench", Dir: filepath.Join(a.dir, "network")})
	if err != nil {
		return err
	}
	a.undo.Add(func(context.Context) error { return pods.Teardown() })
	if err := pods.Setup([]string{benchPods}); err != nil {
		return err
	}
	server, err := cri.New(ctx, cri.Config{
		Socket: socket, DockerHost: a.engine.Host(), Root: filepath.Join(a.dir, "cri"), Cluster: "bench", Node: "bench",
		Network: pods, Log: log,
	})
	if err != nil {
		return err
	}
	a.serve(ctx, server.Run)
	images, err := a.docker.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", "k8sm.io/pause"))})
	if err != nil {
		return err
	}
	if len(images) == 0 || len(images[0].RepoTags) == 0 {
		return errors.New("the sandbox image is not there")
	}
	a.sandboxImage = images[0].RepoTags[0]
	a.ours, err = a.connect(ctx, socket)
	return err
}

// servePeer runs cri-dockerd with its default settings but for where things are, and without programs of CNI, which
// would be one more cost to it.
func (a *criArena) servePeer(ctx context.Context, program string) error {
	log, err := os.Create(filepath.Join(a.build, "cri-dockerd.log"))
	if err != nil {
		return err
	}
	a.undo.Add(func(context.Context) error { return log.Close() })
	socket := filepath.Join(a.dir, "peer.sock")
	a.serve(ctx, func(ctx context.Context) error {
		return suite.RunChild(ctx, log, nil, program, "--container-runtime-endpoint=unix://"+socket, "--docker-endpoint="+a.engine.Host(),
			"--cri-dockerd-root-directory="+filepath.Join(a.dir, "peer"), "--pod-infra-container-image="+a.sandboxImage,
			"--network-plugin=no-op", "--streaming-bind-addr=127.0.0.1:0")
	})
	if a.peer, err = a.connect(ctx, socket); err != nil {
		return fmt.Errorf("%w; see %s", err, log.Name())
	}
	return nil
}

// serve runs a server until stop.
func (a *criArena) serve(ctx context.Context, run func(context.Context) error) {
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- run(serving) }()
	a.undo.Add(func(context.Context) error {
		cancel()
		return <-ended
	})
}

// connect returns when the server at the socket answers.
func (a *criArena) connect(ctx context.Context, socket string) (runtimeapi.RuntimeServiceClient, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, err
	}
	a.undo.Add(func(context.Context) error { return connection.Close() })
	runtime := runtimeapi.NewRuntimeServiceClient(connection)
	if _, err := runtime.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		return nil, fmt.Errorf("the CRI server at %s does not answer: %w", socket, err)
	}
	return runtime, nil
}
