package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	reportPatience  = 2 * time.Second  // offers that REVIVE calls for arrive within this
	preparePatience = 20 * time.Second // nodes appear, and executors are prepared, within this
	reportFirst     = 10 * time.Second
	reportLast      = 5 * time.Minute
)

// report spaces out what is told about one waiting pod.
type report struct {
	message string
	again   time.Time     // the same message is not repeated before
	change  time.Time     // nor another one looked for before
	pause   time.Duration // between changed messages
}

// due tells whether to tell the message now, and remembers that it was told.
func (r *report) due(now time.Time, message string) bool {
	if now.Before(r.change) {
		return false
	}
	if message == r.message && now.Before(r.again) {
		r.change = now.Add(min(reportFirst, r.again.Sub(now))) // look again then, not all the time
		return false
	}
	r.pause = min(max(2*r.pause, reportFirst), reportLast)
	r.message, r.again, r.change = message, now.Add(reportLast), now.Add(r.pause)
	return true
}

// revival decides when to REVIVE. The order of DECLINE and REVIVE is not guaranteed by Mesos, so while pods wait it is
// repeated, ever more seldom.
type revival struct {
	last     time.Time
	next     time.Time
	pause    time.Duration
	calls    []time.Time // not yet known to be answered
	answered time.Time   // the last call of which that is known
	wanted   bool        // by something that has come since the last call
}

const (
	reviveSoonest = 100 * time.Millisecond
	reviveAgain   = time.Second
	reviveLast    = 30 * time.Second
)

// reviveSoon ends the pause: there is something new to wait for.
func (c *Core) reviveSoon() {
	r := &c.revival
	r.pause, r.next, r.wanted = 0, r.last.Add(reviveFirst(len(c.agents))), true
}

func (r *revival) due(now time.Time) bool {
	if now.Before(r.next) {
		return false
	}
	r.pause = min(max(2*r.pause, reviveAgain), reviveLast)
	r.last, r.next, r.wanted = now, now.Add(r.pause), false
	r.calls = append(r.calls, now)
	return true
}

// answeredBefore returns the last call that was made at this time or earlier. It never goes back.
func (r *revival) answeredBefore(at time.Time) time.Time {
	for len(r.calls) > 0 && !r.calls[0].After(at) {
		r.answered, r.calls = r.calls[0], r.calls[1:]
	}
	return r.answered
}

// cycle places as many waiting pods as fit, by priority and then first come first served.
func (c *Core) cycle(now time.Time) []Action {
	c.index.Installs.End(c.installing)
	c.refresh(now)
	c.index.Begin()
	var chosen grants
	for class := c.index.Next(); class != nil; class = c.index.Next() {
		if v := c.index.Find(class); v != nil {
			c.place(now, c.podOf(class.Head()), v, &chosen)
			continue
		}
		c.index.Skip()
	}
	slices.SortStableFunc(chosen.list, func(a, b *grant) int { return a.view.Agent.Compare(b.view.Agent) })
	acts := append(c.launch(now, chosen.list), c.prepared...)
	c.prepared = c.prepared[:0]
	return acts
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
	byView map[*match.View]*grant // nil while there are few
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
	made := &grant{view: v}
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
		a := c.agents[changed.ID]
		c.unreserve(now, a, c.index.Release(changed))
		c.welcome(now, a.Node)
		c.index.Rebuild(changed)
		c.countNodeless(a)
	}
}

// unreserve sends the pods that had reserved a place on the agent back into the queue.
func (c *Core) unreserve(now time.Time, a *agent, released []*match.Pod) {
	for _, r := range released {
		p := c.podOf(r)
		delete(c.queue.awaitingExecutor, p.Obj.UID)
		c.triedInVain(a, p.Obj.UID)
		c.occupy(p)
		c.requeue(now, p)
	}
}

// countNodeless keeps count of the agents whose nodes are still to come.
func (c *Core) countNodeless(a *agent) {
	nodeless := a.Alive && a.Node != "" && c.nodeOf(a) == nil
	if nodeless == a.nodeless {
		return
	}
	a.nodeless = nodeless
	if nodeless {
		c.fleet.nodeless++
		return
	}
	c.fleet.nodeless--
}

// place gives a pod its task in the view, or reserves its place there until the executor is prepared. Claims that wait for
// the choice of a node come first.
func (c *Core) place(now time.Time, p *pod, v *match.View, chosen *grants) {
	a := c.agentOf(v.Agent)
	if c.prepareClaims(now, p, v) {
		return
	}
	if v.Executor().Charge != nil {
		c.index.Installs.Begin(v.Agent)
	}
	if !v.Executor().Prepared {
		c.dequeue(p)
		v.Reserve(&p.Pod)
		chosen.in(v).wanted = true
		p.waits = true
		c.queue.awaitingExecutor[p.Obj.UID] = p
		c.queue.waiting++
		a.tries(p.Obj.UID, p)
		c.occupy(p)
		return
	}
	g := chosen.in(v)
	if v.Executor().Companion != nil {
		c.warmUp(now, a, g)
	}
	p.attempt++
	t := c.newTask(now, p, a.ID)
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
		v, a := g.view, c.agentOf(g.view.Agent)
		e := &a.executor
		if g.wanted && !e.preparing && !c.overtaken(a, v) {
			e.preparing = true
			acts = append(acts, PrepareExecutor{
				Framework: c.framework, Agent: a.ID, Node: a.Node, Address: a.address,
				Resources:  v.Executor().Anew,
				MayReplace: !a.hasExecutor && len(c.owners[a.ID]) == 0,
			})
		}
		if len(g.tasks) == 0 {
			continue
		}
		c.index.Refresh(&a.Agent)
		a.returning = now // what is left
		if err := c.offers.Claim(now, v.Offers...); err != nil {
			acts = append(acts, c.unlaunch(now, g, err))
			continue
		}
		acts = append(acts, Launch{Agent: a.ID, Offers: v.Offers, Executor: e.record, Tasks: g.tasks})
	}
	return acts
}

// overtaken says that the executor has been launched meanwhile, in offers of another role: it is to be waited for.
func (c *Core) overtaken(a *agent, v *match.View) bool {
	return !a.hasExecutor && a.executor.record != nil && !v.Executor().Prepared && len(c.owners[a.ID]) > 0
}

// unlaunch takes back what was placed in offers that turn out to have ended.
func (c *Core) unlaunch(now time.Time, g *grant, err error) Action {
	for _, t := range g.tasks {
		c.end(now, c.tasks[t.ID], false)
	}
	return Complain{Text: "offers of agent " + string(g.view.Agent.ID) + " were used too late: " + err.Error()}
}

// revive calls for offers when a pod waits that no offer will fit in a moment.
func (c *Core) revive(now time.Time) []Action {
	if c.queue.waiting+c.cold == 0 || now.Before(c.revival.next) || !c.wantsOffers(now) || !c.revival.due(now) {
		return nil
	}
	return []Action{Revive{}}
}

// reviveEarly calls for offers while pods are gathered, if there are none that they might fit in.
func (c *Core) reviveEarly(now time.Time) []Action {
	if c.offers.Len() > 0 {
		return nil
	}
	return c.revive(now)
}

func (c *Core) wantsOffers(now time.Time) bool {
	if c.cold > 0 || now.Before(c.resumeAt) {
		return true
	}
	long := func(p *pod) bool { return now.Sub(p.since) >= reportPatience }
	for _, p := range c.queue.awaitingExecutor {
		if long(p) {
			return true
		}
	}
	for class := range c.index.Classes() {
		if class.Asks().Wrong() {
			continue
		}
		for p := range class.Pods() {
			if c.fleet.nodeless == 0 || long(c.podOf(p)) {
				return true
			}
		}
	}
	return false
}

// looksPerTick bounds for how many agents it is found out in one step why they refuse a pod.
const looksPerTick = 200_000

// explain tells why pods wait when there is something to tell: not while a refusal may be gone in a moment, and not
// before the offers that were called for can have come. Equal pods share the reasons.
func (c *Core) explain(now time.Time) []Action {
	var acts []Action
	reasons := map[match.Key]*match.Summary{}
	for _, p := range c.unexplained(now) {
		if c.queue.awaitingAddress[p.Obj.UID] == p {
			if message := p.claimed.refused; message != "" && p.report.due(now, message) {
				acts = append(acts, Report{Pod: p.Obj, Message: message})
			}
			continue
		}
		if c.queue.awaitingClaims[p.Obj.UID] == p {
			if message := c.claimsMessage(p); p.report.due(now, message) {
				acts = append(acts, Report{Pod: p.Obj, Message: message})
			}
			continue
		}
		key := p.Key()
		refusals := reasons[key]
		if refusals == nil {
			if len(reasons) > 0 && len(reasons)*len(c.agents) > looksPerTick {
				break
			}
			refusals = c.index.WhyNot(&p.Pod)
			reasons[key] = refusals
		}
		if refusals.Preparing() > 0 && now.Sub(p.since) < preparePatience {
			continue
		}
		if message := refusals.String() + c.outlook(p); p.report.due(now, message) {
			acts = append(acts, Report{Pod: p.Obj, Message: message})
		}
	}
	return append(acts, c.explainHomeless(now)...)
}

// explainHomeless tells of the pods that somebody bound to a node that does not exist. What is bound to a node that is
// none of ours is not ours to start, nor to explain.
func (c *Core) explainHomeless(now time.Time) []Action {
	var pods []*pod
	for node, home := range c.queue.awaitingNode {
		for _, p := range home {
			if c.nodes[node] == nil && now.Sub(p.since) >= preparePatience {
				pods = append(pods, p)
			}
		}
	}
	slices.SortFunc(pods, before)
	var acts []Action
	for _, p := range pods {
		if message := noSuchNode(p); p.report.due(now, message) {
			acts = append(acts, Report{Pod: p.Obj, Message: message})
		}
	}
	return acts
}

func noSuchNode(p *pod) string { return "it is bound to node " + p.Node + ", which does not exist" }

// unexplained returns the pods of which it may be time to tell why they wait, the next in turn first.
func (c *Core) unexplained(now time.Time) []*pod {
	var pods []*pod
	late := func(p *pod) {
		if now.Sub(p.since) >= reportPatience && !now.Before(p.report.change) {
			pods = append(pods, p)
		}
	}
	for _, p := range c.queue.awaitingExecutor {
		late(p)
	}
	for _, p := range c.queue.awaitingClaims {
		late(p)
	}
	for _, p := range c.queue.awaitingAddress {
		late(p)
	}
	for class := range c.index.Classes() {
		for p := range class.Pods() {
			late(c.podOf(p))
		}
	}
	slices.SortFunc(pods, before)
	return slices.Compact(pods)
}
