package match

import (
	"cmp"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

// unread is no generation of terms, and no version of occupants.
const outdated = -1

// Pod is a pod as the matching sees it. Its owner sets the exported fields; of a pod that waits, it calls Index.Enqueue
// afterwards.
type Pod struct {
	Obj *v1.Pod
	// Owner is for who owns the pod; the Index does not look at it.
	Owner any
	// Node is the name of the node that the pod is bound to; "" if it is not.
	Node string
	// Order is that of arrival: of equally important pods the one with the lower number comes first.
	Order int
	// ClaimsNode is the node that was chosen for the pod and that its claims are being bound for; "" for none.
	ClaimsNode string

	// Demand, Requests, Extended and Asks are set by Index.Appraise.
	Demand   Demand
	Requests Requests
	Extended Extended
	Asks     *Asks // nil for most

	nominated      string
	occupant       occupant
	constraints    *constraints // nil for most
	termGeneration int          // the generation of terms that wants heeds
	class          *Class       // nil if it does not wait for a place
	reserved       *Agent       // nil if no place is reserved for it
}

// Key tells which pods the pod is equal to.
func (p *Pod) Key() Key { return keyOf(p) }

// Class returns the class in which the pod waits for a place; nil if it does not.
func (p *Pod) Class() *Class { return p.class }

// Reserved returns the agent where the pod has reserved a place until the executor is prepared; nil if there is none.
func (p *Pod) Reserved() *Agent { return p.reserved }

// Nominated returns the node where a place is kept for the pod; "" if there is none.
func (p *Pod) Nominated() string { return p.nominated }

// Reread has what the pod wants of the pods and volumes around it read anew when it is enqueued next.
func (p *Pod) Reread() { p.termGeneration = outdated }

// Seen takes in a newer state of the pod's object.
func (p *Pod) Seen(obj *v1.Pod, waits bool) {
	if p.Obj == nil || waits && !sameConstraints(p.Obj, obj) {
		p.Reread()
	}
	p.Obj = obj
}

// Priority is that of the pod's PriorityClass; 0 without one.
func Priority(obj *v1.Pod) int32 {
	if obj.Spec.Priority == nil {
		return 0
	}
	return *obj.Spec.Priority
}

// Before orders pods by whose turn it is: the more important one comes first, of equally important ones the one that arrived first.
func Before(a, b *Pod) int {
	return cmp.Or(cmp.Compare(Priority(b.Obj), Priority(a.Obj)), cmp.Compare(a.Order, b.Order))
}

// Appraise reads from its object what the pod demands of an agent and asks of Mesos. If problem is not "", something else
// is wrong with its annotations, and no agent will do until that is mended.
func (x *Index) Appraise(p *Pod, problem string) {
	p.Demand, p.Requests = demandOf(p.Obj, x.cfg.DefaultCPUs, x.cfg.DefaultMem, x.scratch)
	p.Extended = extendedOf(p.Obj)
	if p.occupant.node == nil {
		p.occupant.requests, p.occupant.requestsFrom = p.Requests, p.Obj
	}
	if p.Asks = x.cfg.asks(p, problem); p.Asks == nil {
		return
	}
	p.Demand = p.Demand.with(p.Asks.mapped)
	if p.Asks.revocable > 0 {
		p.Demand.Scalars[0] = 0
	}
}

// KeepPorts makes the ports that the pod was bound with those that each further task of it must have.
func (p *Pod) KeepPorts(mapped []api.PortMapping) {
	if len(mapped) > 0 {
		p.Asks = &Asks{roles: p.Asks.roles, mapped: mapped, revocable: p.Asks.revocable}
		p.Demand = p.Demand.with(mapped)
	}
}
