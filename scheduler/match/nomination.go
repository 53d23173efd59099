package match

import (
	"iter"
	"slices"
)

// Nominate keeps a place on a node for a pod: it is kept from all pods that are not more important
// (https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/#user-exposed-information). It takes
// back what was kept for the pod before, which is all that it does if the node is "".
func (x *Index) Nominate(p *Pod, node string) {
	before := p.nominated
	if before == node {
		return
	}
	if before != "" { // an agent may have the slice: it stays as it is
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

// Nominees goes through the pods for which a place is kept.
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

// HasNominees tells whether a place is kept for any pod.
func (x *Index) HasNominees() bool { return len(x.nominees) > 0 }

// Nominated returns what of the view the pods of the class have to leave to others: what is kept for more important
// pods, or for equally important ones. Of two equally important pods for which a place is kept there, the later one stands back.
//
// A place is kept in the offers of all roles that the pod may use: nobody knows in which what it is waiting for will come.
func (v *View) Nominated(s *Class) Usage {
	var sum Usage
	for _, p := range v.Agent.nominees {
		mine := s.nominee
		behind := mine != nil && mine.nominated == v.Agent.Node && Before(mine, p) < 0
		taken := slices.Contains(v.reserved, p) // out of the view already
		elsewhere := p.Asks != nil && !p.Asks.takesRole(v)
		if p == mine || elsewhere || p.nominated != v.Agent.Node || taken || Priority(p.Obj) < s.key.priority || behind {
			continue
		}
		sum.Add(p.needs())
	}
	return sum
}

// checkNominees: is there enough beside what is kept for others?
func (v *View) checkNominees(s *Class) refusal {
	if sum := v.Nominated(s); !v.HasBeside(s, &sum) {
		return refusal{reason: nominated}
	}
	return refusal{}
}

// findNominated looks for the place that is kept.
func (x *Index) findNominated(s *Class) *View {
	a := x.AgentOfNode(s.nominee.nominated)
	if a == nil {
		return nil
	}
	v, _ := x.best(s, a)
	return v
}
