package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// cycle places as many waiting pods as fit, by priority and then first come first served.
func (c *Core) cycle(now time.Time) []Action {
	c.index.Installs.End(c.agents.installing)
	c.refresh(now)
	c.index.Begin()
	chosen := &c.step.granted
	chosen.reset()
	for class := c.index.Next(); class != nil; class = c.index.Next() {
		if v := c.index.Find(class); v != nil {
			c.place(now, c.pods.of(class.Head()), v, chosen)
			continue
		}
		c.index.Skip()
	}
	slices.SortStableFunc(chosen.list, func(a, b *grant) int { return a.view.Agent.Compare(b.view.Agent) })
	return append(c.launch(now, chosen.list), c.claims.decided()...)
}

// grant is what is to be launched in a view.
type grant struct {
	view   *match.View
	tasks  []NewTask
	wanted bool // a pod would fit here if only the executor were prepared
}

// grants are those of one cycle, in the order in which they were made.
type grants struct {
	list   []*grant
	spare  []*grant               // of earlier cycles
	byView map[*match.View]*grant // nil while there are few
}

// reset begins a cycle. What was granted in the one before is launched.
func (g *grants) reset() {
	for _, old := range g.list {
		*old = grant{}
	}
	g.spare, g.list, g.byView = append(g.spare, g.list...), g.list[:0], nil
}

// take returns a grant that is not used.
func (g *grants) take() *grant {
	if last := len(g.spare) - 1; last >= 0 {
		unused := g.spare[last]
		g.spare = g.spare[:last]
		return unused
	}
	return &grant{}
}

// few grants are found without a map.
const few = 8

// in returns the grant in a view, a new one if it had none.
func (g *grants) in(v *match.View) *grant {
	if g.byView == nil {
		for _, known := range g.list {
			if known.view == v {
				return known
			}
		}
	} else if known := g.byView[v]; known != nil {
		return known
	}
	made := g.take()
	made.view = v
	g.list = append(g.list, made)
	if len(g.list) > few {
		if g.byView == nil {
			g.byView = map[*match.View]*grant{}
			for _, known := range g.list {
				g.byView[known.view] = known
			}
		}
		g.byView[v] = made
	}
	return made
}

// refresh has the agents viewed anew of which something has changed. Pods that had reserved a place there wait for their
// turn again.
func (c *Core) refresh(now time.Time) {
	for changed := c.index.Changed(); changed != nil; changed = c.index.Changed() {
		a := c.agents.of(changed)
		c.pods.unreserve(now, a, c.index.Release(changed))
		c.pods.welcome(now, a.Node)
		c.index.Rebuild(changed)
		c.agents.countNodeless(a)
	}
}

// unreserve sends the pods that had reserved a place on the agent back into the queue.
func (ps *pods) unreserve(now time.Time, a *agent, released []*match.Pod) {
	for _, r := range released {
		p := ps.of(r)
		delete(ps.queue.awaitingExecutor, p.Obj.UID)
		ps.core.health.triedInVain(a, p.Obj.UID)
		ps.occupy(p)
		ps.requeue(now, p)
	}
}

// countNodeless keeps count of the agents whose nodes are still to come.
func (as *agents) countNodeless(a *agent) {
	nodeless := a.Alive && a.Node != "" && as.nodeOf(a) == nil
	if nodeless == a.nodeless {
		return
	}
	a.nodeless = nodeless
	if nodeless {
		as.fleet.nodeless++
		return
	}
	as.fleet.nodeless--
}

// place gives a pod its task in the view, or reserves its place there until the executor is prepared. Claims that wait for
// the choice of a node come first.
func (c *Core) place(now time.Time, p *pod, v *match.View, chosen *grants) {
	a := c.agents.of(v.Agent)
	if c.claims.prepare(now, p, v) {
		return
	}
	if v.Executor().Charge != nil {
		c.index.Installs.Begin(v.Agent)
	}
	if !v.Executor().Prepared {
		c.pods.dequeue(p)
		v.Reserve(&p.Pod)
		chosen.in(v).wanted = true
		c.pods.awaitExecutor(p)
		a.tries(p.Obj.UID, p)
		c.pods.occupy(p)
		return
	}
	g := chosen.in(v)
	if v.Executor().Companion != nil {
		c.warm.launch(now, a, g)
	}
	p.attempt++
	t := c.tasks.start(now, p, a.ID)
	t.offer, t.role = v.Offers[0], v.Role
	a.tries(p.Obj.UID, p)
	var taken offers.Resources
	taken, t.mapped = v.Take(&p.Pod)
	g.tasks = append(g.tasks, NewTask{ID: t.id, Pod: p.Obj, Resources: taken, Ports: t.mapped})
	if c.cfg.Algorithm == match.Binpack {
		c.index.Prefer(v.Agent) // for all other pods it has become better
	}
}

// launch accepts the offers of the agents that got tasks, and prepares the executors that pods wait for.
func (c *Core) launch(now time.Time, chosen []*grant) []Action {
	var acts []Action
	for _, g := range chosen {
		v, a := g.view, c.agents.of(g.view.Agent)
		e := &a.executor
		if g.wanted && !e.preparing && !c.overtaken(a, v) {
			e.preparing = true
			acts = append(acts, PrepareExecutor{
				Framework: c.session.framework(), Agent: a.ID, Node: a.Node, Address: a.address,
				Resources:  v.Executor().NewCharge,
				MayReplace: !a.hasExecutor && len(c.tasks.on(a.ID)) == 0,
			})
		}
		if len(g.tasks) == 0 {
			continue
		}
		a.returning = now // what is left
		if err := c.offering.claim(now, a.ID, v.Offers); err != nil {
			acts = append(acts, c.unlaunch(now, g, err))
			continue
		}
		acts = append(acts, Launch{Agent: a.ID, Offers: v.Offers, Executor: e.record, Tasks: g.tasks})
	}
	return acts
}

// overtaken says that the executor has been launched meanwhile, in offers of another role: it is to be waited for.
func (c *Core) overtaken(a *agent, v *match.View) bool {
	return !a.hasExecutor && a.executor.record != nil && !v.Executor().Prepared && len(c.tasks.on(a.ID)) > 0
}

// unlaunch takes back what was placed in offers that turn out to have ended.
func (c *Core) unlaunch(now time.Time, g *grant, err error) Action {
	for _, t := range g.tasks {
		c.tasks.end(now, c.tasks.get(t.ID), false)
	}
	return Complain{Text: "offers of agent " + string(g.view.Agent.ID) + " were used too late: " + err.Error()}
}
