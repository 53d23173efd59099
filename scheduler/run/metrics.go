package run

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/scheduler"
)

// gauges show the current state.
var gauges = []struct {
	name, help string
	value      func(scheduler.Snapshot) int
}{
	{"pods_waiting", "Pods that need a task and have none.", func(s scheduler.Snapshot) int { return s.PodsWaiting }},
	{"tasks", "Tasks that Mesos knows or should know.", func(s scheduler.Snapshot) int { return s.Tasks }},
	{"agents_alive", "Mesos agents that are reachable.", func(s scheduler.Snapshot) int { return s.AgentsAlive }},
	{"agents_failing", "Mesos agents where the last task failed before it ran.", func(s scheduler.Snapshot) int { return s.AgentsFailing }},
	{"agents_maintenance_planned", "Mesos agents with planned maintenance.", func(s scheduler.Snapshot) int { return s.AgentsPlanned }},
	{"agents_draining", "Mesos agents that an operator has drained.", func(s scheduler.Snapshot) int { return s.AgentsDraining }},
	{"offers_live", "Offers that are held.", func(s scheduler.Snapshot) int { return s.Offers }},
	{"nodes_warm", "Nodes that keep a minion without pods.", func(s scheduler.Snapshot) int { return s.NodesWarm }},
	{
		"nodes_outdated", "Nodes whose minion has another version of km than the scheduler, or other settings than the cluster.",
		func(s scheduler.Snapshot) int { return s.NodesOutdated },
	},
	{
		"rollouts_under_way", "Nodes whose minion is being replaced by one with the scheduler's version and the cluster's settings.",
		func(s scheduler.Snapshot) int { return s.RolloutsUnderWay },
	},
	{
		"rollouts_stopped", "Nodes where the replacement of the minion failed. No other starts until an operator has acted.",
		func(s scheduler.Snapshot) int { return s.RolloutsStopped },
	},
	{
		"minions_held", "1 while no minion is started or replaced because its kubelet would be newer than an API server, else 0.",
		func(s scheduler.Snapshot) int { return s.MinionsHeld },
	},
}

// counters count what the scheduler did in all its times as the leader.
var counters = []struct {
	name, help string
	value      func(scheduler.Snapshot) uint64
}{
	{
		"preemption_attempts_total", "Searches for pods to preempt. Equal pods share one.",
		func(s scheduler.Snapshot) uint64 { return s.Preemptions },
	},
	{
		"preemption_victims_total", "Pods that were preempted for pods of higher priority.",
		func(s scheduler.Snapshot) uint64 { return s.Victims },
	},
	{
		"pods_rejected_total", "Pods that the kubelet of their node did not admit.",
		func(s scheduler.Snapshot) uint64 { return s.PodsRejected },
	},
}

// families are counters with a label. All label values start at 0, so that an alert on one has a series.
var families = []struct {
	name, help, label string
	values            func(scheduler.Snapshot) map[string]uint64
}{
	{
		"offers_ended_total", "Offers by how they ended.", "end",
		func(s scheduler.Snapshot) map[string]uint64 { return byName(s.OffersEnded) },
	},
	{
		"inverse_offers_total", "Inverse offers by how they ended.", "end",
		func(s scheduler.Snapshot) map[string]uint64 { return byName(s.InverseOffers) },
	},
	{
		"evictions_total", "Attempts to evict pods for maintenance, draining or a rollout, by outcome.", "outcome",
		func(s scheduler.Snapshot) map[string]uint64 { return byName(s.Evictions) },
	},
}

func byName[K interface {
	comparable
	String() string
}](counts map[K]uint64) map[string]uint64 {
	named := make(map[string]uint64, len(counts))
	for key, count := range counts {
		named[key.String()] = count
	}
	return named
}

// metrics show the core's snapshots; nil shows none. The slices are as long as gauges, counters and families.
type metrics struct {
	gauges   []prometheus.Gauge
	counters []prometheus.Counter
	families []*prometheus.CounterVec
	// leader and connected are 1 or 0.
	leader, connected prometheus.Gauge
	stages            *stages
	last              scheduler.Snapshot // what the counters show
}

func newMetrics(registry prometheus.Registerer, book *podtrace.Book) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "k8sm", Subsystem: "scheduler", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
		registry.MustRegister(g)
		return g
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("build_info", "1, by the versions of km, of the Kubernetes in it, and of Go.")),
		[]string{"version", "kubernetes", "goversion"})
	registry.MustRegister(build)
	build.WithLabelValues(api.Version, api.KubernetesVersion, runtime.Version()).Set(1)
	m := &metrics{
		leader:    gauge("leader", "1 if this scheduler leads, else 0."),
		connected: gauge("mesos_connected", "1 if this scheduler is subscribed at a Mesos master, else 0."),
		stages:    newStages(registry, book),
	}
	for _, g := range gauges {
		m.gauges = append(m.gauges, gauge(g.name, g.help))
	}
	for _, c := range counters {
		m.counters = append(m.counters, prometheus.NewCounter(prometheus.CounterOpts(opts(c.name, c.help))))
		registry.MustRegister(m.counters[len(m.counters)-1])
	}
	for _, f := range families {
		m.families = append(m.families, prometheus.NewCounterVec(prometheus.CounterOpts(opts(f.name, f.help)), []string{f.label}))
		registry.MustRegister(m.families[len(m.families)-1])
	}
	return m
}

// begin says that the scheduler leads, with a core that has counted nothing.
func (m *metrics) begin() {
	if m == nil {
		return
	}
	m.last = scheduler.Snapshot{}
	m.leader.Set(1)
	m.stages.begin()
}

// note notes an event and what the core made of it.
func (m *metrics) note(now time.Time, ev scheduler.Event, acts []scheduler.Action) {
	if m == nil {
		return
	}
	switch ev.(type) {
	case scheduler.Subscribed:
		m.connected.Set(1)
	case scheduler.Disconnected:
		m.connected.Set(0)
	}
	m.stages.saw(now, ev)
	for _, act := range acts {
		m.stages.did(now, act)
	}
}

// end shows that there is no state any more.
func (m *metrics) end() {
	if m == nil {
		return
	}
	m.leader.Set(0)
	m.connected.Set(0)
	for _, gauge := range m.gauges {
		gauge.Set(0)
	}
}

// set shows a snapshot. It adds to each counter the difference from the last snapshot.
func (m *metrics) set(s scheduler.Snapshot) {
	if m == nil {
		return
	}
	for i, g := range gauges {
		m.gauges[i].Set(float64(g.value(s)))
	}
	for i, c := range counters {
		m.counters[i].Add(float64(c.value(s) - c.value(m.last)))
	}
	for i, f := range families {
		before := f.values(m.last)
		for value, count := range f.values(s) {
			m.families[i].WithLabelValues(value).Add(float64(count - before[value]))
		}
	}
	m.last = s
}
