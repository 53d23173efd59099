package run

import (
	"context"
	"time"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/scheduler"
)

// Falcon takes metrics for open-falcon; *falcon.Pusher implements it.
type Falcon interface {
	// Push queues the metrics of one moment and returns at once.
	Push(at time.Time, elements []falcon.Element)
	// Step is the time between two pushes.
	Step() time.Duration
	// Run sends what is queued, until ctx ends. It runs while this scheduler leads.
	Run(ctx context.Context) error
}

// falconClock says when to push. The first time is a step after the scheduler became the leader, when it knows the cluster.
type falconClock struct {
	falcon Falcon // nil for no metrics
	next   time.Time
}

// tick pushes the core's figures if it is time.
func (c *falconClock) tick(now time.Time, core *scheduler.Core) {
	if c.falcon == nil || now.Before(c.next) {
		return
	}
	if !c.next.IsZero() {
		c.falcon.Push(now, falconElements(core.Snapshot(), core.TaskStates()))
	}
	if c.next = c.next.Add(c.falcon.Step()); c.next.Before(now) { // the first tick, or the machine was suspended
		c.next = now.Add(c.falcon.Step())
	}
}

func falconElements(s scheduler.Snapshot, states map[scheduler.TaskState]int) []falcon.Element {
	elements := []falcon.Element{
		falcon.Gauge("k8sm.pods.waiting", float64(s.PodsWaiting), ""),
		falcon.Gauge("k8sm.offers.live", float64(s.Offers), ""),
		falcon.Gauge("k8sm.agents.alive", float64(s.AgentsAlive), ""),
	}
	for state, count := range states {
		elements = append(elements, falcon.Gauge("mesos.tasks", float64(count), falcon.Tags("state", state.String())))
	}
	return elements
}
