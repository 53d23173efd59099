package match

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Agent is a Mesos agent. Only the Index changes the unexported fields.
type Agent struct {
	ID api.AgentID
	// Owner is for the caller; the Index ignores it.
	Owner any
	Node  string // the node's name; "" if the agent can have none
	// Total is the most that the agent ever had for this framework.
	Total Totals
	// Alive says that, as far as we know, Mesos can reach the agent.
	Alive bool
	// Guard keeps pods off the agent after failures there; nil if there were none.
	Guard Guard

	order     int     // of arrival
	changed   bool    // its views are out of date
	views     []*View // one for each role that it makes offers to, the preferred role first
	idle      *View   // a view of the whole agent, to explain why a pod waits; made on demand
	nominees  []*Pod  // pods nominated to the agent's node
	installed bool    // it has fetched km from this scheduler
}

// Guard keeps pods off an agent where others have failed. Its answers may change at any time.
type Guard interface {
	// Fails tells whether the agent fails every task.
	Fails() bool
	// Rejects returns why the agent must not get pods with these requests, after it rejected such pods; "" if it may.
	Rejects(requests *Requests, extended Extended) string
}

// Views returns the views of the agent, the preferred role first. They belong to the Index.
func (a *Agent) Views() []*View { return a.views }

// Nominees returns the pods that are nominated to the agent's node. The slice is never changed.
func (a *Agent) Nominees() []*Pod { return a.nominees }

// Totals are amounts of each scalar, and ranges of ports.
type Totals struct {
	Scalars [NumScalars]offers.Milli
	Ports   []offers.Range
}

// AddPorts adds the ranges that t does not contain yet.
func (t *Totals) AddPorts(ranges []offers.Range) {
	for _, r := range ranges {
		if !slices.ContainsFunc(t.Ports, func(p offers.Range) bool { return p.Begin <= r.Begin && r.End <= p.End }) {
			t.Ports = append(t.Ports, r)
		}
	}
}

// resources returns the totals as offered resources.
func (t *Totals) resources() offers.Resources {
	rs := offers.Resources{{Name: offers.Ports, Ranges: t.Ports}}
	for i, name := range ScalarNames {
		rs = append(rs, offers.Resource{Name: name, Scalar: t.Scalars[i]})
	}
	return rs
}

// ForPods returns what the agent has for pods after its minion has taken its part, in the units of Requests.
func (a *Agent) ForPods(minion Demand) Requests {
	var q Requests
	for i := range q {
		q[i] = int64(max(0, a.Total.Scalars[i]-minion.Scalars[i]))
		if i > 0 { // MiB
			q[i] = q[i] << 20 / 1000
		}
	}
	return q
}

// AddAgent adds a new agent.
func (x *Index) AddAgent(a *Agent) {
	x.byID[a.ID] = a
	a.order = len(x.fleet.agents)
	x.fleet.agents = append(x.fleet.agents, a)
	x.fleet.touch(a)
}

// RemoveAgent removes an agent. It returns the pods that had reserved a place there.
func (x *Index) RemoveAgent(a *Agent) (released []*Pod) {
	delete(x.byID, a.ID)
	x.fleet.remove(a)
	released = x.Release(a)
	a.views = nil
	return released
}

// Prefer makes every class check the agent again, because its rank has improved.
func (x *Index) Prefer(a *Agent) { x.fleet.record(a) }

// Compare orders agents by arrival.
func (a *Agent) Compare(b *Agent) int { return cmp.Compare(a.order, b.order) }

// Refresh marks the views of the agent as out of date.
func (x *Index) Refresh(a *Agent) { x.fleet.touch(a) }

// Release drops the reservations in the agent's views, which are out of date. It returns the pods that had them: they need a
// new place.
func (x *Index) Release(a *Agent) (released []*Pod) {
	for _, v := range a.views {
		for _, p := range v.reserved {
			if p.reserved == a {
				p.reserved = nil
				released = append(released, p)
			}
		}
		v.reserved = nil
	}
	return released
}

// fleet is the list of agents, with a log of those that have something new to offer, so that an event costs no pass over all
// agents.
type fleet struct {
	agents  []*Agent // in order of arrival; nil where one was removed
	holes   int      // the number of nils
	changed []*Agent // agents whose views are out of date
	viewed  int      // how many of these have been returned by Changed
	log     []*Agent // agents that had something new to offer; the latest last
	base    int      // how many entries were dropped from log
}

// remove removes an agent.
func (f *fleet) remove(a *Agent) {
	f.agents[a.order] = nil
	if f.holes++; f.holes > 1024 && f.holes > len(f.agents)/2 {
		f.agents = slices.DeleteFunc(f.agents, func(a *Agent) bool { return a == nil })
		for i, a := range f.agents {
			a.order = i
		}
		f.holes = 0
		f.restart()
	}
}

// touch marks the views of an agent as out of date.
func (f *fleet) touch(a *Agent) {
	if !a.changed {
		a.changed = true
		f.changed = append(f.changed, a)
	}
}

// record logs an agent that may have more to offer than before.
func (f *fleet) record(a *Agent) {
	if len(f.log) > 2*len(f.agents)+1024 {
		f.restart()
	}
	f.log = append(f.log, a)
}

// restart drops the log. Every search starts from the first agent again.
func (f *fleet) restart() {
	f.base += len(f.log) + 1
	f.log = f.log[:0]
}

// logged counts the entries that were ever logged.
func (f *fleet) logged() int { return f.base + len(f.log) }

// preferNoScheduleTaints returns the node's taints with effect PreferNoSchedule.
func preferNoScheduleTaints(node *v1.Node) []v1.Taint {
	if node == nil {
		return nil
	}
	var taints []v1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == v1.TaintEffectPreferNoSchedule {
			taints = append(taints, t)
		}
	}
	return taints
}
