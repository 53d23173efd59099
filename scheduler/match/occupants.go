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

// occupant is a pod that takes part of a node, as others see it that may not be, or would like to be, near it: a bound
// pod, whoever bound it, static pods among them, or a pod that a task was launched for or a place reserved. Pods that are over
// occupy nothing.
type occupant struct {
	obj       *v1.Pod
	node      *Node // nil if it occupies none
	slot      int   // in the node's pods
	terms     []*term
	claims    []api.PodKey
	untracked [NumScalars]offers.Milli // of the agent, by a pod without a task
	// extended is what it has of the node's, and requests what the kubelet counts; read is the object they were read from.
	extended     Extended
	requests     Requests
	requestsFrom *v1.Pod
}

// Occupy makes the pod occupy the node, as its object says now; none if the node is "".
func (x *Index) Occupy(p *Pod, node string) { x.put(&p.occupant, p.Obj, node) }

// Occupies returns the node that the pod occupies; "" if it occupies none.
func (p *Pod) Occupies() string {
	if p.occupant.node == nil {
		return ""
	}
	return p.occupant.node.name
}

// OccupiedBy goes through the objects of the pods that occupy the node.
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

// OtherSeen takes in a pod that is not ours to place but takes part of a node, as static pods do.
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

// OtherGone takes such a pod off.
func (x *Index) OtherGone(uid types.UID) {
	if o := x.others[uid]; o != nil {
		x.setUntracked(o, [NumScalars]offers.Milli{})
		x.put(o, o.obj, "")
		delete(x.others, uid)
	}
}

// hold sets what of its agent a pod without a task holds. The agent is looked at again.
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

// stir has an agent viewed anew, because a pod may fit there now that did not.
func (x *Index) roomFreed(a *Agent) {
	if a != nil {
		x.fleet.touch(a)
		x.retry = true
	}
}

// put makes the occupant occupy the node, as the object says now.
func (x *Index) put(o *occupant, obj *v1.Pod, node string) {
	var to *Node
	if node != "" {
		to = x.nodeFor(node)
	}
	if o.node == to && (to == nil || looksTheSame(o.obj, obj)) {
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

// looksTheSame tells whether two states of a pod count the same for other pods.
func looksTheSame(a, b *v1.Pod) bool {
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
	if from.full() || o.extended != nil || from.refusedPod { // somebody else may fit now
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

// tally counts a pod in (sign 1) or out (-1) for all classes to which it may matter.
func (x *Index) countOccupant(o *occupant, node *v1.Node, sign int) {
	x.version++
	if node != nil {
		o.countTerms(node, sign)
	}
	for s := range x.classes.watchers {
		x.notify(s, s.topology.apply(func() bool { return node != nil && s.topology.count(o, node, sign) }))
	}
}

// countTerms counts the terms of the pod in or out of the domains of a node.
func (o *occupant) countTerms(node *v1.Node, sign int) {
	for _, t := range o.terms {
		if domain, found := node.Labels[t.topologyKey]; found {
			t.holdersByDomain[domain] += sign
		}
	}
}

// NodeSeen takes in a node that is new, changed or, if nil, gone.
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

// countNode counts the terms of the pods of a node in or out of its domains.
func (x *Index) countNode(n *Node, sign int) {
	if n.obj == nil {
		return
	}
	for _, o := range n.pods {
		o.countTerms(n.obj, sign)
	}
}

// NamespaceSeen takes in a namespace, or if obj is nil its end: terms may choose namespaces by their labels.
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
	for _, s := range x.classes.byKey {
		if s.topology != nil || len(x.terms.byKey) > 0 {
			x.rereadConstraints(s, func(p *Pod) bool { return p.Obj.Namespace == name })
		}
	}
}
