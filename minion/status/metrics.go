package status

import (
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/status"
)

// Metrics are those of one minion. Its methods may be called concurrently.
type Metrics struct {
	*prometheus.Registry

	calls  *prometheus.HistogramVec
	syncs  *prometheus.HistogramVec
	starts *prometheus.CounterVec
	peers  *prometheus.GaugeVec
}

// PeerSource is where a minion learns of the other nodes.
type PeerSource string

// The sources.
const (
	Slices PeerSource = "slices" // of package nodeslices, which the leading scheduler keeps
	Nodes  PeerSource = "nodes"  // the Node objects, while no scheduler does
)

// Synced is what is synced with the API server.
type Synced string

// What is synced.
const (
	PodNetwork      Synced = "network"  // routes, tunnels, and rules of pods
	NetworkPolicies Synced = "policies" // rules of network policies
)

// Started is a part of the node that the minion starts, and restarts when it ends.
type Started string

// The parts that are counted.
const (
	CRIServer Started = "cri"
	Kubelet   Started = "kubelet"
	Proxy     Started = "proxy"
)

const (
	namespace, subsystem = "k8sm", "minion"
	succeeded, failed    = "ok", "failed"
)

// NewMetrics returns the metrics of a minion with the versions of km and Kubernetes.
func NewMetrics(version, kubernetes string) *Metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets}
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("build_info", "1, by the versions of km, of the Kubernetes in it, and of Go.")),
		[]string{"version", "kubernetes", "goversion"})
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(histogram("cri_call_duration_seconds", "Calls of the runtime interface by method and gRPC code.",
			[]float64{.005, .025, .1, .5, 2.5, 10, 60}), []string{"method", "code"}),
		syncs: prometheus.NewHistogramVec(histogram("sync_duration_seconds", "Syncs of the node's rules and routes with the cluster, by what and result.",
			[]float64{.001, .005, .025, .1, .5, 2.5, 10}), []string{"what", "result"}),
		starts: prometheus.NewCounterVec(prometheus.CounterOpts(opts("starts_total", "Starts of the node's parts, the first ones included.")), []string{"part"}),
		peers:  prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("peers", "Other nodes to whose pods this one routes, by where it learns of them.")), []string{"source"}),
	}
	m.MustRegister(build, m.calls, m.syncs, m.starts, m.peers, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build.WithLabelValues(version, kubernetes, runtime.Version()).Set(1)
	for _, what := range []Synced{PodNetwork, NetworkPolicies} { // an alert needs a series before anything fails
		m.syncs.WithLabelValues(string(what), succeeded)
		m.syncs.WithLabelValues(string(what), failed)
	}
	for _, part := range []Started{CRIServer, Kubelet, Proxy} {
		m.starts.WithLabelValues(string(part))
	}
	return m
}

// Call counts a call of the runtime interface that has ended.
func (m *Metrics) Call(method string, took time.Duration, err error) {
	m.calls.WithLabelValues(method, status.Code(err).String()).Observe(took.Seconds())
}

// Sync returns a function that counts a sync that has ended.
func (m *Metrics) Sync(what Synced) func(took time.Duration, err error) {
	return func(took time.Duration, err error) {
		result := succeeded
		if err != nil {
			result = failed
		}
		m.syncs.WithLabelValues(string(what), result).Observe(took.Seconds())
	}
}

// Starting counts a start.
func (m *Metrics) Starting(part Started) { m.starts.WithLabelValues(string(part)).Inc() }

// Peers shows how many other nodes the minion knows, and from where.
func (m *Metrics) Peers(source PeerSource, count int) {
	m.peers.WithLabelValues(string(source)).Set(float64(count))
	for _, other := range []PeerSource{Slices, Nodes} {
		if other != source {
			m.peers.DeleteLabelValues(string(other))
		}
	}
}

// countTimeout bounds a count of containers. A Docker Engine that hangs must not hide the other metrics.
const countTimeout = 2 * time.Second

// Running is how many sandboxes and containers run.
type Running struct{ Sandboxes, Containers int }

// ShowContainers shows the numbers that count returns. When it fails there are none. Call it once.
func (m *Metrics) ShowContainers(count func(context.Context) (Running, error)) {
	m.MustRegister(containers{count, prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, "containers_running"),
		"Running containers by kind: those of pods, and their sandboxes.", []string{"kind"}, nil)})
}

// containers implements prometheus.Collector.
type containers struct {
	count func(context.Context) (Running, error)
	desc  *prometheus.Desc
}

func (c containers) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

func (c containers) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	running, err := c.count(ctx)
	if err != nil {
		return
	}
	to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(running.Containers), "container")
	to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(running.Sandboxes), "sandbox")
}
