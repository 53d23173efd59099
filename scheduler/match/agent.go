package match

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Agent is a Mesos agent as the matching sees it. Only the Index changes what it has here.
type Agent struct {
	ID api.AgentID
	// Owner is for who owns the agent; the Index does not look at it.
	Owner any
	Node  string // the node's name; "" if the agent can have none
	// Total is the most that the agent was ever seen to have for us.
	Total Totals
	// Alive says that Mesos can reach the agent, as far as is known.
	Alive bool
	// Guard keeps pods off the agent because of failures there; nil if there were none.
	Guard Guard

	order     int     // of coming
	changed   bool    // its views are out of date
	views     []*View // one for each role that it makes offers to, that of the preferred role first
	idle      *View   // the agent with all that it has, to tell why a pod waits; made when it is needed
	nominees  []*Pod  // for whom a place on it is kept
	installed bool    // it has fetched km from this scheduler
}

// Guard keeps pods off an agent where others have failed. Its answer is that of the moment.
type Guard interface {
	// Fails tells whether the agent fails whatever is launched there.
	Fails() bool
	// Rejects tells why pods with these requests stay away because their like was rejected; "" if they need not.
	Rejects(requests *Requests, extended Extended) string
}

// Views returns the views of the agent, that of the preferred role first. They belong to the Index.
func (a *Agent) Views() []*View { return a.views }

// Nominees returns the pods for which a place on the agent is kept. The slice is never changed.
func (a *Agent) Nominees() []*Pod { return a.nominees }

// Totals are amounts of each scalar, and ranges of ports.
type Totals struct {
	Scalars [NumScalars]offers.Milli
	Ports   []offers.Range
}

// AddPorts adds the ranges that are not there yet.
func (t *Totals) AddPorts(ranges []offers.Range) {
	for _, r := range ranges {
		if !slices.ContainsFunc(t.Ports, func(p offers.Range) bool { return p.Begin <= r.Begin && r.End <= p.End }) {
			t.Ports = append(t.Ports, r)
		}
	}
}

// resources returns the totals as if they were offered now.
func (t *Totals) resources() offers.Resources {
	rs := offers.Resources{{Name: offers.Ports, Ranges: t.Ports}}
	for i, name := range ScalarNames {
		rs = append(rs, offers.Resource{Name: name, Scalar: t.Scalars[i]})
	}
	return rs
}

// ForPods returns what the agent has for pods beside its minion, in the units of requests.
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

// AddAgent takes in a new agent.
func (x *Index) AddAgent(a *Agent) {
	x.byID[a.ID] = a
	a.order = len(x.fleet.agents)
	x.fleet.agents = append(x.fleet.agents, a)
	x.fleet.touch(a)
}

// RemoveAgent forgets an agent. It returns the pods that had reserved a place there.
func (x *Index) RemoveAgent(a *Agent) (released []*Pod) {
	delete(x.byID, a.ID)
	x.fleet.remove(a)
	released = x.Release(a)
	a.views = nil
	return released
}

// Prefer has every class look at the agent again, because it has become better.
func (x *Index) Prefer(a *Agent) { x.fleet.record(a) }

// Compare orders agents by their coming.
func (a *Agent) Compare(b *Agent) int { return cmp.Compare(a.order, b.order) }

// Refresh has the views of the agent made anew.
func (x *Index) Refresh(a *Agent) { x.fleet.touch(a) }

// Release takes the views of an agent off, which are out of date, so that its owner can build new ones. It returns the pods
// that had reserved a place in them: they have to look for one again.
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

// fleet is the list of agents, with a log of those that have something new to offer: neither the agents nor their offers are
// gone through for every event.
type fleet struct {
	agents  []*Agent // in order of their coming; nil where one was forgotten
	holes   int
	changed []*Agent // whose views have to be made anew
	viewed  int      // how many of these were
	log     []*Agent // that had something new to offer; the latest last
	base    int      // how many were logged before log
}

// remove forgets an agent.
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

// touch notes that something about the agent has changed that its views show.
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

// restart forgets the log. Searches that have not read it to its end start anew.
func (f *fleet) restart() {
	f.base += len(f.log) + 1
	f.log = f.log[:0]
}

// logged counts what was ever logged.
func (f *fleet) logged() int { return f.base + len(f.log) }

// discouraging returns the node's taints that keep pods away only if there is another place.
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
