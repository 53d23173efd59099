package minion

import (
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/minion/status"
)

// listenForStatus returns the server of the minion's metrics, which listens already if it can. It has a client of its own: see
// callers.Delegate.
func (n *node) listenForStatus() (*status.Server, error) {
	client, err := newClient(n.boot, n.files.nodeAuth())
	if err != nil {
		return nil, err
	}
	access, err := callers.Delegate(client, n.boot.CA)
	if err != nil {
		return nil, err
	}
	n.metrics.ShowContainers(n.countContainers)
	n.metrics.MustRegister(certfile.Metrics(map[string]string{"node": n.files.certificate(), "node-server": n.files.servingCertificate()}))
	server, err := status.New(status.Config{
		Node: n.boot.Node, Address: n.settings.addresses[0], Port: *n.cluster.StatusPort,
		CertFile: n.files.servingCertificate(), CipherSuites: n.cluster.TLSCipherSuites, MinVersion: n.cluster.TLSMinVersion,
		Access: access, Metrics: n.metrics,
		ProxyMetrics: "http://" + net.JoinHostPort(loopback, strconv.Itoa(n.settings.proxyMetricsPort)) + "/metrics",
	})
	if err != nil {
		return nil, err
	}
	if err := server.Listen(); err != nil {
		n.log.WithError(err).Warn("retrying")
	}
	return server, nil
}

// countContainers asks the current CRI server.
func (n *node) countContainers(ctx context.Context) (status.Running, error) {
	server := n.criServer.Load()
	if server == nil {
		return status.Running{}, errors.New("no CRI server runs")
	}
	containers, sandboxes, err := server.Running(ctx)
	return status.Running{Containers: containers, Sandboxes: sandboxes}, err
}

// counted counts the starts of a part.
func (n *node) counted(part status.Started, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		n.metrics.Starting(part)
		return run(ctx)
	}
}
