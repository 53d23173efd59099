package scheduler

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
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
	c.endInstalls()
	c.refresh(now)
	c.turns()
	due := &c.queue.due
	var chosen []*view
	for {
		if len(c.standing.fresh) > 0 && c.rekey() {
			c.allTurns()
		}
		c.queue.admit()
		if len(*due) == 0 {
			break
		}
		s := (*due)[0]
		v := c.find(s)
		if v == nil {
			heap.Pop(due) // none of these pods will fit unless another pod's coming lets them
			continue
		}
		before := v.used()
		c.place(now, s.head(), v)
		if !before && v.used() {
			chosen = append(chosen, v)
		}
		if s.head() == nil {
			heap.Pop(due)
			continue
		}
		heap.Fix(due, 0)
	}
	slices.SortStableFunc(chosen, func(a, b *view) int { return cmp.Compare(a.agent.place, b.agent.place) })
	acts := append(c.launch(now, chosen), c.prepared...)
	c.prepared = c.prepared[:0]
	return acts
}

// refresh makes the views of the agents anew of which something has changed. Pods that had reserved a place there wait
// for their turn again.
func (c *Core) refresh(now time.Time) {
	for i := 0; i < len(c.fleet.touched); i++ { // it may grow meanwhile
		a := c.fleet.touched[i]
		a.touched = false
		if c.agents[a.id] != a {
			continue
		}
		c.unpark(now, a)
		c.welcome(now, a.node)
		a.views, a.idle = c.views(now, a), nil
		c.countNodeless(a)
		if len(a.views) > 0 {
			c.fleet.record(a)
		}
	}
	c.fleet.touched = c.fleet.touched[:0]
}

// unpark sends the pods that had reserved a place on the agent back into the queue.
func (c *Core) unpark(now time.Time, a *agent) {
	for _, v := range a.views {
		for _, p := range v.parked {
			if p.parked == a {
				p.parked = nil
				delete(c.queue.parked, p.obj.UID)
				c.triedInVain(a, p.obj.UID)
				c.stand(p)
				c.requeue(now, p)
			}
		}
		v.parked = nil
	}
}

// welcome queues the pods that are bound to a node which has become one of ours.
func (c *Core) welcome(now time.Time, node string) {
	pods := c.queue.homeless[node]
	if len(pods) == 0 || c.agentOfNode(node) == nil {
		return
	}
	delete(c.queue.homeless, node)
	for _, p := range pods {
		c.requeue(now, p)
	}
}

// vacate takes the pods that are bound to a node which is ours no more out of the queue.
func (c *Core) vacate(now time.Time, node string) {
	for key, s := range c.queue.shapes {
		if key.node != node || node == "" {
			continue
		}
		for _, p := range slices.Clone(s.pods) {
			if p.shape == s {
				c.requeue(now, p)
			}
		}
	}
}

// countNodeless keeps count of the agents whose nodes are still to come.
func (c *Core) countNodeless(a *agent) {
	nodeless := a.alive && a.node != "" && c.nodeOf(a) == nil
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

// nodeOf returns the agent's node; nil while it does not exist, still stands for the agent that was there before, or has
// not got the labels yet that the agent's attributes want: until then nobody can tell which pods want that agent.
func (c *Core) nodeOf(a *agent) *v1.Node {
	node := c.nodes[a.node]
	if node == nil || node.Spec.ProviderID != api.ProviderID(a.id) {
		return nil
	}
	if node != a.settled && a.last.ID != "" && len(staleLabels(node, agentLabels(a))) > 0 {
		return nil
	}
	return node
}

// views returns the agent's live offers, one view for each role, because Mesos refuses a task whose resources are of two;
// the preferred role comes first.
func (c *Core) views(now time.Time, a *agent) []*view {
	if !a.alive || a.node == "" {
		return nil
	}
	a.promises = c.nominees[a.node]
	views, worn := a.views[:0], len(a.views)
	for o := range c.offers.OfAgent(a.id) {
		i := slices.IndexFunc(views, func(v *view) bool { return v.role == o.Role })
		if i < 0 {
			i = len(views)
			if i < worn {
				views = views[:i+1] // the view that was here is of no use any more, but its memory is
			} else {
				views = append(views, &view{})
			}
			c.open(now, views[i], a, o.Role)
		}
		views[i].offers = append(views[i].offers, o.ID)
		views[i].free = append(views[i].free, o.Resources...)
	}
	if len(views) > 1 {
		slices.SortStableFunc(views, func(x, y *view) int {
			return cmp.Compare(rolePlace(c.cfg.Roles, x.role), rolePlace(c.cfg.Roles, y.role))
		})
	}
	for _, v := range views {
		c.seeExecutor(now, v)
	}
	return views
}

// open makes a view of the agent that nothing is offered in yet.
func (c *Core) open(now time.Time, v *view, a *agent, role string) {
	*v = view{agent: a, node: c.nodeOf(a), role: role, free: v.free[:0], installs: &c.installs}
	v.closed, v.drains = c.closed(now, a, v.node), c.drains(a)
	if v.node != nil {
		v.place, v.discouraging = c.standing.at(a.node), discouraging(v.node)
		if !a.hasExecutor && v.place.bounded() {
			v.next = a.forPods(c.minionOf(a))
		}
	}
}

// idleView is an agent without offers with all it has, to tell what does not fit now from what never will.
func (c *Core) idleView(now time.Time, a *agent) *view {
	if a.idle == nil {
		a.idle = &view{}
		c.open(now, a.idle, a, "")
		a.idle.free = a.total.resources()
		c.seeExecutor(now, a.idle)
	}
	return a.idle
}

// seeExecutor finds out which executor the view's agent has and what a new one would take. A record whose token may
// run out has to be prepared again. So has one whose resources the offers do not hold, because they are of another role,
// or reserved in another way than when it was made: Mesos would refuse its tasks (validateExecutor in
// src/master/validation.cpp wants all that a task and its executor use in the offers). Unless the executor is on its way
// there already, launched in other offers: then it is waited for.
func (c *Core) seeExecutor(now time.Time, v *view) {
	defer v.count()
	a := v.agent
	for _, id := range a.last.Executors {
		if id != api.MinionExecutorID {
			v.stranger = id
		}
	}
	v.hopeless = now.Before(a.executor.after)
	e := &a.executor
	if a.hasExecutor {
		v.record = e.record
		return
	}
	v.charge = c.charge(v.free)
	v.executor = v.charge
	defer c.seeCompanion(v)
	if len(v.offers) == 0 || e.record == nil {
		return
	}
	if e.kept {
		if v.coming = len(c.owners[a.id]) > 0; !v.coming { // else that executor may run yet
			e.record = nil
		}
		return
	}
	if now.Sub(e.armed) >= tokenFresh {
		e.record = nil
		return
	}
	if !v.free.Holds(e.charge) {
		v.coming = len(c.owners[a.id]) > 0
		if !v.coming && (len(e.charge) == 0 || e.charge[0].Role == v.role) {
			e.record = nil
		}
		return
	}
	v.record, v.charge = e.record, e.charge
}

// charge takes the executor's part out of resources; it is never empty, and short if there is too little.
func (c *Core) charge(free offers.Resources) offers.Resources {
	var charge offers.Resources
	for i, amount := range c.cfg.executor(free.Sum(offers.Disk)).Scalars {
		if amount == 0 {
			continue
		}
		taken, _, enough := free.Take(scalarNames[i], amount)
		if !enough {
			taken = offers.Resources{{Name: scalarNames[i], Scalar: amount}}
		}
		charge = append(charge, taken...)
	}
	return charge
}

// place gives a pod its task in the view, or reserves its place there until the executor is prepared. Claims that wait for
// the choice of a node come first.
func (c *Core) place(now time.Time, p *pod, v *view) {
	a := v.agent
	if c.prepare(now, p, v) {
		return
	}
	if v.charge != nil {
		c.installs.begin(a)
	}
	if v.record == nil {
		c.dequeue(p)
		v.takeAll(p)
		v.wanted = true
		v.parked = append(v.parked, p)
		p.parked = a
		p.waits = true
		c.queue.parked[p.obj.UID] = p
		c.queue.waiting++
		a.tries(p.obj.UID, p)
		c.stand(p)
		return
	}
	if v.companion != nil {
		c.warmUp(now, v)
	}
	p.attempt++
	t := c.newTask(now, p, a.id)
	t.offer, t.role = v.offers[0], v.role
	a.tries(p.obj.UID, p)
	var taken offers.Resources
	taken, t.mapped = v.takeAll(p)
	v.tasks = append(v.tasks, NewTask{ID: t.id, Pod: p.obj, Resources: taken, Ports: t.mapped})
	if c.cfg.Algorithm == Binpack {
		c.fleet.record(a) // for all other shapes it has become better
	}
}

// launch accepts the offers of the agents that got tasks, and prepares the executors that pods wait for.
func (c *Core) launch(now time.Time, chosen []*view) []Action {
	var acts []Action
	for _, v := range chosen {
		e := &v.agent.executor
		if v.wanted && !e.preparing && !v.overtaken(c) {
			e.preparing = true
			acts = append(acts, PrepareExecutor{
				Framework: c.framework, Agent: v.agent.id, Node: v.agent.node, Address: v.agent.address,
				Resources:  v.executor,
				MayReplace: !v.agent.hasExecutor && len(c.owners[v.agent.id]) == 0,
			})
		}
		if len(v.tasks) == 0 {
			continue
		}
		c.fleet.touch(v.agent)
		v.agent.returning = now // what is left
		if err := c.offers.Claim(now, v.offers...); err != nil {
			acts = append(acts, c.unlaunch(now, v, err))
			continue
		}
		acts = append(acts, Launch{Agent: v.agent.id, Offers: v.offers, Executor: v.record, Tasks: v.tasks})
	}
	return acts
}

// overtaken says that the executor has been launched meanwhile, in offers of another role: it is to be waited for.
func (v *view) overtaken(c *Core) bool {
	a := v.agent
	return !a.hasExecutor && a.executor.record != nil && v.record == nil && len(c.owners[a.id]) > 0
}

// unlaunch takes back what was placed in offers that turn out to have ended.
func (c *Core) unlaunch(now time.Time, v *view, err error) Action {
	for _, t := range v.tasks {
		c.end(now, c.tasks[t.ID], false)
	}
	return Complain{Text: "offers of agent " + string(v.agent.id) + " were used too late: " + err.Error()}
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
	for _, p := range c.queue.parked {
		if long(p) {
			return true
		}
	}
	for _, s := range c.queue.shapes {
		if s.wish.wrong() {
			continue
		}
		for _, p := range s.pods {
			if p.shape == s && (c.fleet.nodeless == 0 || long(p)) {
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
	reasons := map[shapeKey]*summary{}
	for _, p := range c.unexplained(now) {
		if c.queue.unaddressed[p.obj.UID] == p {
			if message := p.claimed.refused; message != "" && p.report.due(now, message) {
				acts = append(acts, Report{Pod: p.obj, Message: message})
			}
			continue
		}
		if c.queue.pledged[p.obj.UID] == p {
			if message := c.claimsMessage(p); p.report.due(now, message) {
				acts = append(acts, Report{Pod: p.obj, Message: message})
			}
			continue
		}
		key := keyOf(p)
		refusals := reasons[key]
		if refusals == nil {
			if len(reasons) > 0 && len(reasons)*len(c.agents) > looksPerTick {
				break
			}
			refusals = c.refusals(now, p, c.shapeOf(key, p))
			reasons[key] = refusals
		}
		if refusals.preparing > 0 && now.Sub(p.since) < preparePatience {
			continue
		}
		if message := refusals.message(p.demand) + outlook(p); p.report.due(now, message) {
			acts = append(acts, Report{Pod: p.obj, Message: message})
		}
	}
	return append(acts, c.explainHomeless(now)...)
}

// explainHomeless tells of the pods that somebody bound to a node that does not exist. What is bound to a node that is
// none of ours is not ours to start, nor to explain.
func (c *Core) explainHomeless(now time.Time) []Action {
	var pods []*pod
	for node, home := range c.queue.homeless {
		for _, p := range home {
			if c.nodes[node] == nil && now.Sub(p.since) >= preparePatience {
				pods = append(pods, p)
			}
		}
	}
	slices.SortFunc(pods, beforeInQueue)
	var acts []Action
	for _, p := range pods {
		if message := noSuchNode(p); p.report.due(now, message) {
			acts = append(acts, Report{Pod: p.obj, Message: message})
		}
	}
	return acts
}

func noSuchNode(p *pod) string { return "it is bound to node " + p.node + ", which does not exist" }

// unexplained returns the pods of which it may be time to tell why they wait, the next in turn first.
func (c *Core) unexplained(now time.Time) []*pod {
	var pods []*pod
	late := func(p *pod) {
		if now.Sub(p.since) >= reportPatience && !now.Before(p.report.change) {
			pods = append(pods, p)
		}
	}
	for _, p := range c.queue.parked {
		late(p)
	}
	for _, p := range c.queue.pledged {
		late(p)
	}
	for _, p := range c.queue.unaddressed {
		late(p)
	}
	for _, s := range c.queue.shapes {
		for _, p := range s.pods {
			if p.shape == s {
				late(p)
			}
		}
	}
	slices.SortFunc(pods, beforeInQueue)
	return slices.Compact(pods)
}

// refusals asks every agent why it does not run the pod; of a pod that is bound, that of its node.
func (c *Core) refusals(now time.Time, p *pod, s *shape) *summary {
	sum := &summary{shape: s, roles: c.rolesWanted(s)}
	agents := c.fleet.agents
	if p.node != "" {
		agents = []*agent{c.agentOfNode(p.node)}
	}
	for _, a := range agents {
		switch {
		case a != nil && !a.alive && p.node != "":
			sum.add(refused{reason: cutOff})
		case a == nil || !a.alive || a.node == "":
		case p.parked == a:
			sum.add(refused{reason: beingPrepared})
		case len(a.views) == 0:
			sum.add(c.idleView(now, a).check(s))
		default:
			sum.add(nearest(s, a.views))
		}
	}
	return sum
}

// nearest returns the refusal of the view that is nearest to taking a pod of the shape: one that may do so in a moment, or
// that passed the most checks.
func nearest(s *shape, views []*view) refused {
	rank := func(r refused) int {
		switch r.reason {
		case otherRole:
			return -1
		case fits, beingPrepared:
			return int(numReasons)
		}
		return int(r.reason)
	}
	near := views[0].check(s)
	for _, v := range views[1:] {
		if r := v.check(s); rank(r) > rank(near) {
			near = r
		}
	}
	return near
}
