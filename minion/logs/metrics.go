package logs

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of shipping. Its methods may be called concurrently.
type Metrics struct {
	registry                   prometheus.Registerer
	lines, bytes               prometheus.Counter
	droppedLines, droppedBytes *prometheus.CounterVec
	lag, kept                  prometheus.Gauge
}

// Reasons for dropping lines.
const (
	droppedSpool     = "spool"     // the spool is full
	droppedDisk      = "disk"      // the disk is full
	droppedTruncated = "truncated" // the file was truncated
	droppedMissing   = "missing"   // the file is gone
	droppedRefused   = "refused"   // the store does not take them
)

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "k8sm", Subsystem: "minion_logs", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	counters := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), []string{"reason"})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
	}
	m := &Metrics{
		registry:     registry,
		lines:        counter("shipped_lines_total", "Lines of containers' logs that the log store has taken."),
		bytes:        counter("shipped_bytes_total", "Bytes of these lines, without the container runtime's format."),
		droppedLines: counters("dropped_lines_total", "Lines of containers' logs that will never be in the log store, by reason, as far as they could be counted."),
		droppedBytes: counters("dropped_bytes_total", "Bytes of containers' logs that will never be in the log store, by reason, in the container runtime's format."),
		lag:          gauge("lag_seconds", "For how long the oldest line that is not in the log store has been waiting; 0 if there is none."),
		kept:         gauge("kept_bytes", "Bytes of deleted logs that are kept until the log store has them."),
	}
	registry.MustRegister(m.all()...)
	for _, reason := range []string{droppedSpool, droppedDisk, droppedTruncated, droppedMissing, droppedRefused} { // an alert needs a series before anything is dropped
		m.droppedLines.WithLabelValues(reason)
		m.droppedBytes.WithLabelValues(reason)
	}
	return m
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.lines, m.bytes, m.droppedLines, m.droppedBytes, m.lag, m.kept}
}

// unregister removes the metrics.
func (m *Metrics) unregister() {
	for _, c := range m.all() {
		m.registry.Unregister(c)
	}
}

func (m *Metrics) shipped(lines, bytes int64) {
	m.lines.Add(float64(lines))
	m.bytes.Add(float64(bytes))
}

func (m *Metrics) dropped(reason string, lines, bytes int64) {
	m.droppedLines.WithLabelValues(reason).Add(float64(lines))
	m.droppedBytes.WithLabelValues(reason).Add(float64(bytes))
}
