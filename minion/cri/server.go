package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/k8sm/k8sm/minion/network"
)

// minimumAPI is the API of Docker Engine 20.10.
const minimumAPI = "1.41"

// Network gives sandboxes their addresses. *network.Network is one.
type Network interface {
	// Setup makes the pod network for the node's pod CIDRs; it is called again with the same value after a restart and
	// must be idempotent.
	Setup(podCIDRs []string) error
	// Ready returns an error that says why the network cannot take sandboxes yet.
	Ready() error
	// Attach joins a sandbox, whose network namespace is empty, to the network, and returns its addresses.
	Attach(ctx context.Context, sandbox network.Sandbox) ([]netip.Addr, error)
	// Detach takes back what a sandbox has, if it has anything.
	Detach(ctx context.Context, id string) error
	// Addresses returns what a sandbox has.
	Addresses(id string) []netip.Addr
	// Keep detaches all sandboxes but these.
	Keep(ctx context.Context, ids []string) error
}

// Config says what a Server serves, and from what.
type Config struct {
	// Socket is the path of the Unix socket to serve CRI on.
	Socket string
	// DockerHost is the Engine's address, such as "unix:///var/run/docker.sock".
	DockerHost string
	// Root is a directory for the few files that containers need from us, such as their resolv.conf. It must outlive
	// the server, as the containers do.
	Root string
	// Cluster and Node name whose containers these are; no others are ever seen or touched.
	Cluster, Node string
	// Network gives pods their addresses.
	Network Network
	// Cgroup is a cgroup that all containers are to be below, such as "/mesos/ID"; empty for none. The Engine must make
	// cgroups itself, not through systemd.
	Cgroup string
	// SandboxImage is the image of the sandbox program; empty means the one built into km.
	SandboxImage string
	// LogSize is how many bytes the kubelet keeps of a container's log; the Engine keeps as many in its own. Zero means 50 MiB,
	// as a kubelet does by default.
	LogSize int64
	// CallTimeout bounds what a call without a deadline of its own asks of the Engine; zero means 2 minutes.
	CallTimeout time.Duration
	// PullTimeout is how long a pull may make no progress; zero means 5 minutes.
	PullTimeout time.Duration
	// Log gets what the server has to say; nil means logrus' standard logger.
	Log logrus.FieldLogger
}

// Server is the CRI of one node. It may serve any number of concurrent calls.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	cfg    Config
	log    logrus.FieldLogger
	docker *client.Client
	owner  owner
	host   host

	sandboxImage string
	dockerRoot   string
	listener     net.Listener // of the streaming server, on loopback
	streaming    streaming.Server
	logs         *logKeeper
	events       *eventHub
	usage        *usageCache
	volumes      imageVolumes
	pulled       pulledImages
	view         *view
}

// New connects to the Engine, checks that it is fit and brings the sandbox image there. It serves nothing until Run,
// which the caller must call once.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	cfg.CallTimeout, cfg.PullTimeout = cmp.Or(cfg.CallTimeout, callTimeout), cmp.Or(cfg.PullTimeout, pullTimeout)
	cfg.LogSize = cmp.Or(cfg.LogSize, usualLogSize)
	s := &Server{cfg: cfg, log: cfg.Log.WithField("node", cfg.Node), owner: owner{cfg.Cluster, cfg.Node}}
	var err error
	if s.host, err = readHost(); err != nil {
		return nil, fmt.Errorf("cannot tell what this host can give to containers: %w", err)
	}
	if limits := s.host.limits(); limits != "" {
		s.log.Warn("this host holds capabilities back: ", limits)
	}
	if s.docker, err = client.NewClientWithOpts(client.WithHost(cfg.DockerHost), client.WithAPIVersionNegotiation()); err != nil {
		return nil, fmt.Errorf("cannot use Docker Engine at %s: %w", cfg.DockerHost, err)
	}
	if err := s.inspectEngine(ctx); err != nil {
		return nil, errors.Join(err, s.docker.Close())
	}
	if s.sandboxImage, err = s.ensureSandboxImage(ctx, cfg.SandboxImage); err != nil {
		return nil, errors.Join(err, s.docker.Close())
	}
	s.logs = newLogKeeper(s.docker, s.log)
	s.events = newEventHub()
	s.usage = newUsageCache()
	s.pulled.dir = filepath.Join(cfg.Root, "pulled")
	s.volumes.dir = filepath.Join(cfg.Root, "images")
	s.view = newView(s.docker, s.owner)
	if err := s.listenForStreams(); err != nil {
		return nil, errors.Join(err, s.docker.Close())
	}
	return s, nil
}

// inspectEngine checks the Engine's version and learns how it is set up.
func (s *Server) inspectEngine(ctx context.Context) error {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	info, err := s.docker.Info(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach Docker Engine at %s: %w", s.cfg.DockerHost, err)
	}
	if got := s.docker.ClientVersion(); versions.LessThan(got, minimumAPI) {
		return fmt.Errorf("cannot use Docker Engine %s at %s: it speaks API %s, and %s (Engine 20.10) is needed",
			info.ServerVersion, s.cfg.DockerHost, got, minimumAPI)
	}
	s.dockerRoot = info.DockerRootDir
	s.host.systemdCgroups, s.host.cgroup2 = info.CgroupDriver == "systemd", info.CgroupVersion == "2"
	s.host.cgroup = s.cfg.Cgroup
	s.host.selinux = slices.Contains(info.SecurityOptions, "name=selinux")
	if s.host.systemdCgroups && s.host.cgroup != "" {
		return fmt.Errorf("cannot have containers below cgroup %s: Docker Engine at %s makes cgroups through systemd", s.cfg.Cgroup, s.cfg.DockerHost)
	}
	return nil
}

// listenForStreams prepares exec, attach and port-forward: the kubelet gets a URL with a one-time token for each and
// connects to it, from this same host.
func (s *Server) listenForStreams() (err error) {
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return fmt.Errorf("cannot listen for exec and attach: %w", err)
	}
	cfg := streaming.DefaultConfig
	cfg.Addr = s.listener.Addr().String()
	cfg.BaseURL = &url.URL{Scheme: "http", Host: cfg.Addr}
	if s.streaming, err = streaming.NewServer(cfg, streamRuntime{s}); err != nil {
		return errors.Join(fmt.Errorf("cannot serve exec and attach: %w", err), s.listener.Close())
	}
	return nil
}

// Run serves until ctx ends, then ends all streams and log followers and returns nil. Containers run on.
func (s *Server) Run(ctx context.Context) error {
	defer s.docker.Close()
	defer s.listener.Close()
	socket, err := listen(s.cfg.Socket)
	if err != nil {
		return err
	}
	s.settlePulls(ctx)
	s.removeCopies(ctx)
	s.tidyNetwork(ctx)
	s.tidyVolumes(ctx)
	defer s.tidyVolumes(context.WithoutCancel(ctx))
	rpc := grpc.NewServer(grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(rpc, s)
	runtimeapi.RegisterImageServiceServer(rpc, s)
	streams := &http.Server{Handler: s.streaming, ReadHeaderTimeout: 30 * time.Second}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.logs.run(ctx) })
	group.Go(func() error { return s.watchEvents(ctx) })
	group.Go(func() error { return rpc.Serve(socket) })
	group.Go(func() error {
		if err := streams.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot serve exec and attach: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		s.events.close()
		rpc.Stop()
		return streams.Close()
	})
	return group.Wait()
}

// maxMessage is the kubelet's own bound on a CRI message.
const maxMessage = 16 << 20

// listen opens the socket for root only, in place of one that a killed server left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot serve CRI at %s: %w", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("cannot serve CRI at %s: another process serves there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot serve CRI at %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot serve CRI at %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Version tells who we are (https://kubernetes.io/docs/concepts/architecture/cri/).
func (s *Server) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	v, err := s.docker.ServerVersion(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: "docker", RuntimeVersion: v.Version, RuntimeApiVersion: "v1",
	}, nil
}

// Status tells whether the Engine answers and whether pods can have addresses.
func (s *Server) Status(ctx context.Context, _ *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	engine := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: true}
	ctx, cancel := context.WithTimeout(ctx, min(statusTimeout, s.cfg.CallTimeout))
	defer cancel()
	info, err := s.docker.Info(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the Docker Engine at %s hangs: no answer in %s", s.cfg.DockerHost, min(statusTimeout, s.cfg.CallTimeout))
	}
	if err != nil {
		engine.Status, engine.Reason, engine.Message = false, "DockerEngineNotReady", err.Error()
	}
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := s.cfg.Network.Ready(); err != nil {
		network.Status, network.Reason, network.Message = false, "PodNetworkNotReady", err.Error()
	}
	handlers := []*runtimeapi.RuntimeHandler{{Features: &runtimeapi.RuntimeHandlerFeatures{}}}
	for name := range info.Runtimes {
		handlers = append(handlers, &runtimeapi.RuntimeHandler{Name: name, Features: &runtimeapi.RuntimeHandlerFeatures{}})
	}
	slices.SortFunc(handlers, func(a, b *runtimeapi.RuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
	return &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{engine, network}},
		RuntimeHandlers: handlers,
		Features:        &runtimeapi.RuntimeFeatures{},
	}, nil
}

// UpdateRuntimeConfig is how the kubelet hands over the node's pod CIDRs.
func (s *Server) UpdateRuntimeConfig(_ context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	cidrs := splitList(r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
	if len(cidrs) == 0 {
		return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
	}
	if err := s.cfg.Network.Setup(cidrs); err != nil {
		return nil, fmt.Errorf("cannot set up the pod network for %v: %w", cidrs, err)
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// RuntimeConfig tells the kubelet which cgroup driver to use: the Engine's.
func (s *Server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if s.host.systemdCgroups {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdatePodSandboxResources has nothing to do: the pod's cgroup is the kubelet's own, and the sandbox program has no
// limits of its own in it.
func (s *Server) UpdatePodSandboxResources(context.Context, *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}
