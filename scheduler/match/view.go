package match

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Source knows the state of agents. The Index asks it when it rebuilds the views of an agent.
type Source interface {
	Supply(a *Agent) Supply
	// Offers appends the agent's offers that we hold; none if the agent cannot be used.
	Offers(into []*offers.Offer, a *Agent) []*offers.Offer
	// Executor returns the state of our executor for tasks in the view. The view has its offers already.
	Executor(v *View) Executor
	// Mixes tells whether the agent's executor has non-revocable cpus: then Mesos allows its tasks no revocable ones.
	Mixes(a *Agent) bool
}

// Supply is the state of an agent.
type Supply struct {
	// Node is the agent's node; nil while it does not exist, or is about to change.
	Node *v1.Node
	// Closed is why the node is about to be cordoned, as a value of api.AnnotationCordoned; "" if it is not.
	Closed string
	// Drains says that the agent would drop every task.
	Drains bool
	// Runs says that our executor runs there.
	Runs bool
	// Minion is the demand of the agent's minion.
	Minion Demand
}

// View is all offers of one agent to one role, less what has been taken. Mesos refuses a task with resources of two roles.
type View struct {
	Agent *Agent
	Role  string
	// Offers are the ids of the offers. There are none in a view from Empty.
	Offers []api.OfferID
	// Free is what the offers have left.
	Free     offers.Resources
	executor Executor

	index            *Index
	obj              *v1.Node                 // nil while the node does not exist
	node             *Node                    // nil while the node does not exist
	have             [NumScalars]offers.Milli // what is free for pods
	reserved         []*Pod
	preferNoSchedule []v1.Taint // the node's taints with this effect
	closed           string
	drains           bool
	runs             bool
	nextMinion       Requests // what the agent will have for pods when its next minion runs
}

// Node returns the agent's node; nil while it does not exist.
func (v *View) Node() *v1.Node { return v.obj }

// Executor returns the state of our executor, and its cost for the next task in the view.
func (v *View) Executor() *Executor { return &v.executor }

// Rebuild rebuilds the views of the agent.
func (x *Index) Rebuild(a *Agent) {
	s := x.source.Supply(a)
	a.idle, a.nominees = nil, x.nominees[a.Node]
	views := a.views[:0]
	x.heldOffers = x.source.Offers(x.heldOffers[:0], a)
	for _, o := range x.heldOffers {
		i := slices.IndexFunc(views, func(v *View) bool { return v.Role == o.Role })
		if i < 0 {
			i = len(views)
			if views = slices.Grow(views, 1)[:i+1]; views[i] == nil { // else reuse the memory of an old view
				views[i] = &View{}
			}
			x.startView(views[i], a, o.Role, &s)
		}
		views[i].Offers = append(views[i].Offers, o.ID)
		views[i].Free = append(views[i].Free, o.Resources...)
	}
	clear(x.heldOffers)
	if len(views) > 1 {
		slices.SortStableFunc(views, func(v, w *View) int {
			return cmp.Compare(rank(x.cfg.Roles, v.Role), rank(x.cfg.Roles, w.Role))
		})
	}
	for _, v := range views {
		v.complete()
	}
	if a.views = views; len(views) > 0 {
		x.fleet.record(a)
	}
}

// startView initializes a view without offers.
func (x *Index) startView(v *View, a *Agent, role string, s *Supply) {
	*v = View{
		index: x, Agent: a, Role: role, Offers: nil, Free: v.Free[:0],
		obj: s.Node, closed: s.Closed, drains: s.Drains, runs: s.Runs,
	}
	if s.Node != nil {
		v.node, v.preferNoSchedule = x.nodeFor(a.Node), preferNoScheduleTaints(s.Node)
		if !s.Runs && v.node.admissionKnown() {
			v.nextMinion = a.ForPods(s.Minion)
		}
	}
}

// Empty returns a view of the agent without offers.
func (x *Index) Empty(a *Agent, role string) *View {
	v, s := &View{}, x.source.Supply(a)
	x.startView(v, a, role, &s)
	return v
}

// idle returns a view of the whole agent, to distinguish what does not fit now from what never will.
func (x *Index) idle(a *Agent) *View {
	if a.idle == nil {
		a.idle = x.Empty(a, "")
		a.idle.Free = a.Total.resources()
		a.idle.complete()
	}
	return a.idle
}

// complete computes what depends on the offers: the executor's state and what is free beside it.
func (v *View) complete() {
	v.executor = v.index.source.Executor(v)
	v.computeFree()
}

// computeFree computes what is free for pods.
func (v *View) computeFree() {
	for i, name := range ScalarNames {
		v.have[i] = v.Free.Sum(name) - v.executor.Charge.Sum(name)
		if v.node != nil {
			v.have[i] -= v.node.untracked[i]
		}
		if v.executor.Companion != nil {
			v.have[i] -= v.executor.Companion.Scalars[i]
		}
		v.have[i] = max(0, v.have[i])
	}
}

// check checks whether the class fits in the view. It returns the first check that fails.
func (v *View) check(c *Class) refusal {
	if r := v.checkNode(c); !r.ok() {
		return r
	}
	if c.asks != nil && !c.asks.takesRole(v) {
		return refusal{reason: otherRole}
	}
	if c.key.node == "" {
		if r := v.checkPods(c); !r.ok() {
			return r
		}
	}
	if r := v.checkResources(c); !r.ok() {
		return r
	}
	if r := v.checkPorts(c); !r.ok() {
		return r
	}
	if len(v.Agent.nominees) > 0 {
		if r := v.checkNominees(c); !r.ok() {
			return r
		}
	}
	r := v.checkExecutor()
	if r.reason == installing {
		c.delayedAt = v.index.Installs.ended
	}
	return r
}

// checkPods checks the number of pods, the topology, extended resources and the kubelet's admission.
func (v *View) checkPods(c *Class) refusal {
	occupies := c.occupies(v.node)
	if v.node.full() && !occupies {
		return refusal{reason: tooManyPods, what: v.node.limitText}
	}
	if c.topology != nil {
		if r := c.topology.check(v.obj); !r.ok() {
			return r
		}
	}
	if c.extended != nil && !occupies {
		if r := v.checkExtended(c); !r.ok() {
			return r
		}
	}
	if v.node.admissionKnown() && !occupies {
		return v.checkAdmission(c)
	}
	return refusal{}
}

// Take takes everything that the pod needs out of the view: its demand, a free port for each wildcard, and the executor's charge
// if it is launched with this pod. Find must have returned the view for the pod's class.
func (v *View) Take(p *Pod) (taken offers.Resources, mapped []api.PortMapping) {
	taken = v.take(&p.Demand)
	if p.Asks == nil {
		return taken, nil
	}
	return v.takePorts(p, taken)
}

func (v *View) take(d *Demand) offers.Resources {
	v.Free.Remove(v.executor.Charge)
	v.executor.Charge = nil
	all := make(offers.Resources, 0, d.kinds())
	for i, name := range ScalarNames {
		all, _ = v.Free.Draw(name, d.Scalars[i], all)
		v.have[i] -= d.Scalars[i]
	}
	for _, port := range d.Ports {
		taken, _ := v.Free.DrawPort(port)
		all = append(all, taken)
	}
	return all
}

// Reserve keeps the place for the pod until the executor is prepared and the agent's views are rebuilt.
func (v *View) Reserve(p *Pod) {
	v.Take(p)
	v.reserved = append(v.reserved, p)
	p.reserved = v.Agent
}

// rank returns the position of a role in the order of preference. A role that is not in it comes last.
func rank(order []string, role string) int {
	if i := slices.Index(order, role); i >= 0 {
		return i
	}
	return len(order)
}
