package match

import "slices"

// WhyNot summarizes why no agent takes the pod now. For a bound pod, it checks only the agent of the pod's node.
func (x *Index) WhyNot(p *Pod) *Summary {
	c := x.ClassOf(p)
	sum := &Summary{class: c, roles: x.cfg.rolesWanted(c)}
	agents := x.fleet.agents
	if p.Node != "" {
		agents = []*Agent{x.AgentOfNode(p.Node)}
	}
	for _, a := range agents {
		switch {
		case a != nil && !a.Alive && p.Node != "":
			sum.add(refusal{reason: unreachable})
		case a == nil || !a.Alive || a.Node == "":
		case p.reserved == a:
			sum.add(refusal{reason: beingPrepared})
		case len(a.views) == 0:
			sum.add(x.idle(a).check(c))
		default:
			sum.add(nearestRefusal(c, a.views))
		}
	}
	return sum
}

// nearestRefusal returns the refusal of the view that is nearest to taking the class: one that may take it in a moment, or that
// has the highest reason.
func nearestRefusal(c *Class, views []*View) refusal {
	rank := func(r refusal) int {
		switch r.reason {
		case otherRole:
			return -1
		case fits, beingPrepared:
			return int(numReasons)
		}
		return int(r.reason)
	}
	nearest := views[0].check(c)
	for _, v := range views[1:] {
		if r := v.check(c); rank(r) > rank(nearest) {
			nearest = r
		}
	}
	return nearest
}

// Preparing returns how many agents may take the pod in a moment.
func (s *Summary) Preparing() int { return s.preparing }

// Trial returns a copy of the view as it will be after tasks with this usage have ended and their pods are gone; nil if the class
// does not fit even then.
func (v *View) Trial(c *Class, freed *Usage, gone []*Pod) *View {
	for i, want := range c.demand.Scalars {
		if want > v.have[i]+freed.Scalars[i] {
			return nil // a cheap check for the most frequent reason
		}
	}
	if !v.checkNode(c).ok() {
		return nil
	}
	trial := new(View)
	*trial = *v
	trial.Offers = append(slices.Clip(v.Offers), "what will have been freed")
	trial.Free = append(slices.Clone(v.Free), freed.resources(v.Role)...)
	trial.node = v.node.without(gone)
	trial.complete()
	if r := trial.check(c); !r.ok() && !r.reserve {
		return nil
	}
	return trial
}
