package metrics

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app/options"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// resolution is how often metrics-server reads the kubelets, as in its own manifests.
	resolution = 15 * time.Second
	// kubeletTimeout bounds the answer of one kubelet.
	kubeletTimeout = 10 * time.Second
	// apiTimeout bounds one call to the API server, and one probe.
	apiTimeout = 5 * time.Second
)

// Run serves until ctx ends; then it leaves the service and stops. Call it once per process. A wrong configuration is an error, and so
// is an API server that does not answer.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	takeOverLog(klog.Background().GetSink())
	config, err := cfg.options().ServerConfig()
	if err != nil {
		return fmt.Errorf("cannot set up metrics-server: %w", err)
	}
	server, err := config.Complete()
	if err != nil {
		return fmt.Errorf("cannot set up metrics-server: %w", err)
	}
	member, err := cfg.member()
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // it answers until it has left the service
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- server.RunUntil(serving.Done()) }()
	joined, leave := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() { left <- cfg.keep(joined, member) }()
	select {
	case err = <-failed:
		leave()
		<-left
		return fmt.Errorf("cannot serve metrics any more: %w", err)
	case err = <-left: // ctx has ended
	}
	leave()
	stop()
	if failure := <-failed; failure != nil {
		return fmt.Errorf("cannot stop serving metrics: %w", failure)
	}
	return err
}

// options are metrics-server's, as its flags would set them.
func (c Config) options() *options.Options {
	o := options.NewOptions()
	o.Kubeconfig = c.Dir.MetricsKubeconfig()
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

// member is the server in its service.
func (c Config) member() (*membership.Member, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Dir.MetricsKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
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

// keep keeps the server in the service as long as it answers, until ctx ends.
func (c Config) keep(ctx context.Context, m *membership.Member) error {
	probe, err := c.prober()
	if err != nil {
		return err
	}
	for pause := time.Duration(0); supervise.Sleep(ctx, pause) == nil; {
		once, cancel := context.WithTimeout(ctx, apiTimeout)
		if err := m.Beat(once, probe(once) == nil); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot update the service, retrying")
		}
		cancel()
		if pause = membership.Interval; !m.Inside() {
			pause = membership.Interval / 10
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
	defer cancel()
	return m.Leave(last)
}

// prober returns a function that asks the server whether it works. It does not depend on kubelets: a cluster without nodes needs the API
// as well, because clients look for all APIs.
func (c Config) prober() (func(context.Context) error, error) {
	authority, err := certutil.NewPool(c.Dir.CA())
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's CA: %w", err)
	}
	client := &http.Client{Timeout: apiTimeout, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: authority, ServerName: statedir.MetricsServerName, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true, // a restarted process listens on the same port
	}}
	url := "https://" + netip.AddrPort.String(c.listen()) + "/livez"
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}, nil
}
