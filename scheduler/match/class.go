package match

import (
	"container/heap"
	"fmt"
	"iter"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Key is all that decides where a pod may run and whose turn it is before the time of arrival does. Pods of equal
// keys are refused by the same agents for the same reasons.
type Key struct {
	scalars  [NumScalars]int64
	requests Requests
	priority int32
	node     string // that the pod is bound to
	rest     string // host ports, what the pod wants of nodes and asks of Mesos, and which pod it is if a place is kept for it
}

func keyOf(p *Pod) Key {
	k := Key{requests: p.Requests, priority: Priority(p.Obj), node: p.Node}
	for i, amount := range p.Demand.Scalars {
		k.scalars[i] = int64(amount)
	}
	var rest strings.Builder
	rest.Grow(128) // the two tolerations that every pod has
	for _, port := range p.Demand.Ports {
		fmt.Fprintf(&rest, "%d,", port)
	}
	spec := &p.Obj.Spec
	if len(spec.NodeSelector) > 0 {
		fmt.Fprint(&rest, spec.NodeSelector) // fmt sorts the keys
	}
	if required := requiredAffinity(p.Obj); required != nil {
		rest.WriteString(required.String())
	}
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		for _, part := range [...]string{t.Key, string(t.Operator), t.Value, string(t.Effect)} {
			rest.WriteByte('|')
			rest.WriteString(part)
		}
	}
	if p.Extended != nil {
		rest.WriteString(p.Extended.String())
	}
	if p.constraints != nil {
		rest.WriteString(p.constraints.key)
	}
	if p.Asks != nil {
		rest.WriteString(p.Asks.key())
	}
	if p.nominated != "" { // what is kept for it is kept from its equals
		fmt.Fprintf(&rest, "!%s", p.Obj.UID)
	}
	k.rest = rest.String()
	return k
}

func requiredAffinity(obj *v1.Pod) *v1.NodeSelector {
	if a := obj.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// Class is what equal pods have in common, with those of them that wait to be placed and the state of their search.
type Class struct {
	traits
	topology *topology // nil if no other pods matter to it
	nominee  *Pod      // the only pod of this class, because a place is kept for it; or nil
	pods     arrivals
	search   search
	due      bool // it has its turn in this cycle

	// crowded is Installs.ended when one of the pods could have run on an agent that had to wait for others; -1 if none could.
	delayedAt int
}

// traits are what the pods of a class have in common by themselves.
type traits struct {
	key      Key
	obj      *v1.Pod // one of them, for what it wants of nodes
	demand   Demand
	requests Requests
	extended Extended
	asks     *Asks                              // nil for most
	affinity *nodeaffinity.RequiredNodeAffinity // nil if any node will do
	only     []string                           // the nodes that it may run on; nil if that is not so certain
	cordoned bool                               // it tolerates cordons
	unready  bool                               // and nodes that are not ready
}

func newClass(key Key, p *Pod) *Class {
	s := &Class{delayedAt: -1, traits: traits{
		key: key, obj: p.Obj, demand: p.Demand, requests: p.Requests, extended: p.Extended, asks: p.Asks, only: onlyNodes(p),
		cordoned: tolerates(p.Obj, v1.TaintNodeUnschedulable), unready: tolerates(p.Obj, v1.TaintNodeNotReady),
	}}
	if len(p.Obj.Spec.NodeSelector) > 0 || requiredAffinity(p.Obj) != nil {
		affinity := nodeaffinity.GetRequiredNodeAffinity(p.Obj)
		s.affinity = &affinity
	}
	if p.constraints != nil {
		s.topology = newTopology(p.constraints)
	}
	if p.nominated != "" {
		s.nominee = p
	}
	return s
}

// onlyNodes names the nodes of a pod that is bound, or whose affinity names nodes: the pods of a DaemonSet do
// (https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#how-daemon-pods-are-scheduled).
func onlyNodes(p *Pod) []string {
	if p.Node != "" {
		return []string{p.Node}
	}
	required := requiredAffinity(p.Obj)
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

// Head is the pod that came first of those that wait; nil if none does.
func (s *Class) Head() *Pod {
	for len(s.pods) > 0 && s.pods[0].class != s {
		heap.Pop(&s.pods) // it left the queue
	}
	if len(s.pods) == 0 {
		return nil
	}
	return s.pods[0]
}

// Pods goes through the pods that wait, in no order.
func (s *Class) Pods() iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for _, p := range s.pods {
			if p.class == s && !yield(p) {
				return
			}
		}
	}
}

// Key tells the class apart from all others.
func (s *Class) Key() Key { return s.key }

// Node is the name of the node that the pods are bound to; "" if they are not.
func (s *Class) Node() string { return s.key.node }

// Only names the nodes that the pods may run on; nil if that is not so certain.
func (s *Class) Only() []string { return s.only }

// Priority is that of the pods.
func (s *Class) Priority() int32 { return s.key.priority }

// Demand is that of each pod.
func (s *Class) Demand() *Demand { return &s.demand }

// Asks is what the pods ask of Mesos; nil for most.
func (s *Class) Asks() *Asks { return s.asks }

// Nominee is the only pod of the class, if a place is kept for it; else nil.
func (s *Class) Nominee() *Pod { return s.nominee }

// arrivals is a heap of pods by their arrival. Some may have left the class.
type arrivals []*Pod

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].Order < a[j].Order }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }

// Push is for container/heap.
func (a *arrivals) Push(x any) { *a = append(*a, x.(*Pod)) }

// Pop is for container/heap.
func (a *arrivals) Pop() any {
	last := len(*a) - 1
	p := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	return p
}
