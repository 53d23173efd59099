package scheduler

import (
	"cmp"
	"slices"
)

// fleet is the index over the agents: it knows which have something else to offer than a moment ago, so that neither
// the agents nor their offers are gone through for every event.
type fleet struct {
	agents   []*agent // in order of their coming; nil where one was forgotten
	holes    int
	touched  []*agent // whose views have to be made anew
	log      []*agent // that had something new to offer; the latest last
	base     int      // how many were logged before log
	nodeless int      // how many agents wait for their nodes

	byNode    directory
	byAddress directory
}

// directory finds agents by something that mostly one has, but two may for a while.
type directory map[string][]*agent

// move notes that what the agent is found by has changed. Nothing is found by "".
func (d directory) move(a *agent, from, to string) {
	if from == to {
		return
	}
	left := slices.DeleteFunc(d[from], func(other *agent) bool { return other == a })
	if d[from] = left; len(left) == 0 {
		delete(d, from)
	}
	if to != "" {
		d[to] = append(d[to], a)
	}
}

func newFleet() fleet { return fleet{byNode: directory{}, byAddress: directory{}} }

// setNode gives the agent its node's name.
func (f *fleet) setNode(a *agent, name string) {
	f.byNode.move(a, a.node, name)
	a.node = name
}

// setAddress notes where the agent's endpoint is.
func (f *fleet) setAddress(a *agent, address string) {
	f.byAddress.move(a, a.address, address)
	a.address = address
}

// add takes in a new agent.
func (f *fleet) add(a *agent) {
	a.place = len(f.agents)
	f.agents = append(f.agents, a)
}

// remove forgets an agent.
func (f *fleet) remove(a *agent) {
	f.agents[a.place] = nil
	f.byNode.move(a, a.node, "")
	f.byAddress.move(a, a.address, "")
	if a.nodeless {
		f.nodeless--
	}
	if f.holes++; f.holes > 1024 && f.holes > len(f.agents)/2 {
		f.agents = slices.DeleteFunc(f.agents, func(a *agent) bool { return a == nil })
		for i, a := range f.agents {
			a.place = i
		}
		f.holes = 0
		f.restart()
	}
}

// touch notes that something about the agent has changed that its views show.
func (f *fleet) touch(a *agent) {
	if !a.touched {
		a.touched = true
		f.touched = append(f.touched, a)
	}
}

// record logs an agent that may have more to offer than before.
func (f *fleet) record(a *agent) {
	if len(f.log) > 2*len(f.agents)+1024 {
		f.restart()
	}
	f.log = append(f.log, a)
}

// restart forgets the log. Searches that have not read it to its end start anew.
func (f *fleet) restart() {
	f.base += len(f.log) + 1
	f.log = f.log[:0]
}

// changes counts what was ever logged.
func (f *fleet) changes() int { return f.base + len(f.log) }

// search is what the search of a place for equal pods remembers from pod to pod and from cycle to cycle.
type search struct {
	read  int // of the fleet's log
	next  int // in the fleet's agents
	found candidates
}

// candidate is an agent that fitted when it was looked at, or has got more since.
type candidate struct {
	agent *agent
	rank  int64
}

// candidates is a heap: the best first, of equally good ones the one that came first. container/heap would allocate for
// each candidate that comes or goes.
type candidates []candidate

func (c candidates) less(i, j int) bool {
	return cmp.Or(cmp.Compare(c[i].rank, c[j].rank), cmp.Compare(c[i].agent.place, c[j].agent.place)) < 0
}

func (c *candidates) add(x candidate) {
	*c = append(*c, x)
	for i := len(*c) - 1; i > 0 && c.less(i, (i-1)/2); i = (i - 1) / 2 {
		(*c)[i], (*c)[(i-1)/2] = (*c)[(i-1)/2], (*c)[i]
	}
}

// drop takes the best candidate off.
func (c *candidates) drop() {
	last := len(*c) - 1
	(*c)[0], (*c)[last] = (*c)[last], candidate{}
	*c = (*c)[:last]
	c.sink()
}

// sink brings the first candidate to its place after its rank has changed.
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

// find returns the view that the next pod of the shape shall be placed in; nil if there is none now. Agents that
// refused an equal pod are not asked again until they have more to offer.
func (c *Core) find(s *shape) *view {
	if s.wish.wrong() {
		return nil
	}
	if s.nominee != nil {
		if v := c.findNominated(s); v != nil {
			return v
		}
	}
	if s.choosy() {
		return c.findPreferred(s)
	}
	if s.only != nil {
		return c.findNamed(s)
	}
	f, r := &c.fleet, &s.search
	if r.read < f.base || len(r.found) > 2*len(f.agents)+1024 {
		*r = search{read: f.changes()}
	}
	for _, a := range f.log[r.read-f.base:] {
		if a.place < r.next {
			c.consider(s, a)
		}
	}
	r.read = f.changes()
	for {
		for r.next < len(f.agents) && (len(r.found) == 0 || c.cfg.Algorithm != FCFS || r.found[0].rank > 0) {
			if a := f.agents[r.next]; a != nil {
				c.consider(s, a)
			}
			r.next++
		}
		if len(r.found) == 0 {
			return nil
		}
		top := &r.found[0]
		v, rank := c.best(s, top.agent)
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

// consider makes an agent a candidate if the shape fits there now.
func (c *Core) consider(s *shape, a *agent) {
	if v, rank := c.best(s, a); v != nil {
		s.search.found.add(candidate{a, rank})
	}
}

// best returns the agent's view that the shape would have, and its rank.
func (c *Core) best(s *shape, a *agent) (found *view, rank int64) {
	if found = s.choose(a.views); found == nil {
		return nil, 0
	}
	rank = c.cfg.Algorithm.rank(found, &s.demand)
	if found.discouraging != nil {
		rank += shunned * found.shuns(s)
	}
	return found, rank
}

// choose returns the view of the most preferred role among an agent's that fit the shape; nil if none does.
func (s *shape) choose(views []*view) *view {
	if s.wish != nil {
		return s.wish.fit(s, views)
	}
	for _, v := range views { // in the order of --mesos-roles
		if r := v.check(s); r.ok() || r.reserve {
			return v
		}
	}
	return nil
}

// findNamed looks at the nodes that the shape names.
func (c *Core) findNamed(s *shape) *view {
	var found *view
	var best int64
	for _, name := range s.only {
		a := c.agentOfNode(name)
		if a == nil {
			continue
		}
		if v, rank := c.best(s, a); v != nil && (found == nil || rank < best) {
			found, best = v, rank
		}
	}
	return found
}
