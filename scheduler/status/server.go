package status

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	log "github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"k8s.io/client-go/util/cert"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/api/profiling"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosmetrics"
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
}

// Mesos has the metrics of the leading Mesos master. Its methods are called concurrently.
type Mesos interface {
	// Metrics returns them within 10 s; none if this scheduler does not lead.
	Metrics(ctx context.Context) []mesosmetrics.Sample
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
		"`host:port` on which the scheduler serves /healthz, /metrics and /debug (HTTPS); \"\" serves nothing")
	fs.StringVar(&c.CertFile, "tls-cert-file", "", "certificate of --status-address (default: the state directory's)")
	fs.StringVar(&c.KeyFile, "tls-private-key-file", "", "key of --tls-cert-file")
	fs.StringVar(&c.ClientCAFile, "client-ca-file", "",
		"CA of the clients that may read /metrics and /debug (default: the cluster's, from the state directory)")
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
	source   Source
	metrics  prometheus.Gatherer
	mesos    Mesos
}

// Listen takes the port, so that a port in use is an error before anything starts. The caller must call Run or Close.
func Listen(c Config, source Source, metrics prometheus.Gatherer, mesos Mesos) (*Server, error) {
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate of --status-address: %w; give --tls-cert-file, or --status-address=\"\" to serve no status", err)
	}
	clients, err := cert.NewPool(c.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the client CA of --status-address: %w; give --client-ca-file, or --status-address=\"\" to serve no status", err)
	}
	suites, err := cliflag.TLSCipherSuites(api.CipherSuites())
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
	secured := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: clients,
	}
	return &Server{listener: l, secured: secured, source: source, metrics: metrics, mesos: mesos}, nil
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

// handler serves /healthz to everyone, and the other paths to authorized callers.
func (s *Server) handler() http.Handler {
	protected := http.NewServeMux()
	protected.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	protected.Handle("GET /metrics/mesos", http.HandlerFunc(s.serveMesos))
	protected.Handle("GET "+offersPath, show(s.source.Offers))
	protected.Handle("GET "+tasksPath, show(s.source.Tasks))
	protected.Handle("GET "+queuePath, show(s.source.Queue))
	protected.Handle("GET "+nodesPath, show(s.source.Nodes))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle(profiling.Path, callers.Only(profiling.Handler()))
	mux.Handle("/", callers.Only(protected, api.SchedulerUser))
	return mux
}

// serveMesos serves the metrics of the Mesos master.
func (s *Server) serveMesos(w http.ResponseWriter, r *http.Request) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(samples(s.mesos.Metrics(r.Context())))
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

// show serves the result of read as JSON.
func show[T any](read func(context.Context) (T, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		state, err := read(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(state); err != nil {
			log.WithError(err).Debug("cannot send the status to the client")
		}
	})
}
