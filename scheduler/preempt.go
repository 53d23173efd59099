package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/scheduler/match"
)

const (
	preemptFirst   = time.Second      // pause of a class's pods after the first search that found no victims
	preemptLast    = 10 * time.Second // and the longest pause after many
	deletePatience = 30 * time.Second // by then, the API shows that a preempted pod is being deleted
	soonGone       = time.Minute      // wait for terminating pods that end within this, or are overdue for less
)

// preemption is one tick's search for pods to preempt for more important ones
// (https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/). It compares agents and victims as
// kube-scheduler's plugin DefaultPreemption does. It cannot free what other frameworks hold: it counts on current offers and
// on what the tasks of less important pods would free.
type preemption struct {
	core        *Core
	done        *preempted
	now         time.Time
	answered    time.Time // everything free at this time has been offered since
	lowest      int32     // the lowest priority of any pod with a task
	occupancies map[*agent]*occupancy
	spent       int // of checksPerTick
}

// preempting preempts pods for more important ones.
type preempting struct {
	core    *Core
	done    preempted
	budgets map[types.UID]*budget
}

// podGone forgets a pod that was preempted.
func (pm *preempting) podGone(uid types.UID) { delete(pm.done.pods, uid) }

// budgetGone forgets a PodDisruptionBudget.
func (pm *preempting) budgetGone(uid types.UID) { delete(pm.budgets, uid) }

// counts returns the number of searches and of preempted pods.
func (pm *preempting) counts() (searches, victims uint64) { return pm.done.searches, pm.done.victims }

func newPreempting(c *Core) preempting {
	return preempting{
		core: c, budgets: map[types.UID]*budget{},
		done: preempted{pods: map[types.UID]time.Time{}, retries: map[match.Key]retry{}},
	}
}

// preempted is what earlier ticks did.
type preempted struct {
	searches, victims uint64
	// pods are the preempted pods. Until the given time they count as terminating even if the API does not show it yet.
	pods map[types.UID]time.Time
	// retries are the pauses after searches, by class of pods.
	retries map[match.Key]retry
}

// occupancy is an agent with the tasks that could make room there.
type occupancy struct {
	agent     *agent
	views     []*match.View // of its offers, and empty ones for roles whose offers its tasks have used up
	leaving   []*task       // about to end
	occupants []occupant    // pods of other tasks that may be preempted, the most important first
}

// occupant is a pod that has a task.
type occupant struct {
	pod      *pod
	priority int32
	since    time.Time // when it was started
}

// candidate is a set of victims to preempt on an agent so that a pod fits there. With no victims, the pod fits as soon as the
// leaving tasks have ended.
type candidate struct {
	agent      *agent
	victims    []occupant // the most important first
	violations int        // of PodDisruptionBudgets
}

// compare returns a negative number if c is better than o.
func (c candidate) compare(o candidate) int {
	if len(c.victims) == 0 || len(o.victims) == 0 {
		return cmp.Compare(len(c.victims), len(o.victims))
	}
	return cmp.Or(
		cmp.Compare(c.violations, o.violations),
		cmp.Compare(c.victims[0].priority, o.victims[0].priority),
		cmp.Compare(c.weight(), o.weight()),
		cmp.Compare(len(c.victims), len(o.victims)),
		-c.earliest().Compare(o.earliest()),
	)
}

// weight returns the sum of the victims' priorities, shifted so that more victims always weigh more.
func (c candidate) weight() int64 {
	var sum int64
	for _, victim := range c.victims {
		sum += int64(victim.priority) - math.MinInt32
	}
	return sum
}

// earliest returns the earliest start among the most important victims.
func (c candidate) earliest() time.Time {
	earliest := c.victims[0].since
	for _, victim := range c.victims {
		if victim.priority == c.victims[0].priority && victim.since.Before(earliest) {
			earliest = victim.since
		}
	}
	return earliest
}

// tick searches for pods to preempt, for the pods that still wait after everything free has been offered.
func (pm *preempting) tick(now time.Time) []Action {
	patience := min(reportPatience, pm.core.cfg.OfferTTL/2)
	w := &preemption{
		core: pm.core, done: &pm.done, now: now, answered: pm.core.offering.answeredBefore(now.Add(-patience)), occupancies: map[*agent]*occupancy{},
	}
	acts := w.checkNominees()
	if w.answered.IsZero() || now.Sub(w.answered) >= pm.core.cfg.OfferTTL {
		return acts // some of these offers have expired
	}
	classes := w.classes()
	pm.done.forget(classes)
	if len(classes) == 0 {
		return acts
	}
	w.lowest = pm.core.tasks.lowestPriority()
	w.spent = 0
	for _, s := range classes {
		switch {
		case s.Priority() <= w.lowest && s.Nominee() == nil:
			delete(pm.done.retries, s.Key())
		case !now.Before(pm.done.retries[s.Key()].again) && w.spent <= checksPerTick:
			acts = append(acts, w.preemptFor(s)...)
		}
	}
	return acts
}

// manyRetries is how many retries of classes without waiting pods are remembered at least.
const manyRetries = 256

// forget drops the retries of classes without waiting pods when there are many.
func (p *preempted) forget(classes []*match.Class) {
	if len(p.retries) <= len(classes)+manyRetries {
		return
	}
	kept := make(map[match.Key]retry, len(classes))
	for _, s := range classes {
		if r, known := p.retries[s.Key()]; known {
			kept[s.Key()] = r
		}
	}
	p.retries = kept
}

// retry is when the pods of a class may look for pods to preempt again.
type retry struct {
	vain  bool      // the last search found no victims on any agent
	again time.Time // when to search again
	pause time.Duration
}

// later returns the retry after a search that found no victims. sure says that the search could check all agents.
func (h retry) later(now time.Time, sure bool) retry {
	h.vain, h.pause = sure, min(max(2*h.pause, preemptFirst), preemptLast)
	h.again = now.Add(h.pause)
	return h
}

// checkNominees checks which nominated pods can still expect their places, and withdraws the others' nominations. It does not
// check each in every tick.
func (w *preemption) checkNominees() []Action {
	var acts []Action
	for _, p := range w.core.preemption.nominees() {
		a := w.core.agents.ofNode(p.Nominated())
		switch {
		case a == nil || !a.Alive && a.since.After(w.core.session.subscribed()):
			acts = append(acts, w.core.preemption.withdraw(w.now, p, fmt.Sprintf("node %s is gone", p.Nominated())))
		case p.Asks.Wrong():
			acts = append(acts, w.core.preemption.withdraw(w.now, p, p.Asks.Problem()))
		case p.Reserved() != nil:
			p.lastProspect = w.now
		case p.Class() != nil && w.now.Sub(p.lastProspect) >= nominationPatience/2:
			if _, coming := w.candidate(p.Class(), a, false); coming {
				p.lastProspect = w.now
			} else if neverPreempts(p) && w.lost(p) && w.known(a) {
				acts = append(acts, w.core.preemption.withdraw(w.now, p, "others have taken its place"))
			}
		}
	}
	return acts
}

// nominees returns the nominated pods, in the queue's order.
func (pm *preempting) nominees() []*pod {
	var pods []*pod
	for p := range pm.core.index.Nominees() {
		pods = append(pods, pm.core.pods.of(p))
	}
	slices.SortFunc(pods, before)
	return pods
}

// withdraw takes a nomination back.
func (pm *preempting) withdraw(now time.Time, p *pod, why string) Action {
	message := fmt.Sprintf("it is no longer nominated for node %s: %s", p.Nominated(), why)
	pm.core.pods.nominate(now, p, "")
	if p.Class() != nil { // else it keeps what it has reserved elsewhere
		pm.core.pods.requeue(now, p)
	}
	return Nominate{Pod: p.Obj, Message: message}
}

// classes returns the classes with pods that may preempt others now, in the queue's order.
func (w *preemption) classes() []*match.Class {
	var classes []*match.Class
	for s := range w.core.index.Classes() {
		if s.Head() != nil && s.Node() == "" && !s.Asks().Wrong() && len(w.preemptors(s)) > 0 {
			classes = append(classes, s)
		}
	}
	slices.SortFunc(classes, func(a, b *match.Class) int { return match.Before(a.Head(), b.Head()) })
	return classes
}

// preemptors returns the pods of a class that may preempt others. Pods that are new since the last offers, that are nominated,
// or that wait for MaxInstalls only, have to wait.
func (w *preemption) preemptors(s *match.Class) []*pod {
	if w.core.index.Installs.Delays(s) {
		return nil
	}
	var pods []*pod
	for waiting := range s.Pods() {
		if p := w.core.pods.of(waiting); w.mayPreempt(p) {
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, before)
	return pods
}

// mayPreempt reports whether the pod may preempt others now.
func (w *preemption) mayPreempt(p *pod) bool {
	switch {
	case neverPreempts(p):
		return false
	case p.Nominated() != "":
		return w.lost(p)
	}
	return !w.answered.Before(p.since) && (w.core.agents.haveNodes() || w.now.Sub(p.since) >= prepareTimeout)
}

// neverPreempts reports whether the pod's preemptionPolicy is Never.
func neverPreempts(p *pod) bool {
	policy := p.Obj.Spec.PreemptionPolicy
	return policy != nil && *policy == v1.PreemptNever
}

// lost reports whether a nominated pod has had no prospect of its place for too long.
func (w *preemption) lost(p *pod) bool {
	lastProspect := p.lastProspect
	if w.core.session.subscribed().After(lastProspect) {
		lastProspect = w.core.session.subscribed()
	}
	return w.now.Sub(lastProspect) >= nominationPatience
}

// lowestPriority returns the priority of the least important pod that has a task.
func (ts *tasks) lowestPriority() int32 {
	lowest := int32(math.MaxInt32)
	for _, t := range ts.byID {
		if p := ts.core.pods.get(t.pod); p != nil {
			lowest = min(lowest, match.Priority(p.Obj))
		}
	}
	return lowest
}

// preemptFor nominates nodes for the pods of a class and preempts others there. All agents are checked once for all pods; after
// each nomination only its agent is checked again.
func (w *preemption) preemptFor(s *match.Class) []Action {
	pods, retries := w.preemptors(s), w.done.retries
	w.done.searches++
	found, sure := w.candidates(s)
	if len(found) == 0 {
		retries[s.Key()] = retries[s.Key()].later(w.now, sure)
		if s.Nominee() != nil && sure {
			return []Action{w.core.preemption.withdraw(w.now, w.core.pods.of(s.Nominee()), "others have taken its place")}
		}
		return nil
	}
	delete(retries, s.Key())
	var acts []Action
	for i, p := range pods {
		if len(found) == 0 || i > 0 && w.spent > checksPerTick {
			break
		}
		w.spent += len(found)
		best := slices.MinFunc(found, candidate.compare)
		acts = append(acts, w.carryOut(best, p)...)
		delete(w.occupancies, best.agent)
		found = slices.DeleteFunc(found, func(other candidate) bool { return other.agent == best.agent })
		if again, ok := w.candidate(s, best.agent, true); ok {
			found = append(found, again)
		}
	}
	return acts
}

// known reports whether everything free on the agent has been offered.
func (w *preemption) known(a *agent) bool { return !a.returning.After(w.answered) }

// candidates returns the best candidate of each agent that has any, in order of the agents' arrival. sure is false if some agent
// is about to offer freed resources, so that it was not checked.
func (w *preemption) candidates(s *match.Class) (found []candidate, sure bool) {
	sure = true
	agents := w.core.index.Agents()
	if only := s.Only(); only != nil {
		agents = func(yield func(*match.Agent) bool) {
			for _, name := range only {
				if a := w.core.index.AgentOfNode(name); a != nil && !yield(a) {
					return
				}
			}
		}
	}
	for seen := range agents {
		a := w.core.agents.of(seen)
		if !a.Alive || a.Node == "" || w.core.disruptions.drains(a) {
			continue
		}
		if !w.known(a) {
			sure = false
			continue
		}
		if p, ok := w.candidate(s, a, true); ok {
			found = append(found, p)
		}
	}
	return found, sure
}

// occupancy returns the agent's occupancy, from the cache of this tick if it is there.
func (w *preemption) occupancy(a *agent) *occupancy {
	if r := w.occupancies[a]; r != nil {
		return r
	}
	r := &occupancy{agent: a, views: slices.Clip(a.Views())}
	for _, t := range w.core.tasks.on(a.ID) {
		w.spent++
		if t.warm {
			continue
		}
		w.addViews(r, t)
		p := w.core.pods.get(t.pod)
		switch {
		case w.leaving(t, p):
			r.leaving = append(r.leaving, t)
		case t.heard && p.Obj.DeletionTimestamp == nil:
			since := t.since
			if started := p.Obj.Status.StartTime; started != nil {
				since = started.Time
			}
			r.occupants = append(r.occupants, occupant{p, match.Priority(p.Obj), since})
		}
	}
	slices.SortStableFunc(r.occupants, compareOccupants)
	w.occupancies[a] = r
	return r
}

// addViews adds empty views for the roles whose offers may bring back the task's resources.
func (w *preemption) addViews(r *occupancy, t *task) {
	roles := w.core.cfg.Roles
	if t.role != "" {
		roles = []string{t.role}
	}
	for _, role := range roles {
		if !slices.ContainsFunc(r.views, func(v *match.View) bool { return v.Role == role }) {
			r.views = append(r.views, w.core.index.Empty(&r.agent.Agent, role))
		}
	}
}

// compareOccupants orders occupants by priority, the highest first, then by start.
func compareOccupants(a, b occupant) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), a.since.Compare(b.since))
}

// leaving reports whether a task is about to end, because its pod has ended or is terminating.
func (w *preemption) leaving(t *task, p *pod) bool {
	switch {
	case p == nil || t.killed || finished(p.Obj):
		return true
	case p.Obj.DeletionTimestamp == nil:
		return w.now.Before(w.done.pods[p.Obj.UID])
	}
	left := p.Obj.DeletionTimestamp.Sub(w.now)
	return left >= -soonGone && (left <= soonGone || isPreempted(p.Obj))
}

// isPreempted reports whether a pod was preempted, by this scheduler or an earlier one.
func isPreempted(obj *v1.Pod) bool {
	return slices.ContainsFunc(obj.Status.Conditions, func(condition v1.PodCondition) bool {
		return condition.Type == v1.DisruptionTarget && condition.Reason == v1.PodReasonPreemptionByScheduler
	})
}

// candidate returns the best victims on an agent for a pod of the class; ok is false if the pod cannot fit. Without mayPreempt
// it has no victims: ok says whether the pod will fit when the leaving tasks have ended.
func (w *preemption) candidate(s *match.Class, a *agent, mayPreempt bool) (best candidate, ok bool) {
	r := w.occupancy(a)
	w.spent++
	var victims []occupant
	if mayPreempt {
		i, _ := slices.BinarySearchFunc(r.occupants, s.Priority(), func(t occupant, p int32) int {
			if t.priority < p {
				return 1
			}
			return -1
		})
		victims = r.occupants[i:]
	}
	if len(victims) == 0 && len(r.leaving) == 0 {
		return candidate{}, false
	}
	w.spent += len(r.views) * (len(victims) + len(r.leaving))
	for _, v := range r.views {
		here := victims
		if len(r.views) > 1 {
			here = slices.DeleteFunc(slices.Clone(victims), func(t occupant) bool { return !t.pod.task.frees(v) })
		}
		if trial := w.without(s, v, r, here); trial != nil {
			p := candidate{agent: a}
			p.victims, p.violations = w.reprieve(s, trial, here)
			if !ok || p.compare(best) < 0 {
				best, ok = p, true
			}
		}
	}
	return best, ok
}

// without returns the view as it will be when the leaving tasks and the victims have ended; nil if the class does not fit
// there even then.
func (w *preemption) without(s *match.Class, v *match.View, r *occupancy, victims []occupant) *match.View {
	var freed match.Usage
	var gone []*match.Pod
	for _, t := range r.leaving {
		if t.frees(v) {
			freed.Add(w.core.tasks.usage(t))
		}
		if p := w.core.pods.get(t.pod); p != nil {
			gone = append(gone, &p.Pod)
		}
	}
	for _, victim := range victims {
		freed.Add(w.core.tasks.usage(victim.pod.task))
		gone = append(gone, &victim.pod.Pod)
	}
	return v.Trial(s, &freed, gone)
}

// usage returns what the task uses.
func (ts *tasks) usage(t *task) match.Usage {
	if p := ts.core.pods.get(t.pod); p != nil {
		return match.UsageOf(&p.Pod, t.demand, t.mapped)
	}
	return match.UsageOf(nil, t.demand, t.mapped)
}

// frees reports whether the task's resources may come back in offers of the view's role. For a task of an earlier scheduler the
// role is unknown, so any may.
func (t *task) frees(v *match.View) bool { return t.role == "" || t.role == v.Role }

// reprieve puts as many occupants as possible back into a view from which all were removed: first those whose preemption would
// violate a PodDisruptionBudget, then the most important ones. It returns the rest, the victims.
func (w *preemption) reprieve(s *match.Class, trial *match.View, occupants []occupant) (victims []occupant, violations int) {
	violates := w.core.preemption.violations(occupants)
	taken := trial.Nominated(s)
	for _, violating := range [...]bool{true, false} {
		for i, t := range occupants {
			if violates[i] != violating {
				continue
			}
			if with := taken.And(w.core.tasks.usage(t.pod.task)); trial.HasBeside(s, &with) {
				taken = with
				continue
			}
			victims = append(victims, t)
			if violating {
				violations++
			}
		}
	}
	slices.SortStableFunc(victims, compareOccupants)
	return victims, violations
}

// carryOut nominates the pod for the node and preempts the victims.
func (w *preemption) carryOut(best candidate, p *pod) []Action {
	c, node := w.core, best.agent.Node
	does := fmt.Sprintf("preempts %d pods of lower priority", len(best.victims))
	switch len(best.victims) {
	case 0:
		does = "waits for pods that are about to end"
	case 1:
		does = "preempts a pod of lower priority"
	}
	message := fmt.Sprintf("no node is available now: it %s on node %s", does, node)
	acts := []Action{Nominate{Pod: p.Obj, Node: node, Message: message}}
	for _, victim := range best.victims {
		acts = append(acts, Preempt{Victim: victim.pod.Obj, By: p.Obj, Node: node})
		w.done.pods[victim.pod.Obj.UID] = w.now.Add(deletePatience)
		c.preemption.spend(victim.pod.Obj)
	}
	w.done.victims += uint64(len(best.victims))
	p.report.due(w.now, message)
	c.pods.nominate(w.now, p, node)
	c.pods.requeue(w.now, p)
	return acts
}

// outlook returns what preemption may do for a pod, for its report.
func (pm *preempting) outlook(p *pod) string {
	switch {
	case p.Nominated() != "":
		return fmt.Sprintf("; preemption: node %s is nominated for it and about to be freed", p.Nominated())
	case p.Class() != nil && pm.done.retries[p.Class().Key()].vain:
		return "; preemption: no preemption victims found for incoming pod"
	}
	return ""
}
