package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// cycle places as many waiting pods as fit, by priority, then by arrival.
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

// grant is what one cycle launches in a view.
type grant struct {
	view   *match.View
	tasks  []NewTask
	wanted bool // a pod fits here once the executor is prepared
}

// grants are the grants of one cycle, in the order in which they were made.
type grants struct {
	list   []*grant
	spare  []*grant               // of earlier cycles
	byView map[*match.View]*grant // nil while there are few
}

// reset begins a cycle. Nothing may refer to the grants of the previous one any more.
func (g *grants) reset() {
	for _, old := range g.list {
		*old = grant{}
	}
	g.spare, g.list, g.byView = append(g.spare, g.list...), g.list[:0], nil
}

// take returns an empty grant.
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

// in returns the grant of a view, a new one if it has none.
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

// refresh rebuilds the views of the agents that have changed. Pods that had reserved a place there are requeued.
func (c *Core) refresh(now time.Time) {
	for changed := c.index.Changed(); changed != nil; changed = c.index.Changed() {
		a := c.agents.of(changed)
		c.pods.unreserve(now, a, c.index.Release(changed))
		c.pods.nodeJoined(now, a.Node)
		c.index.Rebuild(changed)
		c.agents.countNodeless(a)
	}
}

// unreserve requeues the pods that had reserved a place on the agent.
func (ps *pods) unreserve(now time.Time, a *agent, released []*match.Pod) {
	for _, r := range released {
		p := ps.of(r)
		delete(ps.queue.awaitingExecutor, p.Obj.UID)
		ps.core.health.triedInVain(a, p.Obj.UID)
		ps.occupy(p)
		ps.requeue(now, p)
	}
}

// countNodeless updates fleet.nodeless, the number of agents that wait for their nodes.
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

// place starts a pod's task in the view, or reserves its place there until its claims are bound and the executor is
// prepared.
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
		c.index.Prefer(v.Agent) // its score has improved for all other pods
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
				Resources: v.Executor().NewCharge, Engine: c.rollouts.engineOfMinions(),
				MayReplace: !a.hasExecutor && len(c.tasks.on(a.ID)) == 0,
			})
		}
		if len(g.tasks) == 0 {
			continue
		}
		a.returning = now // the rest of the offers
		if err := c.offering.claim(now, a.ID, v.Offers, g.tasks); err != nil {
			acts = append(acts, c.unlaunch(now, g, err))
			continue
		}
		acts = append(acts, Launch{Agent: a.ID, Offers: v.Offers, Executor: e.record, Tasks: g.tasks})
	}
	return acts
}

// overtaken reports whether the executor was launched meanwhile, in offers of another role: then pods wait for it.
func (c *Core) overtaken(a *agent, v *match.View) bool {
	return !a.hasExecutor && a.executor.record != nil && !v.Executor().Prepared && len(c.tasks.on(a.ID)) > 0
}

// unlaunch ends the tasks of a grant whose offers turn out to have ended.
func (c *Core) unlaunch(now time.Time, g *grant, err error) Action {
	for _, t := range g.tasks {
		c.tasks.end(now, c.tasks.get(t.ID), false)
	}
	return Complain{Reason: "LaunchImpossible", Text: "cannot launch on agent " + string(g.view.Agent.ID) + ", the pods are placed again: " + err.Error()}
}
