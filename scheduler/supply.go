package scheduler

import (
	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// supplies implements match.Source: it tells the index what agents have for pods.
type supplies struct{ core *Core }

// Supply implements match.Source.
func (x supplies) Supply(seen *match.Agent) match.Supply {
	c, a := x.core, x.core.agents.of(seen)
	s := match.Supply{Node: c.agents.nodeOf(a), Drains: c.disruptions.drains(a), Runs: a.hasExecutor, Minion: c.agents.minionOf(a)}
	s.Closed = c.disruptions.closed(c.step.now, a, s.Node)
	return s
}

// Offers implements match.Source. An agent that is not alive, or cannot have a node, has no offers.
func (x supplies) Offers(into []*offers.Offer, seen *match.Agent) []*offers.Offer {
	if !seen.Alive || seen.Node == "" {
		return into
	}
	return x.core.offering.collect(into, seen.ID)
}

// Executor implements match.Source: it returns the state of the executor of the view's agent, and the charge for a new one. A
// record has to be prepared again if its token may expire, or if the offers do not hold its resources, because their role or
// reservation differs: Mesos would refuse the tasks (validateExecutor in src/master/validation.cpp wants all resources of a
// task and its executor in the offers). But if the executor was already launched in other offers, pods wait for it.
func (x supplies) Executor(v *match.View) match.Executor {
	c, a := x.core, x.core.agents.of(v.Agent)
	e := &a.executor
	seen := match.Executor{Failed: c.step.now.Before(e.after)}
	for _, id := range a.last.Executors {
		if id != api.MinionExecutorID {
			seen.Foreign = id
		}
	}
	if a.hasExecutor {
		seen.Prepared = e.record != nil
		return seen
	}
	seen.Held = c.rollouts.holdsMinions() != ""
	seen.NewCharge = c.agents.charge(v.Free)
	seen.Charge = seen.NewCharge
	c.agents.seeRecord(a, v, &seen)
	if a.warm == nil && c.cfg.Revocable && seen.Charge.Sum(offers.CPUs) == 0 {
		d := c.cfg.warmDemand()
		seen.Companion = &d
	}
	return seen
}

// seeRecord checks whether the record of an executor that does not run can be used in the view.
func (as *agents) seeRecord(a *agent, v *match.View, seen *match.Executor) {
	e := &a.executor
	pending := len(as.core.tasks.on(a.ID)) > 0
	switch {
	case len(v.Offers) == 0 || e.record == nil:
	case e.kept:
		if seen.Coming = pending; !pending { // else that executor may still run
			e.record = nil
		}
	case e.ran && !pending:
		e.record = nil
	case !e.ran && as.core.step.now.Sub(e.made) >= tokenFresh:
		e.record = nil
	case !v.Free.Holds(e.charge):
		seen.Coming = pending
		if !pending && (len(e.charge) == 0 || e.charge[0].Role == v.Role) {
			e.record = nil
		}
	default:
		seen.Prepared, seen.Charge = true, e.charge
	}
}

// Mixes implements match.Source.
func (x supplies) Mixes(seen *match.Agent) bool {
	e := &x.core.agents.of(seen).executor
	return e.record != nil && e.charge.Sum(offers.CPUs) > 0
}

// charge returns the executor's resources, taken from the free ones as far as they suffice.
func (as *agents) charge(free offers.Resources) offers.Resources {
	var charge offers.Resources
	for i, amount := range as.core.cfg.executor(free.Sum(offers.Disk)).Scalars {
		if amount == 0 {
			continue
		}
		taken, _, enough := free.Take(match.ScalarNames[i], amount)
		if !enough {
			taken = offers.Resources{{Name: match.ScalarNames[i], Scalar: amount}}
		}
		charge = append(charge, taken...)
	}
	return charge
}

// nodeOf returns the agent's node. It is nil while the node does not exist, still belongs to the agent that was there before,
// or lacks labels for the agent's attributes: until then node selectors cannot be matched.
func (as *agents) nodeOf(a *agent) *v1.Node {
	node := as.nodes[a.Node]
	if node == nil || node.Spec.ProviderID != api.ProviderID(a.ID) {
		return nil
	}
	if node != a.upToDate && a.last.ID != "" && len(staleLabels(node, agentLabels(a))) > 0 {
		return nil
	}
	return node
}
