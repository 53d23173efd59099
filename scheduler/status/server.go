package status

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/api/health"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/api/podtrace/tracehttp"
	"github.com/k8sm/k8sm/api/profiling"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosmetrics"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
)

// DefaultAddress is the default of --status-address. It has the port of the stock kube-scheduler.
const DefaultAddress = "127.0.0.1:10259"

// answerTimeout bounds how long a request waits for a scheduler that is busy.
const answerTimeout = 10 * time.Second

// limits of clients. One address may be loopback's.
var limits = connlimit.Limits{Connections: 512, PerClient: 128, Header: 5 * time.Second, Request: 10 * time.Second, Answer: time.Minute}

// Source has the state to show. Its methods are called concurrently.
type Source interface {
	Offers(ctx context.Context) ([]scheduler.LiveOffer, error)
	Tasks(ctx context.Context) ([]scheduler.LiveTask, error)
	Queue(ctx context.Context) ([]scheduler.WaitingPod, error)
	Nodes(ctx context.Context) ([]scheduler.LiveNode, error)
	OfferHistory(ctx context.Context) (scheduler.OfferHistory, error)
	// Alive and Ready return what is wrong with the scheduler, without waiting for it.
	Alive() error
	Ready() error
}

// Mesos has what the leading Mesos master tells. Its methods are called concurrently.
type Mesos interface {
	// State returns what is known of the Mesos cluster, without the nodes. The error says that this scheduler does not lead, or that
	// the master has not answered before ctx ended.
	State(ctx context.Context) (mesosstate.Document, error)
	// Metrics returns them within 10 s; none if this scheduler does not lead.
	Metrics(ctx context.Context) []mesosmetrics.Sample
}

// Shows is what a Server shows.
type Shows struct {
	Scheduler Source
	Mesos     Mesos
	// Traces are the spans of pods' starts.
	Traces *podtrace.Book
	// Metrics are the scheduler's own.
	Metrics prometheus.Gatherer
	// Reviewer asks the API server about callers whose certificates do not suffice; see callers.Delegate.
	Reviewer kubernetes.Interface
}

// Config is the server's address and certificates.
type Config struct {
	// Address is "host:port"; "" is for no server. Port 0 is any free port.
	Address string
	// CertFile and KeyFile are the server's certificate; ClientCAFile is the CA of its clients.
	CertFile, KeyFile, ClientCAFile string
}

// AddFlags registers the flags. It sets all fields of c to the defaults.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Address, "status-address", DefaultAddress,
		"`host:port` on which the scheduler serves /healthz, /readyz, /metrics, /mesos/state and /debug (HTTPS); \"\" serves nothing")
	fs.StringVar(&c.CertFile, "tls-cert-file", "", "certificate of --status-address (default: the state directory's)")
	fs.StringVar(&c.KeyFile, "tls-private-key-file", "", "key of --tls-cert-file")
	fs.StringVar(&c.ClientCAFile, "client-ca-file", "",
		"CA of the client certificates of those who may read all but the health (default: the cluster's, from the state directory)")
}

// Validate returns an error if only one of certificate and key is given.
func (c *Config) Validate() error {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("give --tls-cert-file and --tls-private-key-file, or neither")
	}
	return nil
}

// Server serves the status of one scheduler.
type Server struct {
	listener net.Listener
	secured  *tls.Config
	access   callers.Access
	shows    Shows
}

// Listen takes the port, so that a port in use is an error before anything starts. The caller must call Run or Close.
func Listen(c Config, shows Shows) (*Server, error) {
	pair := certfile.NewPair(c.CertFile, c.KeyFile)
	if _, err := pair.Get(); err != nil {
		return nil, fmt.Errorf("cannot read the certificate of --status-address: %w; give --tls-cert-file, or --status-address=\"\" to serve no status", err)
	}
	access, err := callers.Delegate(shows.Reviewer, c.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the client CA of --status-address: %w; give --client-ca-file, or --status-address=\"\" to serve no status", err)
	}
	suites, err := cliflag.TLSCipherSuites(api.CipherSuites())
	if err != nil {
		return nil, fmt.Errorf("cannot serve the scheduler's status: %w", err)
	}
	secured, err := certfile.Server(&tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: suites, ClientAuth: tls.VerifyClientCertIfGiven}, pair, c.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot serve the scheduler's status: %w", err)
	}
	l, err := net.Listen("tcp", c.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot serve the scheduler's status on %s: %w; stop the program that uses it, or give another --status-address",
			c.Address, syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot serve the scheduler's status: %w", err)
	}
	return &Server{listener: l, secured: secured, access: access, shows: shows}, nil
}

// Addr returns the address at which the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close frees the port. It is for a Server that never runs.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context) error {
	if err := limits.Serve(ctx, s.listener, s.secured, s.handler()); err != nil {
		return fmt.Errorf("cannot serve the scheduler's status any more: %w", err)
	}
	return nil
}

// handler serves /healthz, /livez and /readyz to everyone, and the other paths to authorized callers.
func (s *Server) handler() http.Handler {
	metrics := http.NewServeMux()
	metrics.Handle("GET /metrics", promhttp.HandlerFor(s.shows.Metrics, promhttp.HandlerOpts{}))
	metrics.Handle("GET /metrics/mesos", http.HandlerFunc(s.serveMesos))
	protected := http.NewServeMux()
	protected.Handle("GET "+statePath, newFeed(s.readState))
	protected.Handle("GET "+offersPath, newFeed(s.shows.Scheduler.Offers))
	protected.Handle("GET "+historyPath, newFeed(s.shows.Scheduler.OfferHistory))
	protected.Handle("GET "+tasksPath, newFeed(s.shows.Scheduler.Tasks))
	protected.Handle("GET "+queuePath, newFeed(s.shows.Scheduler.Queue))
	protected.Handle("GET "+reasonsPath, newFeed(s.readReasons))
	protected.Handle("GET "+nodesPath, newFeed(s.shows.Scheduler.Nodes))
	mux := http.NewServeMux()
	health.Handle(mux, func(context.Context) error { return s.shows.Scheduler.Alive() }, func(context.Context) error { return s.shows.Scheduler.Ready() })
	mux.Handle(profiling.Path, s.access.Guard(callers.ReadsPath)(profiling.Handler()))
	for _, path := range []string{"/metrics", "/metrics/"} {
		mux.Handle(path, s.access.Guard(callers.ReadsPath, api.SchedulerUser, api.MetricsUser)(metrics))
	}
	mux.Handle(tracehttp.Pattern, tracehttp.Handler(s.access, s.shows.Traces, api.SchedulerUser))
	mux.Handle("/", s.access.Guard(callers.ReadsPath, api.SchedulerUser)(protected))
	return mux
}

func (s *Server) readState(ctx context.Context) (d mesosstate.Document, err error) {
	nodes, err := s.shows.Scheduler.Nodes(ctx)
	if err != nil {
		return d, err
	}
	if d, err = s.shows.Mesos.State(ctx); err != nil {
		return d, err
	}
	d.Join(nodes)
	return d, nil
}

func (s *Server) readReasons(ctx context.Context) (scheduler.QueueReasons, error) {
	queue, err := s.shows.Scheduler.Queue(ctx)
	if err != nil {
		return scheduler.QueueReasons{}, err
	}
	return scheduler.GroupReasons(queue), nil
}

// serveMesos serves the metrics of the Mesos master.
func (s *Server) serveMesos(w http.ResponseWriter, r *http.Request) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(samples(s.shows.Mesos.Metrics(r.Context())))
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

// samples are a prometheus.Collector.
type samples []mesosmetrics.Sample

// Describe implements prometheus.Collector. Which metrics there are depends on the master.
func (samples) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (all samples) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range all {
		kind := prometheus.GaugeValue
		if s.Family.Kind == mesosmetrics.Counter {
			kind = prometheus.CounterValue
		}
		metrics <- prometheus.MustNewConstMetric(prometheus.NewDesc(s.Family.Name, s.Family.Help, s.Family.Labels, nil), kind, s.Value, s.Labels...)
	}
}
