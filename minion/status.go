package minion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/health"
	"github.com/k8sm/k8sm/minion/status"
)

// listenForStatus returns the server of the minion's metrics, which listens already if it can. It has a client of its own: see
// callers.Delegate.
func (n *node) listenForStatus(servers *apiServers) (*status.Server, error) {
	client, err := newClient(n.boot, n.files.ca(), n.files.nodeAuth())
	if err != nil {
		return nil, err
	}
	access, err := callers.Delegate(client, n.files.ca())
	if err != nil {
		return nil, err
	}
	n.metrics.ShowContainers(n.countContainers)
	n.metrics.MustRegister(certfile.Metrics(n.certificates()), servers.Balancer)
	server, err := status.New(status.Config{
		Node: n.boot.Node, Address: n.settings.addresses[0], Port: *n.cluster.StatusPort,
		CertFile: n.files.servingCertificate(), CipherSuites: n.cluster.TLSCipherSuites, MinVersion: n.cluster.TLSMinVersion,
		Access: access, Metrics: n.metrics, Traces: n.traces,
		Ready:        n.ready(servers.Ready),
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

// readyTimeout bounds what a part of the node takes to say whether it is ready.
const readyTimeout = 3 * time.Second

// ready returns a check of whether the node can run pods now: its parts work, and an API server answers.
func (n *node) ready(servers func() error) health.Check {
	return health.Seldom(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
		defer cancel()
		var problems []error
		note := func(part string, err error) {
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", part, err))
			}
		}
		note("API servers", servers())
		note("kubelet", getHealth(ctx, n.settings.kubeletHealthPort, "/healthz"))
		note("kube-proxy", getHealth(ctx, n.settings.proxyHealthPort, "/livez"))
		_, err := n.docker.Ping(ctx)
		note("Docker Engine", err)
		return errors.Join(problems...)
	})
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
