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

	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/minion/network"
)

// minimumAPI is the API of Docker Engine 20.10.
const minimumAPI = "1.41"

// Network assigns addresses to sandboxes. *network.Network implements it.
type Network interface {
	// Setup sets up the pod network for the node's pod CIDRs. It must be idempotent: it is called again with the same value after a
	// restart.
	Setup(podCIDRs []string) error
	// Ready returns an error that says why the network cannot take sandboxes yet.
	Ready() error
	// Attach connects a sandbox with an empty network namespace to the network, and returns its addresses.
	Attach(ctx context.Context, sandbox network.Sandbox) ([]netip.Addr, error)
	// Detach releases the sandbox's addresses, if it has any.
	Detach(ctx context.Context, id string) error
	// Addresses returns the sandbox's addresses.
	Addresses(id string) []netip.Addr
	// Keep detaches all sandboxes except these.
	Keep(ctx context.Context, ids []string) error
}

// Config configures a Server.
type Config struct {
	// Socket is the path of the Unix socket to serve CRI on.
	Socket string
	// DockerHost is the Engine's address, such as "unix:///var/run/docker.sock".
	DockerHost string
	// DockerCertPath is a directory with the certificates for a "tcp://" Engine; see Connect.
	DockerCertPath string
	// Root is a directory for the few files that containers need from the server, such as their resolv.conf. It must outlive the
	// server, as the containers do.
	Root string
	// Cluster and Node say whose containers these are; the server never sees or touches others.
	Cluster, Node string
	// Network assigns addresses to pods.
	Network Network
	// Cgroup is the parent cgroup of all containers, such as "/mesos/ID"; empty for none. It requires that the Engine uses the
	// cgroup driver cgroupfs.
	Cgroup string
	// SandboxImage is the image of the sandbox program; empty means the one built into km.
	SandboxImage string
	// Rewrites has, by registry, from where its images are pulled instead: a registry, and a folder in it. They keep their names.
	Rewrites map[string]string
	// Credentials is a file of docker's, config.json, with credentials for the registries that Rewrites leads to. There may be none.
	Credentials string
	// LogSize is how many bytes of a container's log the kubelet keeps; the Engine keeps as many in its own. Zero means 50 MiB, the
	// kubelet's default.
	LogSize int64
	// CallTimeout bounds calls to the Engine if the CRI call has no deadline; zero means 2 minutes.
	CallTimeout time.Duration
	// PullTimeout is how long a pull may make no progress; zero means 5 minutes.
	PullTimeout time.Duration
	// Called, if set, is called after each CRI call, with its method, how long it took and how it failed. Streams of events are no
	// calls.
	Called func(method string, took time.Duration, err error)
	// Traces is where the spans of pods' starts go; nil keeps none.
	Traces *podtrace.Book
	// Log receives the server's log; nil means logrus' standard logger.
	Log logrus.FieldLogger
}

// Server serves the CRI of one node. It may serve any number of concurrent calls.
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
	ahead        ahead
	turns        *turns
}

// New connects to the Engine, checks its version, and loads the sandbox image. Nothing is served until Run, which the caller must
// call once.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	cfg.CallTimeout, cfg.PullTimeout = cmp.Or(cfg.CallTimeout, callTimeout), cmp.Or(cfg.PullTimeout, pullTimeout)
	cfg.LogSize = cmp.Or(cfg.LogSize, usualLogSize)
	s := &Server{cfg: cfg, log: cfg.Log.WithField("node", cfg.Node), owner: owner{cfg.Cluster, cfg.Node}}
	var err error
	if s.host, err = readHost(); err != nil {
		return nil, fmt.Errorf("cannot read the capabilities of this host: %w", err)
	}
	if limits := s.host.limits(); limits != "" {
		s.log.Warn("this host withholds capabilities: ", limits)
	}
	if s.docker, err = Connect(cfg.DockerHost, cfg.DockerCertPath); err != nil {
		return nil, err
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
	s.ahead.pods = map[string]*early{}
	s.turns = newTurns()
	if err := s.listenForStreams(); err != nil {
		return nil, errors.Join(err, s.docker.Close())
	}
	return s, nil
}

// inspectEngine checks the Engine's version and reads its configuration.
func (s *Server) inspectEngine(ctx context.Context) error {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	info, err := s.docker.Info(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach Docker Engine at %s: %w", s.cfg.DockerHost, err)
	}
	if got := s.docker.ClientVersion(); versions.LessThan(got, minimumAPI) {
		return fmt.Errorf("cannot use Docker Engine %s at %s: it has API %s, but API %s (Engine 20.10) is required",
			info.ServerVersion, s.cfg.DockerHost, got, minimumAPI)
	}
	s.dockerRoot = info.DockerRootDir
	s.host.systemdCgroups, s.host.cgroup2 = info.CgroupDriver == "systemd", info.CgroupVersion == "2"
	s.host.allIsGranted = !versions.LessThan(s.docker.ClientVersion(), "1.42") // Engine 23.0
	s.host.cgroup = s.cfg.Cgroup
	s.host.selinux = slices.Contains(info.SecurityOptions, "name=selinux")
	if s.host.systemdCgroups && s.host.cgroup != "" {
		return fmt.Errorf("cannot run containers below cgroup %s: Docker Engine at %s uses cgroup driver systemd", s.cfg.Cgroup, s.cfg.DockerHost)
	}
	return nil
}

// listenForStreams prepares exec, attach and port-forward. For each, the kubelet gets a URL with a one-time token and connects to it
// from this host.
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

// Run serves until ctx ends, then ends all streams and log followers and returns nil. Containers keep running.
func (s *Server) Run(ctx context.Context) error {
	defer s.docker.Close()
	defer s.dismissAll(context.WithoutCancel(ctx))
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
	streams := newStreams(s.streaming)

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

// newStreams returns the server of streams. It bounds requests only: a stream takes its connection over, without a timeout.
func newStreams(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadTimeout: 30 * time.Second}
}

// maxMessage is the kubelet's limit for a CRI message.
const maxMessage = 16 << 20

// listen opens the socket for root only. It replaces a socket that a killed server left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot serve CRI at %s: %w", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("cannot serve CRI at %s: another process already does", path)
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

// Version returns the runtime's name and version (https://kubernetes.io/docs/concepts/architecture/cri/).
func (s *Server) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	v, err := s.docker.ServerVersion(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: "docker", RuntimeVersion: v.Version, RuntimeApiVersion: "v1",
	}, nil
}

// Status reports whether the Engine answers and whether pods can get addresses.
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

// UpdateRuntimeConfig receives the node's pod CIDRs from the kubelet.
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

// RuntimeConfig returns the cgroup driver that the kubelet must use: the Engine's.
func (s *Server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if s.host.systemdCgroups {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdatePodSandboxResources has nothing to do: the kubelet manages the pod's cgroup, and the sandbox program has no limits of its
// own.
func (s *Server) UpdatePodSandboxResources(context.Context, *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}
