package match

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Source tells what agents have for pods. The Index asks it when it views an agent anew.
type Source interface {
	Supply(a *Agent) Supply
	// Offers appends the offers of the agent that are held; none of an agent that cannot be used.
	Offers(into []*offers.Offer, a *Agent) []*offers.Offer
	// Executor tells about our executor for tasks in the view, which has its offers already.
	Executor(v *View) Executor
	// Mixes tells whether the agent's executor was given cpus, beside which Mesos allows a task no revocable ones.
	Mixes(a *Agent) bool
}

// Supply is what an agent has for pods.
type Supply struct {
	// Node is the agent's node; nil while it does not exist, or is about to change.
	Node *v1.Node
	// Closed is why its node is about to be cordoned, as api.AnnotationCordoned says it; "" if it is not.
	Closed string
	// Drains says that the agent would drop every task.
	Drains bool
	// Runs says that our executor runs there.
	Runs bool
	// Minion is what the agent's minion takes.
	Minion Demand
}

// View is one agent as the matching sees it: all its offers of one role together, because Mesos refuses a task whose
// resources are of two, less what was taken already.
type View struct {
	Agent *Agent
	Role  string
	// Offers are the ids of the offers; there are none in a view of an agent that offers nothing now.
	Offers []api.OfferID
	// Free is what the offers have.
	Free     offers.Resources
	executor Executor

	index            *Index
	obj              *v1.Node                 // nil while the node does not exist
	node             *Node                    // with the pods that occupy it
	have             [NumScalars]offers.Milli // what is free for pods
	reserved         []*Pod
	preferNoSchedule []v1.Taint // PreferNoSchedule
	closed           string
	drains           bool
	runs             bool
	nextMinion       Requests // what the agent has for pods with another minion
}

// Node is the agent's node; nil while it does not exist.
func (v *View) Node() *v1.Node { return v.obj }

// Executor is what launching a task in the view takes for our executor.
func (v *View) Executor() *Executor { return &v.executor }

// Rebuild views the agent anew.
func (x *Index) Rebuild(a *Agent) {
	s := x.source.Supply(a)
	a.idle, a.nominees = nil, x.nominees[a.Node]
	views := a.views[:0]
	x.heldOffers = x.source.Offers(x.heldOffers[:0], a)
	for _, o := range x.heldOffers {
		i := slices.IndexFunc(views, func(v *View) bool { return v.Role == o.Role })
		if i < 0 {
			i = len(views)
			if views = slices.Grow(views, 1)[:i+1]; views[i] == nil { // else it is of no use any more, but its memory is
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

// open makes a view that nothing is offered in yet.
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

// Empty returns a view of the agent in which nothing is offered to the role.
func (x *Index) Empty(a *Agent, role string) *View {
	v, s := &View{}, x.source.Supply(a)
	x.startView(v, a, role, &s)
	return v
}

// Idle returns a view of the agent with all it has, to tell what does not fit now from what never will.
func (x *Index) idle(a *Agent) *View {
	if a.idle == nil {
		a.idle = x.Empty(a, "")
		a.idle.Free = a.Total.resources()
		a.idle.complete()
	}
	return a.idle
}

// settle finds out about the executor, and what is free beside it.
func (v *View) complete() {
	v.executor = v.index.source.Executor(v)
	v.computeFree()
}

// sum counts what is free for pods.
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

// check applies the four checks in their order; the first that fails says why. The pods around the node belong to the
// first check.
func (v *View) check(s *Class) refusal {
	if r := v.checkNode(s); !r.ok() {
		return r
	}
	if s.asks != nil && !s.asks.takesRole(v) {
		return refusal{reason: otherRole}
	}
	if s.key.node == "" {
		if r := v.checkPods(s); !r.ok() {
			return r
		}
	}
	if r := v.checkResources(s); !r.ok() {
		return r
	}
	if r := v.checkPorts(s); !r.ok() {
		return r
	}
	if len(v.Agent.nominees) > 0 {
		if r := v.checkNominees(s); !r.ok() {
			return r
		}
	}
	r := v.checkExecutor()
	if r.reason == installing {
		s.delayedAt = v.index.Installs.ended
	}
	return r
}

// checkPods: do the pods on the node, and those around it, leave room for the pod?
func (v *View) checkPods(s *Class) refusal {
	occupies := s.occupies(v.node)
	if v.node.full() && !occupies {
		return refusal{reason: tooManyPods, what: v.node.limitText}
	}
	if s.topology != nil {
		if r := s.topology.check(v.obj); !r.ok() {
			return r
		}
	}
	if s.extended != nil && !occupies {
		if r := v.checkExtended(s); !r.ok() {
			return r
		}
	}
	if v.node.admissionKnown() && !occupies {
		return v.checkAdmission(s)
	}
	return refusal{}
}

// Take takes all that the pod needs out of the view: what it demands, a free port for each one that it wants published
// somewhere, and what the executor is charged if it comes with this pod. The pod must be of a class for which Find
// returned the view.
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

// Reserve keeps the place for the pod, until the executor is prepared there and the agent is viewed anew.
func (v *View) Reserve(p *Pod) {
	v.Take(p)
	v.reserved = append(v.reserved, p)
	p.reserved = v.Agent
}

// rank is the position of a role in the order of preference; it is behind all others if it is not in it.
func rank(order []string, role string) int {
	if i := slices.Index(order, role); i >= 0 {
		return i
	}
	return len(order)
}
