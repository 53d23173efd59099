package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

// offering holds the offers, and decides when to REVIVE.
type offering struct {
	core     *Core
	held     *offers.OfferStorage
	revival  revival
	gather   gathering
	resumeAt time.Time // when to relaunch the pods of executors that have ended; zero for none
}

func newOffering(c *Core) offering {
	return offering{core: c, held: offers.New(c.cfg.OfferTTL, tombstoneMemory)}
}

// add holds a new offer; false if it was already rescinded.
func (of *offering) add(now time.Time, o offers.Offer) bool {
	of.core.agents.changed(o.Agent)
	return of.held.Add(now, o)
}

// decline ends an offer that the caller will decline as the details say; false if it has already ended.
func (of *offering) decline(now time.Time, id api.OfferID, d offers.Detail) bool {
	of.core.agents.changed(of.held.Holder(id))
	return of.held.Decline(now, id, d)
}

// claim ends offers in which the caller will launch the tasks; the error names one that has already ended.
func (of *offering) claim(now time.Time, agent api.AgentID, ids []api.OfferID, tasks []NewTask) error {
	of.core.agents.changed(agent)
	d := offers.Detail{Tasks: len(tasks), Pods: make([]api.PodKey, 0, min(len(tasks), offers.MaxPods))}
	for _, t := range tasks {
		if t.Pod != nil && len(d.Pods) < offers.MaxPods {
			d.Pods = append(d.Pods, refOf(t.Pod).Key)
		}
	}
	return of.held.Claim(now, d, ids...)
}

// noteRefusal notes that Mesos did not launch a task, so that its offer was used up in vain.
func (of *offering) noteRefusal(t *task, s TaskStatus) {
	if s.State == Errored && !s.ByExecutor || s.Reason == "REASON_INVALID_OFFERS" {
		of.held.Refuse(t.offer, s.String())
	}
}

// rescind ends an offer that Mesos took back.
func (of *offering) rescind(now time.Time, id api.OfferID) {
	of.core.agents.changed(of.held.Holder(id))
	of.held.Rescind(now, id)
}

// drop ends the offers of an agent that is absent.
func (of *offering) drop(now time.Time, id api.AgentID) {
	of.core.agents.changed(id)
	of.held.DropAgent(now, id)
}

// disconnect ends all offers, as Mesos does.
func (of *offering) disconnect(now time.Time) {
	of.held.Disconnect(now)
	for _, a := range of.core.agents.inOrder() {
		of.core.agents.changed(a.ID)
	}
}

// collect appends an agent's offers to into.
func (of *offering) collect(into []*offers.Offer, id api.AgentID) []*offers.Offer {
	for o := range of.held.OfAgent(id) {
		into = append(into, o)
	}
	return into
}

// free returns the sum of an agent's offers, and passes their port ranges to ports.
func (of *offering) free(id api.AgentID, ports func([]offers.Range)) (sum [match.NumScalars]offers.Milli) {
	for o := range of.held.OfAgent(id) {
		for i, name := range match.ScalarNames {
			sum[i] += o.Resources.Sum(name)
		}
		ports(o.Resources.PortRanges())
	}
	return sum
}

// subscribed resets the REVIVE pauses: Mesos has dropped all filters.
func (of *offering) subscribed() { of.revival = revival{} }

// arrived notes that a new pod needs a task.
func (of *offering) arrived(now time.Time) { of.gather.arrive(now, of.core.cfg.Gather) }

// gathers reports whether to hold launches back because more pods may be coming.
func (of *offering) gathers(now time.Time, ev Event) bool { return of.gather.holds(now, ev) }

// answeredBefore returns the time of the last REVIVE at or before the given time.
func (of *offering) answeredBefore(at time.Time) time.Time { return of.revival.answeredBefore(at) }

// resume schedules a Wake at which the pods of an executor that has ended are relaunched.
func (of *offering) resume(at time.Time) { of.resumeAt = at }

// resumed reports, once, that this time has come.
func (of *offering) resumed(now time.Time) bool {
	if of.resumeAt.IsZero() || now.Before(of.resumeAt) {
		return false
	}
	of.resumeAt = time.Time{}
	return true
}

// expire declines the offers that were held for the offer TTL.
func (of *offering) expire(now time.Time) []Action {
	if !of.core.session.connected() {
		return nil
	}
	var idle, kept *offers.Detail // for offers, and for those of agents with a plan
	expired := of.held.Expire(now, func(o *offers.Offer) offers.Detail {
		if idle == nil {
			idle, kept = of.whyExpired()
		}
		if o.Unavailable != nil {
			return *kept
		}
		return *idle
	})
	if len(expired) == 0 {
		return nil
	}
	ids := make([]api.OfferID, 0, len(expired))
	var planned []api.OfferID
	for _, o := range expired {
		of.core.agents.changed(o.Agent)
		if a := of.core.agents.get(o.Agent); a != nil {
			a.returning = now
		}
		if o.Unavailable != nil {
			planned = append(planned, o.ID)
			continue
		}
		ids = append(ids, o.ID)
	}
	var acts []Action
	if len(ids) > 0 {
		acts = append(acts, Decline{Offers: ids, Refuse: idle.Refuse})
	}
	if len(planned) > 0 {
		acts = append(acts, Decline{Offers: planned, Refuse: kept.Refuse})
	}
	return acts
}

// whyExpired returns why offers expire now, and for how long to decline them: offers, and those of agents with planned maintenance.
func (of *offering) whyExpired() (idle, planned *offers.Detail) {
	idle = &offers.Detail{Reason: "no pod waits", Refuse: of.core.cfg.RefuseIdle}
	if of.core.pods.wantsMore() {
		idle = &offers.Detail{Reason: "no waiting pod was placed in it", Refuse: refuseBusy}
	}
	return idle, &offers.Detail{Reason: idle.Reason + "; maintenance is planned", Refuse: min(idle.Refuse, refuseKept)}
}

// giveBack declines all offers of a failing agent, unless a pod waits that is bound to its node.
func (of *offering) giveBack(now time.Time, a *agent) []Action {
	if !a.failures.health.open || of.core.health.awaited(a) {
		return nil
	}
	refuse := max(time.Second, a.failures.health.until.Sub(now))
	var ids []api.OfferID
	for o := range of.held.OfAgent(a.ID) {
		ids = append(ids, o.ID)
		if o.Unavailable != nil {
			refuse = min(refuse, refuseKept)
		}
	}
	d := offers.Detail{Reason: "tasks fail on the agent before they run", Refuse: refuse}
	ids = slices.DeleteFunc(ids, func(id api.OfferID) bool { return !of.decline(now, id, d) })
	if len(ids) == 0 {
		return nil
	}
	a.returning = now
	return []Action{Decline{Offers: ids, Refuse: refuse}}
}

// freed notes that a task ended and that Mesos will offer its resources again. If a pod is nominated somewhere, REVIVE
// gets them sooner.
func (of *offering) freed(now time.Time, s TaskStatus) {
	a := of.core.agents.get(s.Agent)
	if a == nil {
		return
	}
	a.returning = now
	if of.core.index.HasNominees() {
		of.reviveSoon()
	}
}

// revival decides when to REVIVE. Mesos does not guarantee the order of DECLINE and REVIVE, so REVIVE is repeated, with growing
// pauses, while pods wait.
type revival struct {
	last     time.Time
	next     time.Time
	pause    time.Duration
	calls    []time.Time // times of REVIVEs after answered
	answered time.Time   // the last result of answeredBefore
	wanted   bool        // something new has come since the last call
}

const (
	reviveSoonest = 100 * time.Millisecond
	reviveAgain   = time.Second
	reviveLast    = 30 * time.Second
)

// reviveSoon ends the pause, because something new needs offers.
func (of *offering) reviveSoon() {
	r := &of.revival
	r.pause, r.next, r.wanted = 0, r.last.Add(reviveFirst(of.core.agents.count())), true
}

// due reports whether to REVIVE now, and then starts the next, longer pause.
func (r *revival) due(now time.Time) bool {
	if now.Before(r.next) {
		return false
	}
	r.pause = min(max(2*r.pause, reviveAgain), reviveLast)
	r.last, r.next, r.wanted = now, now.Add(r.pause), false
	r.calls = append(r.calls, now)
	return true
}

// answeredBefore returns the time of the last call at or before the given time, which must not go backwards.
func (r *revival) answeredBefore(at time.Time) time.Time {
	for len(r.calls) > 0 && !r.calls[0].After(at) {
		r.answered, r.calls = r.calls[0], r.calls[1:]
	}
	return r.answered
}

// revive sends REVIVE if a pod waits that the held offers cannot help.
func (of *offering) revive(now time.Time) []Action {
	if of.core.pods.waiting()+of.core.warm.missing() == 0 || now.Before(of.revival.next) || !of.wantsOffers(now) || !of.revival.due(now) {
		return nil
	}
	return []Action{Revive{}}
}

// reviveEarly sends REVIVE while pods are gathered if no offer is held.
func (of *offering) reviveEarly(now time.Time) []Action {
	if of.held.Len() > 0 {
		return nil
	}
	return of.revive(now)
}

// wantsOffers reports whether something waits for offers, and not just for a node or an executor.
func (of *offering) wantsOffers(now time.Time) bool {
	if of.core.warm.missing() > 0 || now.Before(of.resumeAt) {
		return true
	}
	long := func(p *pod) bool { return now.Sub(p.since) >= reportPatience }
	if slices.ContainsFunc(of.core.pods.awaitingExecutor(), long) {
		return true
	}
	for class := range of.core.index.Classes() {
		if class.Asks().Wrong() {
			continue
		}
		for p := range class.Pods() {
			if of.core.agents.haveNodes() || long(of.core.pods.of(p)) {
				return true
			}
		}
	}
	return false
}
