package match

import "cmp"

// search is the state of the search for agents for a class. It is kept across pods and cycles.
type search struct {
	logRead   int // how far the fleet's log has been read
	nextAgent int // the first of the fleet's agents that has not been checked yet
	found     candidates
}

// candidate is an agent that fitted when it was checked last.
type candidate struct {
	agent *Agent
	rank  int64
}

// candidates is a heap by rank, then by arrival. container/heap would allocate for each candidate that is added or removed.
type candidates []candidate

func (c candidates) less(i, j int) bool {
	return cmp.Or(cmp.Compare(c[i].rank, c[j].rank), cmp.Compare(c[i].agent.order, c[j].agent.order)) < 0
}

func (c *candidates) add(found candidate) {
	*c = append(*c, found)
	for i := len(*c) - 1; i > 0 && c.less(i, (i-1)/2); i = (i - 1) / 2 {
		(*c)[i], (*c)[(i-1)/2] = (*c)[(i-1)/2], (*c)[i]
	}
}

// drop removes the best candidate.
func (c *candidates) drop() {
	last := len(*c) - 1
	(*c)[0], (*c)[last] = (*c)[last], candidate{}
	*c = (*c)[:last]
	c.sink()
}

// sink restores the heap after the rank of the first candidate has changed.
func (c candidates) sink() {
	for i := 0; ; {
		best := i
		for child := 2*i + 1; child < min(2*i+3, len(c)); child++ {
			if c.less(child, best) {
				best = child
			}
		}
		if best == i {
			return
		}
		c[i], c[best] = c[best], c[i]
		i = best
	}
}

// Find returns the view for the next pod of the class; nil if it fits nowhere now. An agent that refused an equal pod is not
// checked again until it has changed.
func (x *Index) Find(c *Class) *View {
	if c.asks.Wrong() {
		return nil
	}
	if c.nominee != nil {
		if v := x.findNominated(c); v != nil {
			return v
		}
	}
	if c.hasPreferences() {
		return x.findPreferred(c)
	}
	if c.only != nil {
		return x.findNamed(c)
	}
	f, r := &x.fleet, &c.search
	if r.logRead < f.base || len(r.found) > 2*len(f.agents)+1024 {
		*r = search{logRead: f.logged()}
	}
	for _, a := range f.log[r.logRead-f.base:] {
		if a.order < r.nextAgent {
			x.consider(c, a)
		}
	}
	r.logRead = f.logged()
	for {
		for r.nextAgent < len(f.agents) && (len(r.found) == 0 || x.cfg.Algorithm != FCFS || r.found[0].rank > 0) {
			if a := f.agents[r.nextAgent]; a != nil {
				x.consider(c, a)
			}
			r.nextAgent++
		}
		if len(r.found) == 0 {
			return nil
		}
		top := &r.found[0]
		v, rank := x.best(c, top.agent)
		if v == nil {
			r.found.drop()
			continue
		}
		if rank == top.rank {
			return v
		}
		top.rank = rank
		r.found.sink()
	}
}

// consider makes an agent a candidate if the class fits there.
func (x *Index) consider(c *Class, a *Agent) {
	if v, rank := x.best(c, a); v != nil {
		c.search.found.add(candidate{a, rank})
	}
}

// best returns the view of the agent that the class would get, and its rank; nil if the class does not fit there.
func (x *Index) best(c *Class, a *Agent) (found *View, rank int64) {
	if found = c.choose(a.views); found == nil {
		return nil, 0
	}
	rank = x.cfg.Algorithm.rank(found, &c.demand)
	if found.preferNoSchedule != nil {
		rank += preferNoSchedulePenalty * found.intolerableTaints(c)
	}
	return found, rank
}

// choose returns the agent's view with the most preferred role among those that fit the class; nil if none fits.
func (c *Class) choose(views []*View) *View {
	if c.asks != nil {
		return c.asks.fit(c, views)
	}
	for _, v := range views { // ordered as --mesos-roles
		if r := v.check(c); r.ok() || r.reserve {
			return v
		}
	}
	return nil
}

// findNamed returns the best view among the nodes that the class names; nil if it fits on none.
func (x *Index) findNamed(c *Class) *View {
	var found *View
	var best int64
	for _, name := range c.only {
		a := x.AgentOfNode(name)
		if a == nil {
			continue
		}
		if v, rank := x.best(c, a); v != nil && (found == nil || rank < best) {
			found, best = v, rank
		}
	}
	return found
}
