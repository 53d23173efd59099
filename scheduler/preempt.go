package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

const (
	preemptFirst   = time.Second      // after a look in vain, equal pods do not look again before
	preemptLast    = 10 * time.Second // nor, after many of them, before
	deletePatience = 30 * time.Second // a pod that we preempt is seen being deleted within this
	soonGone       = time.Minute      // a pod that ends within this is waited for, not one that is so long overdue
)

// preemption is the search, in one tick, for pods that have to go so that more important ones can be placed
// (https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/). It weighs agents and tenants as
// kube-scheduler's plugin DefaultPreemption does. What others than we hold on an agent is not ours to free: there is
// what is offered now, and what the tasks of less important pods would leave.
type preemption struct {
	core     *Core
	now      time.Time
	answered time.Time // what agents had to offer at this time has been offered
	lowest   int32     // the priority of the least important tenant of all
	rooms    map[*agent]*room
	spent    int // of looksPerTick
}

// preempted is what was done so far.
type preempted struct {
	looks, victims uint64
	// pods are those that were preempted. Until this time, they are taken to be on their way out even if they are not yet
	// seen being deleted.
	pods map[types.UID]time.Time
}

// room is an agent with what its tasks hold.
type room struct {
	agent   *agent
	views   []*view  // it has, and empty ones of the roles whose offers its tasks have used up
	leaving []*task  // that are about to end
	tenants []tenant // the others whose pods might be preempted, the most important first
}

// tenant is a pod that has a task.
type tenant struct {
	pod      *pod
	priority int32
	since    time.Time // when it was started
}

// clearing is whom to preempt on an agent so that a pod fits there. Without a victim, it fits when what is about to end has
// ended.
type clearing struct {
	agent      *agent
	victims    []tenant // the most important first
	violations int      // of PodDisruptionBudgets
}

// compare is below 0 if p is better.
func (p clearing) compare(o clearing) int {
	if len(p.victims) == 0 || len(o.victims) == 0 {
		return cmp.Compare(len(p.victims), len(o.victims))
	}
	return cmp.Or(
		cmp.Compare(p.violations, o.violations),
		cmp.Compare(p.victims[0].priority, o.victims[0].priority),
		cmp.Compare(p.weight(), o.weight()),
		cmp.Compare(len(p.victims), len(o.victims)),
		-p.earliest().Compare(o.earliest()),
	)
}

// weight sums up the priorities so that one more victim always weighs more, even if its priority is negative.
func (p clearing) weight() int64 {
	var sum int64
	for _, victim := range p.victims {
		sum += int64(victim.priority) - math.MinInt32
	}
	return sum
}

// earliest is when the oldest of the most important victims was started.
func (p clearing) earliest() time.Time {
	earliest := p.victims[0].since
	for _, victim := range p.victims {
		if victim.priority == p.victims[0].priority && victim.since.Before(earliest) {
			earliest = victim.since
		}
	}
	return earliest
}

// preempt finds places for pods that wait although all that their agents have to offer has been offered.
func (c *Core) preempt(now time.Time) []Action {
	patience := min(reportPatience, c.cfg.OfferTTL/2)
	w := &preemption{
		core: c, now: now, answered: c.revival.answeredBefore(now.Add(-patience)), rooms: map[*agent]*room{},
	}
	acts := w.lookAfterNominees()
	if w.answered.IsZero() || now.Sub(w.answered) >= c.cfg.OfferTTL {
		return acts // of what came then, some has been given back
	}
	shapes := w.shapes()
	if len(shapes) == 0 {
		return acts
	}
	w.lowest = c.lowestPriority()
	w.spent = 0
	for _, s := range shapes {
		switch {
		case s.key.priority <= w.lowest && s.nominee == nil:
			s.hope = hope{}
		case !now.Before(s.hope.again) && w.spent <= looksPerTick:
			acts = append(acts, w.serve(s)...)
		}
	}
	return acts
}

// hope is what the pods of a shape may expect of preemption.
type hope struct {
	lost  bool      // the last look was in vain
	again time.Time // when to look again
	pause time.Duration
}

// vain notes a look in vain, and spaces out the next ones. It was a sure one if it was known what all agents have.
func (h *hope) vain(now time.Time, sure bool) {
	h.lost, h.pause = sure, min(max(2*h.pause, preemptFirst), preemptLast)
	h.again = now.Add(h.pause)
}

// lookAfterNominees finds out who is still about to get the place that was promised. Not everybody's is looked at in
// every tick.
func (w *preemption) lookAfterNominees() []Action {
	var acts []Action
	for _, p := range w.core.nomineesInOrder() {
		a := w.core.agentOfNode(p.nominated())
		switch {
		case a == nil || !a.alive && a.since.After(w.core.subscribed):
			acts = append(acts, w.core.denominate(w.now, p, fmt.Sprintf("node %s is gone", p.nominated())))
		case p.wish.wrong():
			acts = append(acts, w.core.denominate(w.now, p, p.wish.problem))
		case p.parked != nil:
			p.promise.hoped = w.now
		case p.shape != nil && w.now.Sub(p.promise.hoped) >= nominationPatience/2:
			if _, coming := w.clearing(p.shape, a, false); coming {
				p.promise.hoped = w.now
			} else if neverPreempts(p) && w.lost(p) && w.known(a) {
				acts = append(acts, w.core.denominate(w.now, p, "others have taken it"))
			}
		}
	}
	return acts
}

func (c *Core) nomineesInOrder() []*pod {
	var pods []*pod
	for _, nominees := range c.nominees {
		pods = append(pods, nominees...)
	}
	slices.SortFunc(pods, beforeInQueue)
	return pods
}

// denominate takes a promise back.
func (c *Core) denominate(now time.Time, p *pod, why string) Action {
	message := fmt.Sprintf("its place on node %s is kept no more: %s", p.nominated(), why)
	c.nominate(now, p, "")
	if p.shape != nil { // what it has reserved elsewhere, it keeps
		c.requeue(now, p)
	}
	return Nominate{Pod: p.obj, Message: message}
}

// shapes returns the shapes of which a pod may look for a place now, by whose turn it is.
func (w *preemption) shapes() []*shape {
	var shapes []*shape
	for _, s := range w.core.queue.shapes {
		if s.head() != nil && s.key.node == "" && !s.wish.wrong() && slices.ContainsFunc(s.pods, func(p *pod) bool { return w.mayLook(s, p) }) {
			shapes = append(shapes, s)
		}
	}
	slices.SortFunc(shapes, func(a, b *shape) int { return beforeInQueue(a.pods[0], b.pods[0]) })
	return shapes
}

// mayLook tells whether a pod may preempt others: if it has not had all offers yet, or a place is promised to it, it
// waits for these. So it does if an agent has room that waits for others to fetch km.
func (w *preemption) mayLook(s *shape, p *pod) bool {
	if p.shape != s || neverPreempts(p) || s.crowded == w.core.installs.ended && w.core.installs.turnedAway {
		return false
	}
	if p.promise != nil {
		return w.lost(p)
	}
	return !w.answered.Before(p.since) && (w.core.fleet.nodeless == 0 || w.now.Sub(p.since) >= preparePatience)
}

func neverPreempts(p *pod) bool {
	policy := p.obj.Spec.PreemptionPolicy
	return policy != nil && *policy == v1.PreemptNever
}

// lost tells whether the place that was promised to a pod has not been seen coming for long.
func (w *preemption) lost(p *pod) bool {
	hoped := p.promise.hoped
	if w.core.subscribed.After(hoped) {
		hoped = w.core.subscribed
	}
	return w.now.Sub(hoped) >= nominationPatience
}

// lowestPriority returns the priority of the least important pod that has a task.
func (c *Core) lowestPriority() int32 {
	lowest := int32(math.MaxInt32)
	for _, t := range c.tasks {
		if p := c.pods[t.pod]; p != nil {
			lowest = min(lowest, priority(p.obj))
		}
	}
	return lowest
}

// serve finds places for the pods of a shape. They share the look at all agents: after each, only the agent that it was
// given is looked at again.
func (w *preemption) serve(s *shape) []Action {
	var pods []*pod
	for _, p := range s.pods {
		if w.mayLook(s, p) {
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, beforeInQueue)
	w.core.preempted.looks++
	plans, sure := w.clearings(s)
	if len(plans) == 0 {
		s.hope.vain(w.now, sure)
		if s.nominee != nil && sure {
			return []Action{w.core.denominate(w.now, s.nominee, "others have taken it")}
		}
		return nil
	}
	s.hope = hope{}
	var acts []Action
	for i, p := range pods {
		if len(plans) == 0 || i > 0 && w.spent > looksPerTick {
			break
		}
		w.spent += len(plans)
		best := slices.MinFunc(plans, clearing.compare)
		acts = append(acts, w.carryOut(best, p)...)
		delete(w.rooms, best.agent)
		plans = slices.DeleteFunc(plans, func(other clearing) bool { return other.agent == best.agent })
		if again, ok := w.clearing(s, best.agent, true); ok {
			plans = append(plans, again)
		}
	}
	return acts
}

// known tells whether all that the agent has to offer has been offered.
func (w *preemption) known(a *agent) bool { return !a.returning.After(w.answered) }

// clearings returns the best one for each agent on which there is one, in order of the agents' coming. It is not sure that
// these are all if resources are about to be offered that nobody has now.
func (w *preemption) clearings(s *shape) (found []clearing, sure bool) {
	sure = true
	agents := w.core.fleet.agents
	if s.only != nil {
		agents = nil
		for _, name := range s.only {
			agents = append(agents, w.core.agentOfNode(name))
		}
	}
	for _, a := range agents {
		if a == nil || !a.alive || a.node == "" || w.core.drains(a) {
			continue
		}
		if !w.known(a) {
			sure = false
			continue
		}
		if p, ok := w.clearing(s, a, true); ok {
			found = append(found, p)
		}
	}
	return found, sure
}

// room returns what the tasks on an agent hold.
func (w *preemption) room(a *agent) *room {
	if r := w.rooms[a]; r != nil {
		return r
	}
	r := &room{agent: a, views: slices.Clip(a.views)}
	for _, t := range w.core.owners[a.id] {
		w.spent++
		if t.warm {
			continue
		}
		w.addViews(r, t)
		p := w.core.pods[t.pod]
		switch {
		case w.leaving(t, p):
			r.leaving = append(r.leaving, t)
		case t.heard && p.obj.DeletionTimestamp == nil:
			since := t.since
			if started := p.obj.Status.StartTime; started != nil {
				since = started.Time
			}
			r.tenants = append(r.tenants, tenant{p, priority(p.obj), since})
		}
	}
	slices.SortStableFunc(r.tenants, compareTenants)
	w.rooms[a] = r
	return r
}

// addViews adds views of the roles in whose offers the resources of a task may come back.
func (w *preemption) addViews(r *room, t *task) {
	roles := w.core.cfg.Roles
	if t.role != "" {
		roles = []string{t.role}
	}
	for _, role := range roles {
		if !slices.ContainsFunc(r.views, func(v *view) bool { return v.role == role }) {
			v := &view{}
			w.core.open(w.now, v, r.agent, role)
			r.views = append(r.views, v)
		}
	}
}

func compareTenants(a, b tenant) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), a.since.Compare(b.since))
}

// leaving tells whether a task is about to end: its pod has ended or is being ended.
func (w *preemption) leaving(t *task, p *pod) bool {
	switch {
	case p == nil || t.killed || finished(p.obj):
		return true
	case p.obj.DeletionTimestamp == nil:
		return w.now.Before(w.core.preempted.pods[p.obj.UID])
	}
	left := p.obj.DeletionTimestamp.Sub(w.now)
	return left >= -soonGone && (left <= soonGone || isPreempted(p.obj))
}

// isPreempted tells whether a pod was preempted, by this scheduler or an earlier one.
func isPreempted(obj *v1.Pod) bool {
	return slices.ContainsFunc(obj.Status.Conditions, func(condition v1.PodCondition) bool {
		return condition.Type == v1.DisruptionTarget && condition.Reason == v1.PodReasonPreemptionByScheduler
	})
}

// clearing finds out whom to preempt on an agent for a pod of the shape; ok is false if there is no way. Without mayPreempt
// it only tells whether the pod will fit when what is about to end has ended.
func (w *preemption) clearing(s *shape, a *agent, mayPreempt bool) (best clearing, ok bool) {
	r := w.room(a)
	w.spent++
	var victims []tenant
	if mayPreempt {
		i, _ := slices.BinarySearchFunc(r.tenants, s.key.priority, func(t tenant, p int32) int {
			if t.priority < p {
				return 1
			}
			return -1
		})
		victims = r.tenants[i:]
	}
	if len(victims) == 0 && len(r.leaving) == 0 {
		return clearing{}, false
	}
	w.spent += len(r.views) * (len(victims) + len(r.leaving))
	for _, v := range r.views {
		here := victims
		if len(r.views) > 1 {
			here = slices.DeleteFunc(slices.Clone(victims), func(t tenant) bool { return !t.pod.task.frees(v) })
		}
		if trial := w.without(s, v, r, here); trial != nil {
			p := clearing{agent: a}
			p.victims, p.violations = w.reprieve(s, trial, here)
			if !ok || p.compare(best) < 0 {
				best, ok = p, true
			}
		}
	}
	return best, ok
}

// without returns the view as it will be when what is about to end and the victims have ended; nil if the shape does
// not fit there even then.
func (w *preemption) without(s *shape, v *view, r *room, victims []tenant) *view {
	var freed holding
	var gone []*pod
	for _, t := range r.leaving {
		if t.frees(v) {
			freed.add(w.core.heldBy(t))
		}
		if p := w.core.pods[t.pod]; p != nil {
			gone = append(gone, p)
		}
	}
	for _, victim := range victims {
		freed.add(w.core.heldBy(victim.pod.task))
		gone = append(gone, victim.pod)
	}
	for i, want := range s.demand.Scalars {
		if want > v.have[i]+freed.Scalars[i] {
			return nil // this is cheap to know, and the most frequent reason
		}
	}
	if !v.checkNode(s).ok() {
		return nil
	}
	trial := new(view)
	*trial = *v
	trial.offers = append(slices.Clip(v.offers), api.OfferID("what will have been freed"))
	trial.free = append(slices.Clone(v.free), freed.resources(v.role)...)
	trial.place = v.place.without(gone)
	w.core.seeExecutor(w.now, trial)
	if result := trial.check(s); !result.ok() && !result.reserve {
		return nil
	}
	return trial
}

// reprieve lets as many tenants as possible stay in a view that they are all taken out of: those first whose end would
// violate a budget, then the most important ones. It returns the others.
func (w *preemption) reprieve(s *shape, trial *view, tenants []tenant) (victims []tenant, violations int) {
	violates := w.core.violations(tenants)
	taken := trial.promised(s)
	for _, violating := range [...]bool{true, false} {
		for i, t := range tenants {
			if violates[i] != violating {
				continue
			}
			if with := taken.and(w.core.heldBy(t.pod.task)); trial.hasBeside(s, &with) {
				taken = with
				continue
			}
			victims = append(victims, t)
			if violating {
				violations++
			}
		}
	}
	slices.SortStableFunc(victims, compareTenants)
	return victims, violations
}

// carryOut promises the pod the place and preempts the victims.
func (w *preemption) carryOut(best clearing, p *pod) []Action {
	c, node := w.core, best.agent.node
	does := fmt.Sprintf("preempts %d pods of lower priority", len(best.victims))
	switch len(best.victims) {
	case 0:
		does = "waits for pods that are about to end"
	case 1:
		does = "preempts a pod of lower priority"
	}
	message := fmt.Sprintf("no agent can run it now; it %s on node %s", does, node)
	acts := []Action{Nominate{Pod: p.obj, Node: node, Message: message}}
	for _, victim := range best.victims {
		acts = append(acts, Preempt{Victim: victim.pod.obj, By: p.obj, Node: node})
		c.preempted.pods[victim.pod.obj.UID] = w.now.Add(deletePatience)
		c.spend(victim.pod.obj)
	}
	c.preempted.victims += uint64(len(best.victims))
	p.report.due(w.now, message)
	c.nominate(w.now, p, node)
	c.requeue(w.now, p)
	return acts
}

// outlook is what preemption may do for a pod, for its report.
func outlook(p *pod) string {
	switch {
	case p.nominated() != "":
		return fmt.Sprintf(", node %s is promised to it and about to be freed", p.nominated())
	case p.shape != nil && p.shape.hope.lost:
		return ", preempting pods of lower priority would not help"
	}
	return ""
}
