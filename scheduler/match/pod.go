package match

import (
	"cmp"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

// outdated is a generation or version that never is the current one.
const outdated = -1

// Pod is a pod. Its owner sets the exported fields, and then calls Index.Enqueue if the pod waits.
type Pod struct {
	Obj *v1.Pod
	// Owner is for the caller; the Index ignores it.
	Owner any
	// Node is the name of the node that the pod is bound to; "" if it is not.
	Node string
	// Order is the order of arrival: among pods of equal priority, the lowest comes first.
	Order int
	// ClaimsNode is the node that was chosen for the pod while its claims are bound for that node; "" for none.
	ClaimsNode string

	// Demand, Requests, Extended and Asks are set by Index.Appraise.
	Demand   Demand
	Requests Requests
	Extended Extended
	Asks     *Asks // nil for most

	nominated      string
	occupant       occupant
	constraints    *constraints // nil for most
	termGeneration int          // the generation of terms that constraints was read with
	class          *Class       // nil if it does not wait for a place
	reserved       *Agent       // where a place is reserved for it; nil for none
}

// Key returns the key of the pod's class.
func (p *Pod) Key() Key { return keyOf(p) }

// Class returns the class in which the pod waits for a place; nil if it does not wait.
func (p *Pod) Class() *Class { return p.class }

// Reserved returns the agent where a place is reserved for the pod until the executor is prepared; nil if there is none.
func (p *Pod) Reserved() *Agent { return p.reserved }

// Nominated returns the node that the pod is nominated to; "" if there is none.
func (p *Pod) Nominated() string { return p.nominated }

// Reread makes the next Enqueue read the pod's constraints again.
func (p *Pod) Reread() { p.termGeneration = outdated }

// Seen updates the pod's object.
func (p *Pod) Seen(obj *v1.Pod, waits bool) {
	if p.Obj == nil || waits && !sameConstraints(p.Obj, obj) {
		p.Reread()
	}
	p.Obj = obj
}

// Priority returns the pod's priority; 0 without one.
func Priority(obj *v1.Pod) int32 {
	if obj.Spec.Priority == nil {
		return 0
	}
	return *obj.Spec.Priority
}

// Before orders pods by priority, the highest first, and then by arrival.
func Before(a, b *Pod) int {
	return cmp.Or(cmp.Compare(Priority(b.Obj), Priority(a.Obj)), cmp.Compare(a.Order, b.Order))
}

// Appraise reads the pod's demand, requests and annotations. A problem that is not "" is another error in the annotations: then
// the pod fits nowhere until they are corrected.
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

// KeepPorts makes each further task of the pod use the ports that the pod was bound with.
func (p *Pod) KeepPorts(mapped []api.PortMapping) {
	if len(mapped) > 0 {
		p.Asks = &Asks{roles: p.Asks.roles, mapped: mapped, revocable: p.Asks.revocable}
		p.Demand = p.Demand.with(mapped)
	}
}
