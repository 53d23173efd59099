package scheduler

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/offers"
)

// metrics are what the owner loop shows about the core.
type metrics struct {
	podsWaiting, tasks, agents, offersLive prometheus.Gauge
	offersEnded                            *prometheus.CounterVec
	told                                   map[offers.End]uint64 // what offersEnded stands at
	upkeep                                 *upkeepMetrics
}

func newMetrics(registry prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "k8sm", Subsystem: "scheduler", Name: name, Help: help})
		registry.MustRegister(g)
		return g
	}
	m := &metrics{
		podsWaiting: gauge("pods_waiting", "Pods that need a task and have none."),
		tasks:       gauge("tasks", "Tasks that Mesos knows or should know."),
		agents:      gauge("agents_alive", "Mesos agents that are there."),
		offersLive:  gauge("offers_live", "Offers that are held."),
		offersEnded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "k8sm", Subsystem: "scheduler", Name: "offers_ended_total", Help: "Offers by how they ended.",
		}, []string{"end"}),
		told: map[offers.End]uint64{},
	}
	registry.MustRegister(m.offersEnded)
	m.upkeep = newUpkeepMetrics(registry)
	return m
}

func (m *metrics) set(s Snapshot) {
	m.podsWaiting.Set(float64(s.PodsWaiting))
	m.tasks.Set(float64(s.Tasks))
	m.agents.Set(float64(s.AgentsAlive))
	m.offersLive.Set(float64(s.Offers))
	m.upkeep.set(s)
	for end, count := range s.OffersEnded {
		m.offersEnded.WithLabelValues(end.String()).Add(float64(count - m.told[end]))
		m.told[end] = count
	}
}
