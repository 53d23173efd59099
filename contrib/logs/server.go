package logs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/certfile"
	protocol "github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/logs/own"
	"github.com/k8sm/k8sm/contrib/logs/places"
	"github.com/k8sm/k8sm/contrib/logs/read"
	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
	"github.com/k8sm/k8sm/contrib/membership"
)

const (
	// apiTimeout bounds one call to the API server, and one probe.
	apiTimeout = 5 * time.Second
	// closeTimeout bounds how long the store takes to be closed.
	closeTimeout = 20 * time.Second
)

// Run serves until ctx ends; then it leaves the service and stops. Call it once per process. A wrong configuration is an error, and so
// is an API server that does not answer.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
	debug.SetMemoryLimit(queryMemory / 2) // collects garbage before it looks like the queries'
	entries, err := store.Open(store.Config{Dir: cfg.Dir.Logs(), Retention: cfg.Retention, MaxSize: cfg.MaxSize, MinFree: minFree, Memory: memory, QueryMemory: queryMemory})
	if err != nil {
		return err
	}
	err = serve(ctx, cfg, config, entries)
	return errors.Join(err, entries.Close())
}

func serve(ctx context.Context, cfg Config, config *rest.Config, entries *store.Store) error {
	watches, err := protobuf.NewClient(config)
	if err != nil {
		return fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	known, err := places.Open(watches, filepath.Join(cfg.Dir.Logs(), "places.jsonl"), cfg.Retention)
	if err != nil {
		return err
	}
	receiver := receive.New(entries, known, cfg.NamespaceRate)
	server, err := cfg.newServer()
	if err != nil {
		return err
	}
	in := &inside{}
	install(server, in.guard, receiver, read.New(entries))
	registry := prometheus.NewRegistry()
	certFile, _ := cfg.Dir.Pair(statedir.LogsServer)
	registry.MustRegister(certfile.Metrics(map[string]string{"logs-server": certFile, "logs": config.CertFile}))
	registry.MustRegister(append(receiver.Collectors(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))...)
	server.Handler.NonGoRestfulMux.Handle("/metrics", in.guard(metrics(registry, entries)))
	ingest, err := cfg.listenForOthers(entries, in)
	if err != nil {
		return err
	}
	member, probe, err := cfg.member(config)
	if err != nil {
		return err
	}
	ready := map[string]func() error{"store": entries.Writable, "disk": receiver.Ready, "pods": known.Ready, "service": member.Ready}
	for name, check := range ready {
		if err := server.AddReadyzChecks(healthz.NamedCheck(name, func(*http.Request) error { return check() })); err != nil {
			return fmt.Errorf("cannot set up the log store's server: %w", err)
		}
	}
	parts, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // it answers until it has left the service
	parts.Go(func() error {
		if err := server.PrepareRun().RunWithContext(serving); err != nil {
			return fmt.Errorf("cannot serve logs any more: %w", err)
		}
		return nil
	})
	parts.Go(func() error {
		defer stop()
		defer in.close()
		return member.Keep(ctx, probe, apiTimeout)
	})
	parts.Go(func() error { return receiver.Run(ctx) })
	parts.Go(func() error { return ingest(ctx) })
	parts.Go(func() error { return known.Run(ctx) })
	parts.Go(func() error {
		return own.Run(ctx, own.Config{
			Kube: watches, Dir: filepath.Join(cfg.Dir.Logs(), "own"), Files: cfg.Files, Serve: receiver.ServeOwn, Node: "control-plane:" + member.Host, Registry: registry,
		})
	})
	return parts.Wait()
}

// newServer returns a server that asks the cluster's API server who calls, and whether he may.
func (c Config) newServer() (*genericapiserver.GenericAPIServer, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config := genericapiserver.NewConfig(serializer.NewCodecFactory(scheme))
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.SkipOpenAPIInstallation, config.EnableMetrics, config.EnableIndex = true, false, false // profiles are for who may get their paths
	config.LongRunningFunc = filters.BasicLongRunningRequestCheck(sets.NewString(), sets.NewString("log"))
	secure, authentication, authorization := genericoptions.NewSecureServingOptions().WithLoopback(), genericoptions.NewDelegatingAuthenticationOptions(), genericoptions.NewDelegatingAuthorizationOptions()
	secure.BindAddress, secure.BindPort = net.ParseIP(c.Address), c.Port
	secure.ServerCert.CertKey.CertFile, secure.ServerCert.CertKey.KeyFile = c.Dir.Pair(statedir.LogsServer)
	secure.CipherSuites, secure.MinTLSVersion = api.CipherSuites(), "VersionTLS12"
	authentication.RemoteKubeConfigFile, authorization.RemoteKubeConfigFile = c.Kubeconfig, c.Kubeconfig
	authorization.AllowCacheTTL, authorization.DenyCacheTTL = 30*time.Second, 10*time.Second
	err := errors.Join(
		secure.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig),
		authentication.ApplyTo(&config.Authentication, config.SecureServing, nil),
		authorization.ApplyTo(&config.Authorization),
	)
	if err != nil {
		return nil, fmt.Errorf("cannot set up the log store's server: %w", err)
	}
	config.Authorization.Authorizer = rights{config.Authorization.Authorizer}
	server, err := config.Complete(nil).New("logstore", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("cannot set up the log store's server: %w", err)
	}
	server.ShutdownTimeout = closeTimeout / 2
	return server, nil
}

// metrics serves the metrics of the registry and of VictoriaLogs.
func metrics(registry *prometheus.Registry, entries *store.Store) http.Handler {
	own := promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept") // what follows is text
		own.ServeHTTP(w, r)
		entries.WriteMetrics(w)
	})
}

// member is the store in its service, and probe asks whether it works.
func (c Config) member(config *rest.Config) (m *membership.Member, probe func(context.Context) error, err error) {
	config = rest.CopyConfig(config)
	config.Timeout = apiTimeout
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot find this machine's name: %w", err)
	}
	if probe, err = c.prober(); err != nil {
		return nil, nil, err
	}
	return &membership.Member{
		Kube: kube, Of: api.LogsMembership(), What: "log store", Host: host, Listen: c.listen(),
		Ports: []membership.Port{{Name: api.LogsPortName, Protocol: corev1.ProtocolTCP}},
	}, probe, nil
}

// prober returns a function that asks the store whether it works.
func (c Config) prober() (func(context.Context) error, error) {
	return membership.Prober(c.Dir.CA(), protocol.ServerName, "https://"+c.listen().String()+"/livez", apiTimeout)
}

// inside lets the store be closed when no request uses it any more. Its zero value is ready.
type inside struct {
	mu       sync.Mutex // guards all below
	closed   bool
	requests sync.WaitGroup
	ends     map[*http.Request]context.CancelFunc
}

// guard wraps a handler that uses the store.
func (in *inside) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, end := context.WithCancel(r.Context())
		defer end()
		r = r.WithContext(ctx)
		if !in.enter(r, end) {
			http.Error(w, "the log store ends", http.StatusServiceUnavailable)
			return
		}
		defer in.leave(r)
		h.ServeHTTP(w, r)
	})
}

func (in *inside) enter(r *http.Request, end context.CancelFunc) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	if in.ends == nil {
		in.ends = map[*http.Request]context.CancelFunc{}
	}
	in.requests.Add(1)
	in.ends[r] = end
	return true
}

func (in *inside) leave(r *http.Request) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.ends, r)
	in.requests.Done()
}

// close ends all requests, and waits until they have ended.
func (in *inside) close() {
	in.mu.Lock()
	in.closed = true
	for _, end := range in.ends {
		end()
	}
	in.mu.Unlock()
	in.requests.Wait()
}
