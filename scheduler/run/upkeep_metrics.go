package run

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/scheduler"
)

// upkeepMetrics are what the owner loop shows about maintenance, draining and rollouts.
type upkeepMetrics struct {
	planned, draining  prometheus.Gauge
	inverse, evictions *prometheus.CounterVec

	outdated, underWay, stopped, warm prometheus.Gauge   // of versions of km
	told                              scheduler.Snapshot // what the counters stand at
}

func newUpkeepMetrics(registry prometheus.Registerer) *upkeepMetrics {
	options := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "k8sm", Subsystem: "scheduler", Name: name, Help: help}
	}
	m := &upkeepMetrics{
		planned:  prometheus.NewGauge(prometheus.GaugeOpts(options("agents_maintenance_planned", "Mesos agents for which maintenance is planned."))),
		draining: prometheus.NewGauge(prometheus.GaugeOpts(options("agents_draining", "Mesos agents that an operator has drained."))),
		inverse: prometheus.NewCounterVec(prometheus.CounterOpts(options("inverse_offers_total", "Inverse offers by how they ended.")),
			[]string{"end"}),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts(options("evictions_total", "Tries to evict pods from such agents, by outcome.")),
			[]string{"outcome"}),
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(options(name, help)))
	}
	m.outdated = gauge("nodes_outdated", "Nodes whose minion is of another version of km than the scheduler.")
	m.underWay = gauge("rollouts_under_way", "Nodes whose minion is being replaced by one of the scheduler's version.")
	m.stopped = gauge("rollouts_stopped", "Nodes where that was given up: no other is begun until an operator has seen to it.")
	m.warm = gauge("nodes_warm", "Nodes whose minion is kept up without pods.")
	registry.MustRegister(m.planned, m.draining, m.inverse, m.evictions, m.outdated, m.underWay, m.stopped, m.warm)
	return m
}

func (m *upkeepMetrics) set(s scheduler.Snapshot) {
	m.planned.Set(float64(s.AgentsPlanned))
	m.draining.Set(float64(s.AgentsDraining))
	m.outdated.Set(float64(s.NodesOutdated))
	m.underWay.Set(float64(s.RolloutsUnderWay))
	m.stopped.Set(float64(s.RolloutsStopped))
	m.warm.Set(float64(s.NodesWarm))
	for end, count := range s.InverseOffers {
		m.inverse.WithLabelValues(end.String()).Add(float64(count - m.told.InverseOffers[end]))
	}
	for outcome, count := range s.Evictions {
		m.evictions.WithLabelValues(outcome.String()).Add(float64(count - m.told.Evictions[outcome]))
	}
	m.told = s
}
