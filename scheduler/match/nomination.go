package match

import (
	"iter"
	"slices"
)

// Nominate keeps a place on a node for a pod. Only pods of higher priority may take it
// (https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/#user-exposed-information). An earlier
// nomination ends. With node "" the pod is no longer nominated.
func (x *Index) Nominate(p *Pod, node string) {
	before := p.nominated
	if before == node {
		return
	}
	if before != "" { // an agent may hold the slice, so it must not change
		left := slices.DeleteFunc(slices.Clone(x.nominees[before]), func(other *Pod) bool { return other == p })
		if x.nominees[before] = left; len(left) == 0 {
			delete(x.nominees, before)
		}
	}
	if p.nominated = node; node != "" {
		x.nominees[node] = append(slices.Clip(x.nominees[node]), p)
	}
	for _, changed := range [...]string{before, node} {
		if a := x.AgentOfNode(changed); a != nil {
			a.nominees = x.nominees[changed]
			x.fleet.touch(a)
		}
	}
}

// Nominees iterates over the nominated pods.
func (x *Index) Nominees() iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for _, pods := range x.nominees {
			for _, p := range pods {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// HasNominees tells whether any pod is nominated.
func (x *Index) HasNominees() bool { return len(x.nominees) > 0 }

// Nominated returns what pods of the class must leave to the nominated pods on the agent: those of higher or equal priority. If
// the class itself is nominated there, it leaves nothing to pods of equal priority that arrived later.
//
// The place is kept in all roles that the nominated pod may use, because nobody knows in which role the resources will be offered.
func (v *View) Nominated(c *Class) Usage {
	var sum Usage
	for _, p := range v.Agent.nominees {
		mine := c.nominee
		behind := mine != nil && mine.nominated == v.Agent.Node && Before(mine, p) < 0
		taken := slices.Contains(v.reserved, p) // its resources are out of the view already
		elsewhere := p.Asks != nil && !p.Asks.takesRole(v)
		if p == mine || elsewhere || p.nominated != v.Agent.Node || taken || Priority(p.Obj) < c.key.priority || behind {
			continue
		}
		sum.Add(p.needs())
	}
	return sum
}

// checkNominees checks that the pod fits beside the nominated pods.
func (v *View) checkNominees(c *Class) refusal {
	if sum := v.Nominated(c); !v.HasBeside(c, &sum) {
		return refusal{reason: nominated}
	}
	return refusal{}
}

// findNominated returns the view of the node that the class is nominated to; nil if it does not fit there.
func (x *Index) findNominated(c *Class) *View {
	a := x.AgentOfNode(c.nominee.nominated)
	if a == nil {
		return nil
	}
	v, _ := x.best(c, a)
	return v
}
