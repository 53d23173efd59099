package dns

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/api/profiling"
)

// measurePlugin counts queries, as CoreDNS' plugin "prometheus" does, but has no listener: metrics and profiles are served together.
const measurePlugin = "measure"

func init() {
	plugin.Register(measurePlugin, func(c *caddy.Controller) error {
		m := metrics.New("")
		for _, zone := range plugin.OriginsFromArgsOrServerBlock(nil, c.ServerBlockKeys) {
			m.AddZone(zone)
		}
		dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
			m.Next = next
			return m
		})
		return nil
	})
	dnsserver.Directives = slices.Insert(dnsserver.Directives, slices.Index(dnsserver.Directives, "prometheus")+1, measurePlugin)
}

// metricsLimits are those of the metrics' clients.
var metricsLimits = connlimit.Limits{Connections: 128, PerClient: 64, Header: 5 * time.Second, Request: 10 * time.Second, Answer: time.Minute}

// listen takes the port of the metrics.
func (m Metrics) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", m.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics: %w; stop what uses the port, or give another --metrics-address", err)
	}
	return l, nil
}

// serve serves metrics and profiles until ctx ends.
func (m Metrics) serve(ctx context.Context, l net.Listener) error {
	secured, err := m.tls()
	if err != nil {
		return err
	}
	if err := metricsLimits.Serve(ctx, l, secured, metricsHandler()); err != nil {
		return fmt.Errorf("cannot serve metrics any more: %w", err)
	}
	return nil
}

// tls refuses clients without a certificate of the CA.
func (m Metrics) tls() (*tls.Config, error) {
	pair := certfile.NewPair(m.CertFile, m.KeyFile)
	if _, err := pair.Get(); err != nil {
		return nil, fmt.Errorf("cannot use --tls-cert-file and --tls-private-key-file: %w", err)
	}
	suites, err := cliflag.TLSCipherSuites(api.CipherSuites())
	if err != nil {
		return nil, err
	}
	secured, err := certfile.Server(&tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: suites, ClientAuth: tls.RequireAndVerifyClientCert}, pair, m.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot use --client-ca-file: %w", err)
	}
	return secured, nil
}

// metricsHandler serves metrics to all clients, and profiles to administrators.
func metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.Handler())
	mux.Handle(profiling.Path, callers.Only(profiling.Handler()))
	return mux
}
