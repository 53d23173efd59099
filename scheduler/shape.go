package scheduler

import (
	"container/heap"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// shapeKey is all that decides where a pod may run and whose turn it is before the time of arrival does. Pods of equal
// keys are refused by the same agents for the same reasons.
type shapeKey struct {
	scalars  [numScalars]int64
	requests requests
	priority int32
	node     string // that the pod is bound to
	rest     string // host ports, what the pod wants of nodes, its wish, and which pod it is if a place is promised to it
}

func keyOf(p *pod) shapeKey {
	k := shapeKey{requests: p.requests, priority: priority(p.obj), node: p.node}
	for i, amount := range p.demand.Scalars {
		k.scalars[i] = int64(amount)
	}
	var rest strings.Builder
	rest.Grow(128) // the two tolerations that every pod has
	for _, port := range p.demand.Ports {
		fmt.Fprintf(&rest, "%d,", port)
	}
	spec := &p.obj.Spec
	if len(spec.NodeSelector) > 0 {
		fmt.Fprint(&rest, spec.NodeSelector) // fmt sorts the keys
	}
	if required := requiredAffinity(p.obj); required != nil {
		rest.WriteString(required.String())
	}
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		for _, part := range [...]string{t.Key, string(t.Operator), t.Value, string(t.Effect)} {
			rest.WriteByte('|')
			rest.WriteString(part)
		}
	}
	if p.extended != nil {
		rest.WriteString(p.extended.String())
	}
	if p.wishes != nil {
		rest.WriteString(p.wishes.key)
	}
	if p.wish != nil {
		rest.WriteString(p.wish.key())
	}
	if p.promise != nil { // what is promised to it is kept from its equals
		fmt.Fprintf(&rest, "!%s", p.obj.UID)
	}
	k.rest = rest.String()
	return k
}

func priority(obj *v1.Pod) int32 {
	if obj.Spec.Priority == nil {
		return 0
	}
	return *obj.Spec.Priority
}

func requiredAffinity(obj *v1.Pod) *v1.NodeSelector {
	if a := obj.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// shape is what equal pods have in common, with those of them that wait to be placed and the state of their search.
type shape struct {
	key      shapeKey
	obj      *v1.Pod // one of them, for what it wants of nodes
	demand   Demand
	requests requests
	extended extended
	wish     *wish                              // nil for most
	affinity *nodeaffinity.RequiredNodeAffinity // nil if any node will do
	only     []string                           // the nodes that it may run on; nil if that is not so certain
	cordoned bool                               // it tolerates cordons
	unready  bool                               // and nodes that are not ready
	near     *near                              // nil if no other pods matter to it

	// crowded is installs.ended when one of the pods could have run on an agent that had to wait for others; -1 if none could.
	crowded int

	nominee *pod // the only pod of this shape, because a place is promised to it; or nil

	pods   arrivals
	search search
	due    bool // it has its turn in this cycle
	hope   hope
}

func newShape(key shapeKey, p *pod) *shape {
	s := &shape{
		key: key, obj: p.obj, demand: p.demand, requests: p.requests, extended: p.extended, wish: p.wish, only: onlyNodes(p), crowded: -1,
		cordoned: tolerates(p.obj, v1.TaintNodeUnschedulable), unready: tolerates(p.obj, v1.TaintNodeNotReady),
	}
	if len(p.obj.Spec.NodeSelector) > 0 || requiredAffinity(p.obj) != nil {
		affinity := nodeaffinity.GetRequiredNodeAffinity(p.obj)
		s.affinity = &affinity
	}
	if p.wishes != nil {
		s.near = newNear(p.wishes)
	}
	if p.promise != nil {
		s.nominee = p
	}
	return s
}

// onlyNodes names the nodes of a pod that is bound, or whose affinity names nodes: the pods of a DaemonSet do
// (https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#how-daemon-pods-are-scheduled).
func onlyNodes(p *pod) []string {
	if p.node != "" {
		return []string{p.node}
	}
	required := requiredAffinity(p.obj)
	if required == nil {
		return nil
	}
	names := []string{}
	for _, term := range required.NodeSelectorTerms {
		named := false
		for _, field := range term.MatchFields {
			if field.Key == "metadata.name" && field.Operator == v1.NodeSelectorOpIn {
				names, named = append(names, field.Values...), true
			}
		}
		if !named {
			return nil
		}
	}
	return names
}

// head is the pod that came first of those that wait; nil if none does.
func (s *shape) head() *pod {
	for len(s.pods) > 0 && s.pods[0].shape != s {
		heap.Pop(&s.pods) // it left the queue
	}
	if len(s.pods) == 0 {
		return nil
	}
	return s.pods[0]
}

// arrivals is a heap of pods by their arrival. Some may have left the queue.
type arrivals []*pod

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].order < a[j].order }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }

// Push is for container/heap.
func (a *arrivals) Push(x any) { *a = append(*a, x.(*pod)) }

// Pop is for container/heap.
func (a *arrivals) Pop() any {
	last := len(*a) - 1
	p := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	return p
}
