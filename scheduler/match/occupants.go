package match

import (
	"iter"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// occupant is a pod on a node: a bound pod, whoever bound it, a static pod, or a pod with a task or a reserved place. Pods that
// have ended are not on a node.
type occupant struct {
	obj       *v1.Pod
	node      *Node // nil if it is on none
	slot      int   // its index in the node's pods
	terms     []*term
	claims    []api.PodKey
	untracked [NumScalars]offers.Milli // what it uses of the agent without a task
	// extended and requests are what it uses of the node. The requests were read from requestsFrom.
	extended     Extended
	requests     Requests
	requestsFrom *v1.Pod
}

// Occupy moves the pod, with its current object, to the node; to none if the node is "".
func (x *Index) Occupy(p *Pod, node string) { x.put(&p.occupant, p.Obj, node) }

// OccupiedBy iterates over the objects of the pods on the node.
func (x *Index) OccupiedBy(node string) iter.Seq[*v1.Pod] {
	return func(yield func(*v1.Pod) bool) {
		n := x.nodes[node]
		if n == nil {
			return
		}
		for _, o := range n.pods {
			if !yield(o.obj) {
				return
			}
		}
	}
}

// OtherSeen adds or updates a pod on a node that another scheduler or the kubelet placed. With over, it removes the pod.
func (x *Index) OtherSeen(obj *v1.Pod, over bool) {
	if obj.Spec.NodeName == "" || over {
		x.OtherGone(obj.UID)
		return
	}
	o := x.others[obj.UID]
	if o == nil {
		o = &occupant{}
		x.others[obj.UID] = o
	}
	x.setUntracked(o, [NumScalars]offers.Milli{})
	x.put(o, obj, obj.Spec.NodeName)
	x.setUntracked(o, DemandOf(obj, 0, 0, nil).Scalars)
}

// OtherGone removes a pod that OtherSeen added.
func (x *Index) OtherGone(uid types.UID) {
	if o := x.others[uid]; o != nil {
		x.setUntracked(o, [NumScalars]offers.Milli{})
		x.put(o, o.obj, "")
		delete(x.others, uid)
	}
}

// setUntracked sets what a pod without a task uses. The agent is checked again.
func (x *Index) setUntracked(o *occupant, amounts [NumScalars]offers.Milli) {
	n := o.node
	if n == nil {
		return
	}
	for i := range amounts {
		n.untracked[i] += amounts[i] - o.untracked[i]
	}
	o.untracked = amounts
	x.roomFreed(n.agent(x))
}

// roomFreed marks the agent's views as out of date, because a waiting pod may fit there now. The agent may be nil.
func (x *Index) roomFreed(a *Agent) {
	if a != nil {
		x.fleet.touch(a)
		x.retry = true
	}
}

// put moves the occupant, with its current object, to the node.
func (x *Index) put(o *occupant, obj *v1.Pod, node string) {
	var to *Node
	if node != "" {
		to = x.nodeFor(node)
	}
	if o.node == to && (to == nil || matchesAlike(o.obj, obj)) {
		resized := to != nil && o.obj.Generation != obj.Generation
		if o.obj = obj; resized {
			to.requested.add(o.requests, -1)
			o.requests, o.requestsFrom = requestsOf(obj, x.scratch), obj
			to.requested.add(o.requests, 1)
		}
		return
	}
	from := o.node
	x.leave(o)
	o.obj = obj
	if to != nil {
		x.enter(o, to)
	}
	if from != nil && from.obj == nil && len(from.pods) == 0 {
		delete(x.nodes, from.name)
	}
}

// matchesAlike tells whether two versions of a pod match the same terms and spread rules of other pods.
func matchesAlike(a, b *v1.Pod) bool {
	return a == b || (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && maps.Equal(a.Labels, b.Labels)
}

func (x *Index) enter(o *occupant, to *Node) {
	if o.terms == nil {
		o.terms, o.claims = termsOf(o.obj), ClaimsOf(o.obj)
	}
	for i, t := range o.terms {
		o.terms[i] = x.terms.add(t)
	}
	o.node, o.slot = to, len(to.pods)
	to.pods = append(to.pods, o)
	o.extended = extendedOf(o.obj)
	to.take(o.extended, 1)
	if o.requestsFrom != o.obj {
		o.requests, o.requestsFrom = requestsOf(o.obj, x.scratch), o.obj
	}
	to.requested.add(o.requests, 1)
	x.countOccupant(o, to.obj, 1)
	x.countClaims(o, 1)
}

func (x *Index) leave(o *occupant) {
	from := o.node
	if from == nil {
		return
	}
	if from.full() || o.extended != nil || from.refusedPod { // another pod may fit now
		x.roomFreed(from.agent(x))
	}
	last := len(from.pods) - 1
	from.pods[o.slot] = from.pods[last]
	from.pods[o.slot].slot = o.slot
	from.pods[last] = nil
	from.pods = from.pods[:last]
	from.take(o.extended, -1)
	from.requested.add(o.requests, -1)
	from.refusedPod = false
	o.node = nil
	for _, t := range o.terms {
		t.holders--
	}
	x.countOccupant(o, from.obj, -1)
	x.countClaims(o, -1)
}

// countOccupant counts a pod that comes to a node (sign 1) or leaves it (-1), in all watched classes.
func (x *Index) countOccupant(o *occupant, node *v1.Node, sign int) {
	x.version++
	if node != nil {
		o.countTerms(node, sign)
	}
	for c := range x.classes.watchers {
		x.notify(c, c.topology.apply(func() bool { return node != nil && c.topology.count(o, node, sign) }))
	}
}

// countTerms adds the terms of the pod to the domains of a node (sign 1), or subtracts them (-1).
func (o *occupant) countTerms(node *v1.Node, sign int) {
	for _, t := range o.terms {
		if domain, found := node.Labels[t.topologyKey]; found {
			t.holdersByDomain[domain] += sign
		}
	}
}

// NodeSeen adds or updates a node, or removes it if obj is nil.
func (x *Index) NodeSeen(name string, obj *v1.Node) {
	if before := x.AgentOfNode(name); before != nil {
		x.fleet.touch(before)
	}
	n := x.nodeFor(name)
	before := n.obj
	if before != nil && obj != nil && maps.Equal(before.Labels, obj.Labels) &&
		slices.EqualFunc(before.Spec.Taints, obj.Spec.Taints, sameTaint) {
		n.setObject(obj)
		return
	}
	x.countNode(n, -1)
	n.setObject(obj)
	x.countNode(n, 1)
	x.notifyAll()
	if obj == nil && len(n.pods) == 0 {
		delete(x.nodes, name)
	}
}

func sameTaint(a, b v1.Taint) bool {
	return a.Key == b.Key && a.Value == b.Value && a.Effect == b.Effect
}

// countNode adds the terms of all pods on the node to its domains (sign 1), or subtracts them (-1).
func (x *Index) countNode(n *Node, sign int) {
	if n.obj == nil {
		return
	}
	for _, o := range n.pods {
		o.countTerms(n.obj, sign)
	}
}

// NamespaceSeen adds or updates a namespace, or removes it if obj is nil. Terms may select namespaces by labels.
func (x *Index) NamespaceSeen(name string, obj *v1.Namespace) {
	before := x.terms.namespaces[name]
	if before != nil && obj != nil && maps.Equal(before.Labels, obj.Labels) {
		return
	}
	if x.terms.namespaces[name] = obj; obj == nil {
		delete(x.terms.namespaces, name)
	}
	x.terms.generation++
	x.notifyAll()
	for _, c := range x.classes.byKey {
		if c.topology != nil || len(x.terms.byKey) > 0 {
			x.rereadConstraints(c, func(p *Pod) bool { return p.Obj.Namespace == name })
		}
	}
}
