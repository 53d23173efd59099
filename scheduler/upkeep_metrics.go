package scheduler

import "github.com/prometheus/client_golang/prometheus"

// upkeepMetrics are what the owner loop shows about maintenance and draining.
type upkeepMetrics struct {
	planned, draining  prometheus.Gauge
	inverse, evictions *prometheus.CounterVec
	told               Snapshot // what the counters stand at
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
	registry.MustRegister(m.planned, m.draining, m.inverse, m.evictions)
	return m
}

func (m *upkeepMetrics) set(s Snapshot) {
	m.planned.Set(float64(s.AgentsPlanned))
	m.draining.Set(float64(s.AgentsDraining))
	for end, count := range s.InverseOffers {
		m.inverse.WithLabelValues(end.String()).Add(float64(count - m.told.InverseOffers[end]))
	}
	for outcome, count := range s.Evictions {
		m.evictions.WithLabelValues(outcome.String()).Add(float64(count - m.told.Evictions[outcome]))
	}
	m.told = s
}
