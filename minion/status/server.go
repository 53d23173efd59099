package status

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/api/health"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/api/podtrace/tracehttp"
	"github.com/k8sm/k8sm/api/profiling"
)

// limits of clients.
var limits = connlimit.Limits{Connections: 256, PerClient: 32, Header: 5 * time.Second, Request: 10 * time.Second, Answer: time.Minute}

// Config configures a Server.
type Config struct {
	// Node is the node's name.
	Node string
	// Address is the node's address, on which the server listens. Port is the wanted port; 0 means any free one.
	Address netip.Addr
	Port    int
	// CertFile has the server's certificate and its key. The file may come later, and change: until it is there, no client can
	// connect.
	CertFile string
	// CipherSuites and MinVersion are those of TLS, in Go's names; without a version, those of api.CipherSuites and TLS 1.2.
	CipherSuites []string
	MinVersion   string
	// Access says who calls and what they may read.
	Access callers.Access
	// Metrics are the minion's.
	Metrics prometheus.Gatherer
	// Traces are the spans of pods' starts.
	Traces *podtrace.Book
	// ProxyMetrics is the URL of kube-proxy's metrics.
	ProxyMetrics string
	// Ready says why the node cannot run pods now.
	Ready health.Check
}

// Server serves the status of one minion.
type Server struct {
	cfg      Config
	secured  *tls.Config
	listener net.Listener // nil while it does not listen
	port     atomic.Int32
}

// New returns a Server. The caller may call Listen, and must call Run.
func New(cfg Config) (*Server, error) {
	if cfg.MinVersion == "" {
		cfg.CipherSuites = api.CipherSuites()
	}
	suites, err := cliflag.TLSCipherSuites(cfg.CipherSuites)
	if err != nil {
		return nil, fmt.Errorf("cannot serve the minion's status: %w", err)
	}
	version, err := cliflag.TLSVersion(cfg.MinVersion)
	if err != nil {
		return nil, fmt.Errorf("cannot serve the minion's status: %w", err)
	}
	pair := certfile.NewPair(cfg.CertFile, cfg.CertFile)
	return &Server{cfg: cfg, secured: &tls.Config{
		MinVersion: version, CipherSuites: suites, GetCertificate: pair.ForServer, ClientAuth: tls.RequestClientCert, // Access verifies it
	}}, nil
}

// Listen takes the port. If the wanted one is in use, it takes a free one. It must not be called while the server runs.
func (s *Server) Listen() error {
	at := func(port int) (net.Listener, error) {
		return net.Listen("tcp", net.JoinHostPort(s.cfg.Address.String(), strconv.Itoa(port)))
	}
	l, err := at(s.cfg.Port)
	if errors.Is(err, syscall.EADDRINUSE) {
		l, err = at(0)
	}
	if err != nil {
		return fmt.Errorf("cannot serve the minion's status: %w", err)
	}
	s.listener = l
	s.port.Store(int32(l.Addr().(*net.TCPAddr).Port))
	return nil
}

// Port returns the port on which the server listened last; 0 means never. It may be called concurrently.
func (s *Server) Port() int { return int(s.port.Load()) }

// Run serves until ctx ends, and then returns nil. It listens first, unless Listen has done so. After an error it can be called
// again.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	listener := s.listener
	s.listener = nil // Serve closes it
	if err := limits.Serve(ctx, listener, s.secured, s.handler()); err != nil {
		return fmt.Errorf("cannot serve the minion's status any more: %w", err)
	}
	return nil
}

func (s *Server) handler() http.Handler {
	metrics, paths := s.cfg.Access.Guard(readsMetrics(s.cfg.Node)), s.cfg.Access.Guard(callers.ReadsPath)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics(promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4})))
	mux.Handle("GET /metrics/proxy", metrics(relay(s.cfg.ProxyMetrics)))
	mux.Handle(tracehttp.Pattern, tracehttp.Handler(s.cfg.Access, s.cfg.Traces))
	mux.Handle(profiling.Path, paths(profiling.Handler()))
	state := http.NewServeMux()
	health.Handle(state, func(context.Context) error { return nil }, s.cfg.Ready)
	for _, path := range []string{"/healthz", "/livez", "/readyz"} { // all whom the API server knows may read these
		mux.Handle(path, paths(state))
	}
	return mux
}

// readsMetrics is the right to read the node's metrics, as the kubelet has it.
func readsMetrics(node string) callers.Right {
	return func(caller user.Info, r *http.Request) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{
			User: caller, Verb: "get", APIVersion: "v1", Resource: "nodes", Subresource: "metrics", Name: node, ResourceRequest: true, Path: r.URL.Path,
		}
	}
}
