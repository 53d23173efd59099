package match

import (
	"container/heap"
	"fmt"
	"iter"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Key holds everything that decides where a pod may run and when its turn is, except its time of arrival. Pods with equal keys
// are refused by the same agents for the same reasons.
type Key struct {
	scalars  [NumScalars]int64
	requests Requests
	priority int32
	node     string // the node that the pod is bound to
	rest     string // host ports, node constraints, pod constraints, annotations, and the pod's UID if it is nominated
}

func keyOf(p *Pod) Key {
	k := Key{requests: p.Requests, priority: Priority(p.Obj), node: p.Node}
	for i, amount := range p.Demand.Scalars {
		k.scalars[i] = int64(amount)
	}
	var rest strings.Builder
	rest.Grow(128) // for the two default tolerations
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
	if p.nominated != "" { // equal pods must not use the place that is kept for it
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

// Class is a group of equal pods that wait for a place, with the state of their search.
type Class struct {
	traits
	topology *topology // nil if other pods and volumes do not matter
	nominee  *Pod      // the only pod of this class, if it is nominated; or nil
	pods     arrivals
	search   search
	due      bool // it has a turn in this cycle

	// delayedAt is the value of Installs.ended when a pod of the class last fitted on an agent that had to wait for its turn to
	// fetch km; -1 if that has not happened.
	delayedAt int
}

// traits are the properties that the pods of a class share.
type traits struct {
	key               Key
	obj               *v1.Pod // one of the pods
	demand            Demand
	requests          Requests
	extended          Extended
	asks              *Asks                              // nil for most
	affinity          *nodeaffinity.RequiredNodeAffinity // nil if any node will do
	only              []string                           // the only nodes that the affinity names; nil if it does not name nodes
	toleratesCordon   bool
	toleratesNotReady bool
}

func newClass(key Key, p *Pod) *Class {
	c := &Class{delayedAt: -1, traits: traits{
		key: key, obj: p.Obj, demand: p.Demand, requests: p.Requests, extended: p.Extended, asks: p.Asks, only: onlyNodes(p),
		toleratesCordon: tolerates(p.Obj, v1.TaintNodeUnschedulable), toleratesNotReady: tolerates(p.Obj, v1.TaintNodeNotReady),
	}}
	if len(p.Obj.Spec.NodeSelector) > 0 || requiredAffinity(p.Obj) != nil {
		affinity := nodeaffinity.GetRequiredNodeAffinity(p.Obj)
		c.affinity = &affinity
	}
	if p.constraints != nil {
		c.topology = newTopology(p.constraints)
	}
	if p.nominated != "" {
		c.nominee = p
	}
	return c
}

// onlyNodes returns the node of a bound pod, or the nodes that the pod's affinity names, as for the pods of a DaemonSet
// (https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#how-daemon-pods-are-scheduled). It returns nil if the
// affinity does not name nodes.
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

// Head returns the waiting pod that arrived first; nil if no pod waits.
func (c *Class) Head() *Pod {
	for len(c.pods) > 0 && c.pods[0].class != c {
		heap.Pop(&c.pods) // it has left the class
	}
	if len(c.pods) == 0 {
		return nil
	}
	return c.pods[0]
}

// Pods iterates over the waiting pods, in no order.
func (c *Class) Pods() iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for _, p := range c.pods {
			if p.class == c && !yield(p) {
				return
			}
		}
	}
}

// Key returns the key that the pods share.
func (c *Class) Key() Key { return c.key }

// Node returns the name of the node that the pods are bound to; "" if they are not bound.
func (c *Class) Node() string { return c.key.node }

// Only returns the only nodes that the pods' affinity names; nil if it does not name nodes.
func (c *Class) Only() []string { return c.only }

// Priority returns the priority of the pods.
func (c *Class) Priority() int32 { return c.key.priority }

// Demand returns the demand of each pod.
func (c *Class) Demand() *Demand { return &c.demand }

// Asks returns the requirements that the pods state in annotations; nil for most.
func (c *Class) Asks() *Asks { return c.asks }

// Nominee returns the only pod of the class if it is nominated; else nil.
func (c *Class) Nominee() *Pod { return c.nominee }

// arrivals is a heap of pods by arrival. Some may have left the class.
type arrivals []*Pod

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].Order < a[j].Order }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }

// Push implements heap.Interface.
func (a *arrivals) Push(x any) { *a = append(*a, x.(*Pod)) }

// Pop implements heap.Interface.
func (a *arrivals) Pop() any {
	last := len(*a) - 1
	p := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	return p
}
