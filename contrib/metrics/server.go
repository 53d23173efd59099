package metrics

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app/options"
	"sigs.k8s.io/metrics-server/pkg/scraper/client"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/k8sm/k8sm/contrib/metrics/history"
)

const (
	// resolution is how often metrics-server reads the kubelets, as in its own manifests.
	resolution = 15 * time.Second
	// kubeletTimeout bounds the answer of one kubelet.
	kubeletTimeout = 10 * time.Second
	// apiTimeout bounds one call to the API server, and one probe.
	apiTimeout = 5 * time.Second
	// closeTimeout bounds how long the stored metrics take to be closed.
	closeTimeout = 20 * time.Second
)

// Run serves until ctx ends; then it leaves the service and stops. Call it once per process. A wrong configuration is an error, and so
// is an API server that does not answer. What is wrong with stored metrics, such as a full disk, keeps nobody from the others.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	takeOverLog(klog.Background().GetSink())
	config, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
	sources, err := cfg.newSources(config)
	if err != nil {
		return err
	}
	kept, err := history.New(cfg.history(sources.jobs))
	if err != nil {
		return err
	}
	settings, err := cfg.options().ServerConfig()
	if err != nil {
		return fmt.Errorf("cannot set up metrics-server: %w", err)
	}
	askByAddress(settings.Kubelet)
	server, err := settings.Complete()
	if err != nil {
		return fmt.Errorf("cannot set up metrics-server: %w", err)
	}
	legacyregistry.RawMustRegister(certfile.Metrics(cfg.certFiles()))
	installHistory(server.GenericAPIServer, kept)
	server.Handler.NonGoRestfulMux.Handle("/metrics/history", promhttp.HandlerFor(kept, promhttp.HandlerOpts{}))
	member, err := cfg.member(config)
	if err != nil {
		return err
	}
	probe, err := cfg.prober()
	if err != nil {
		return err
	}
	for name, check := range map[string]func() error{"history": kept.Ready, "service": member.Ready} {
		if err := server.AddReadyzChecks(healthz.NamedCheck(name, func(*http.Request) error { return check() })); err != nil {
			return fmt.Errorf("cannot set up metrics-server: %w", err)
		}
	}
	parts, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // it answers until it has left the service
	parts.Go(func() error {
		if err := server.RunUntil(serving.Done()); err != nil {
			return fmt.Errorf("cannot serve metrics any more: %w", err)
		}
		return nil
	})
	parts.Go(func() error {
		defer stop()
		return member.Keep(ctx, probe, apiTimeout)
	})
	parts.Go(func() error { return sources.follow(ctx) })
	parts.Go(func() error { return kept.Run(ctx) })
	return parts.Wait()
}

// certFiles are the server's certificates.
func (c Config) certFiles() map[string]string {
	files := map[string]string{}
	for _, leaf := range []statedir.Leaf{statedir.MetricsServer, statedir.MetricsClient, statedir.MetricsEtcdClient} {
		files[string(leaf)], _ = c.Dir.Pair(leaf)
	}
	return files
}

// options are metrics-server's, as its flags would set them.
func (c Config) options() *options.Options {
	o := options.NewOptions()
	o.Kubeconfig = c.Kubeconfig
	o.Authentication.RemoteKubeConfigFile, o.Authorization.RemoteKubeConfigFile = o.Kubeconfig, o.Kubeconfig
	o.SecureServing.BindAddress, o.SecureServing.BindPort = net.ParseIP(c.Address), c.Port
	o.SecureServing.ServerCert.CertKey.CertFile, o.SecureServing.ServerCert.CertKey.KeyFile = c.Dir.Pair(statedir.MetricsServer)
	o.SecureServing.CipherSuites, o.SecureServing.MinTLSVersion = api.CipherSuites(), "VersionTLS12"
	o.KubeletClient.KubeletUseNodeStatusPort = true
	o.KubeletClient.KubeletPreferredAddressTypes = []string{string(corev1.NodeInternalIP)}
	o.KubeletClient.KubeletCAFile = c.Dir.KubeletTrust()
	o.KubeletClient.KubeletRequestTimeout = kubeletTimeout
	o.MetricResolution = resolution
	return o
}

// askByAddress makes the client of kubelets expect their addresses in their certificates. metrics-server makes it of the kubeconfig, which
// may have the name of the API servers.
func askByAddress(kubelets *client.KubeletClientConfig) { kubelets.Client.ServerName = "" }

// member is the server in its service.
func (c Config) member(config *rest.Config) (*membership.Member, error) {
	config = rest.CopyConfig(config)
	config.Timeout = apiTimeout
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("cannot find this machine's name: %w", err)
	}
	return &membership.Member{
		Kube: kube, Of: api.MetricsMembership(), What: "metrics server", Host: host, Listen: c.listen(),
		Ports: []membership.Port{{Name: api.MetricsPortName, Protocol: corev1.ProtocolTCP}},
	}, nil
}

// prober returns a function that asks the server whether it works. It does not depend on kubelets: a cluster without nodes needs the API
// as well, because clients look for all APIs.
func (c Config) prober() (func(context.Context) error, error) {
	return membership.Prober(c.Dir.CA(), statedir.MetricsServerName, "https://"+c.listen().String()+"/livez", apiTimeout)
}
