package run

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/scheduler"
)

// metrics are what the owner loop shows about the core.
type metrics struct {
	podsWaiting, tasks, agents, offersLive prometheus.Gauge
	offersEnded                            *prometheus.CounterVec
	upkeep                                 *upkeepMetrics
	preemptions, victims, rejected         prometheus.Counter
	failing                                prometheus.Gauge
	told                                   scheduler.Snapshot // what the counters stand at
}

func newMetrics(registry prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "k8sm", Subsystem: "scheduler", Name: name, Help: help})
		registry.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "k8sm", Subsystem: "scheduler", Name: name, Help: help})
		registry.MustRegister(c)
		return c
	}
	m := &metrics{
		podsWaiting: gauge("pods_waiting", "Pods that need a task and have none."),
		tasks:       gauge("tasks", "Tasks that Mesos knows or should know."),
		agents:      gauge("agents_alive", "Mesos agents that are there."),
		offersLive:  gauge("offers_live", "Offers that are held."),
		offersEnded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "k8sm", Subsystem: "scheduler", Name: "offers_ended_total", Help: "Offers by how they ended.",
		}, []string{"end"}),
		preemptions: counter("preemption_attempts_total", "Searches for pods to preempt; equal pods share one."),
		failing:     gauge("agents_failing", "Mesos agents where the last task failed before it ran."),
		rejected:    counter("pods_rejected_total", "Pods that the kubelet of their node did not admit."),
		victims:     counter("preemption_victims_total", "Pods that were preempted for more important ones."),
	}
	registry.MustRegister(m.offersEnded)
	m.upkeep = newUpkeepMetrics(registry)
	return m
}

func (m *metrics) set(s scheduler.Snapshot) {
	m.podsWaiting.Set(float64(s.PodsWaiting))
	m.tasks.Set(float64(s.Tasks))
	m.agents.Set(float64(s.AgentsAlive))
	m.offersLive.Set(float64(s.Offers))
	m.upkeep.set(s)
	for end, count := range s.OffersEnded {
		m.offersEnded.WithLabelValues(end.String()).Add(float64(count - m.told.OffersEnded[end]))
	}
	m.preemptions.Add(float64(s.Preemptions - m.told.Preemptions))
	m.victims.Add(float64(s.Victims - m.told.Victims))
	m.rejected.Add(float64(s.PodsRejected - m.told.PodsRejected))
	m.failing.Set(float64(s.AgentsFailing))
	m.told = s
}
