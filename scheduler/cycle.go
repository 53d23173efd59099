package scheduler

import (
	"strings"
	"time"

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
	change  time.Time     // nor another one told before
	pause   time.Duration // between changed messages
}

// due tells whether to tell the message now, and remembers that it was told.
func (r *report) due(now time.Time, message string) bool {
	if message == r.message && now.Before(r.again) || message != r.message && now.Before(r.change) {
		return false
	}
	r.pause = min(max(2*r.pause, reportFirst), reportLast)
	r.message, r.again, r.change = message, now.Add(reportLast), now.Add(r.pause)
	return true
}

// revival decides when to REVIVE. The order of DECLINE and REVIVE is not guaranteed by Mesos, so while pods wait it is
// repeated, ever more seldom.
type revival struct {
	last  time.Time
	next  time.Time
	pause time.Duration
}

const (
	reviveFirst = time.Second
	reviveLast  = 30 * time.Second
)

// soon ends the pause: there is something new to wait for.
func (r *revival) soon() { r.pause, r.next = 0, r.last.Add(reviveFirst) }

func (r *revival) due(now time.Time) bool {
	if now.Before(r.next) {
		return false
	}
	r.pause = min(max(2*r.pause, reviveFirst), reviveLast)
	r.last, r.next = now, now.Add(r.pause)
	return true
}

// cycle places as many waiting pods as fit, first come first served, and tells why the others wait.
func (c *Core) cycle(now time.Time) []Action {
	waiting := c.waiting()
	if len(waiting) == 0 {
		return nil
	}
	views := c.views(now)
	var reports []Action
	waits := false
	for _, p := range waiting {
		if now.Before(p.backoff.until) {
			continue
		}
		refusals := summary{}
		if c.place(now, p, views, &refusals) {
			continue
		}
		waits = waits || refusals.preparing == 0 || now.Sub(p.since) >= reportPatience
		if r := c.explain(now, p, &refusals); r != nil {
			reports = append(reports, r)
		}
	}
	acts := append(c.launch(now, views), reports...)
	if waits && c.revival.due(now) {
		acts = append(acts, Revive{})
	}
	return acts
}

// views returns each agent's live offers, one view for each role: Mesos refuses a task whose resources are of two. An
// agent without offers is seen with all it has, to tell what does not fit now from what never will.
func (c *Core) views(now time.Time) []*view {
	var views []*view
	for _, a := range c.agentsInOrder() {
		if !a.alive || a.node == "" {
			continue
		}
		byRole := map[string]*view{}
		for _, o := range c.offers.OfAgent(a.id) {
			v := byRole[o.Role]
			if v == nil {
				v = &view{agent: a, node: c.nodes[a.node], role: o.Role}
				byRole[o.Role] = v
				views = append(views, v)
			}
			v.offers = append(v.offers, o.ID)
			v.free = append(v.free, o.Resources...)
		}
		if len(byRole) == 0 {
			views = append(views, &view{agent: a, node: c.nodes[a.node], free: a.total.resources()})
		}
	}
	for _, v := range views {
		if v.node != nil && v.node.Spec.ProviderID != api.ProviderID(v.agent.id) {
			v.node = nil // it still stands for the agent that was here before
		}
		c.seeExecutor(now, v)
	}
	return views
}

// seeExecutor finds out which executor the view's agent has and what a new one would take. A record whose token may
// run out, or whose resources are of another role than the offer's, has to be prepared again.
func (c *Core) seeExecutor(now time.Time, v *view) {
	a := v.agent
	for _, id := range a.last.Executors {
		if id != api.MinionExecutorID && strings.HasPrefix(string(id), executorFamily) {
			v.stranger = id
		}
	}
	v.hopeless = now.Before(a.executor.after)
	if a.hasExecutor {
		return
	}
	e := &a.executor
	v.charge = c.charge(v.free)
	v.executor = v.charge
	if len(v.offers) == 0 || e.record == nil {
		return
	}
	if now.Sub(e.armed) >= tokenFresh || e.charge[0].Role != v.role {
		e.record = nil
		return
	}
	v.charge = e.charge
}

// executorFamily begins the ids of the executors of all versions.
var executorFamily = strings.TrimSuffix(string(api.MinionExecutorID), api.ExecutorVersion)

// charge takes the executor's part out of resources; it is never empty, and short if there is too little.
func (c *Core) charge(free offers.Resources) offers.Resources {
	var charge offers.Resources
	for i, amount := range c.cfg.executor().Scalars {
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

func (c *Core) place(now time.Time, p *pod, views []*view, refusals *summary) bool {
	for _, v := range views {
		r := v.check(p)
		if r.reserve {
			refusals.add(r)
			v.take(p)
			return false
		}
		if !r.ok() {
			refusals.add(r)
			continue
		}
		p.attempt++
		t := c.newTask(now, p, v.agent.id)
		t.offer = v.offers[0]
		v.tasks = append(v.tasks, NewTask{ID: t.id, Pod: p.obj, Resources: v.take(p)})
		return true
	}
	return false
}

// launch accepts the offers of the agents that got tasks, and prepares the executors that pods wait for.
func (c *Core) launch(now time.Time, views []*view) []Action {
	var acts []Action
	for _, v := range views {
		e := &v.agent.executor
		if v.wanted && !e.preparing {
			e.preparing = true
			acts = append(acts, PrepareExecutor{
				Framework: c.framework, Agent: v.agent.id, Node: v.agent.node, Resources: v.executor,
				MayReplace: !v.agent.hasExecutor && !c.hasTasks(v.agent.id),
			})
		}
		if len(v.tasks) == 0 {
			continue
		}
		if err := c.offers.Claim(now, v.offers...); err != nil {
			acts = append(acts, c.unlaunch(now, v, err))
			continue
		}
		acts = append(acts, Launch{Agent: v.agent.id, Offers: v.offers, Executor: e.record, Tasks: v.tasks})
	}
	return acts
}

// unlaunch takes back what was placed in offers that turn out to have ended.
func (c *Core) unlaunch(now time.Time, v *view, err error) Action {
	for _, t := range v.tasks {
		c.end(now, c.tasks[t.ID], false)
	}
	return Complain{Text: "offers of agent " + string(v.agent.id) + " were used too late: " + err.Error()}
}

func (c *Core) hasTasks(id api.AgentID) bool {
	for _, t := range c.tasks {
		if t.agent == id {
			return true
		}
	}
	return false
}

// explain returns a Report when there is something to tell: not while a refusal may be gone in a moment, and not
// before the offers that were called for can have come.
func (c *Core) explain(now time.Time, p *pod, refusals *summary) Action {
	waited := now.Sub(p.since)
	if waited < reportPatience || refusals.preparing > 0 && waited < preparePatience {
		return nil
	}
	message := refusals.message(p.demand)
	if !p.report.due(now, message) {
		return nil
	}
	return Report{Pod: p.obj, Message: message}
}
