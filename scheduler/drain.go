package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

// drainPatience is how long the pods of a draining agent may still be shown by the API when all their tasks have ended:
// their kubelet confirms that they are gone, and has to live for that.
const drainPatience = time.Minute

// drain is what follows when an operator drains an agent: Mesos kills its tasks, whose ends say so, and nothing else does.
// The agent itself goes on draining until its last executor has ended, also one without tasks, and drops every task until
// then, even when the operator has reactivated it and the master offers it again (Slave::updateDrainStatus and Slave::__run in
// src/slave/slave.cpp of Mesos). An agent without tasks of ours drains without a word: a task that it drops is the first.
type drain struct {
	quiet  time.Time // since when no task of ours is there; zero while there is one
	asked  time.Time // when the executor was asked to end last; zero if it was not
	exited bool      // it has ended since
	back   bool      // the agent makes offers again
}

// noteDraining learns from what is said of a task that its agent drains, or was taken down in its maintenance.
func (ds *disruptions) noteDraining(now time.Time, s TaskStatus) {
	a := ds.core.agents.get(s.Agent)
	switch {
	case s.Agent == "" || a == nil:
	case s.Reason == reasonDraining:
		u := ds.keep(now, s.Agent)
		if !u.draining {
			u.draining, u.drain = true, drain{exited: s.State == Dropped && !a.hasExecutor}
			ds.changed(a.ID)
		}
		u.gone = u.gone || s.State == GoneByOperator
		if s.State != Dropped {
			u.drain.back = false
		} else if !now.Before(a.drops.until) { // of the tasks of one ACCEPT one counts
			a.drops.fail(now)
		}
	case s.State == Gone && s.Reason == reasonRemoved && ds.byAgent[s.Agent] != nil:
		ds.byAgent[s.Agent].gone = true
	case s.State == Starting || s.State == Running:
		a.drops = backoff{}
	}
}

// reactivated takes in that a draining agent makes offers again. It may take tasks when our executor has ended.
func (ds *disruptions) reactivated(now time.Time, a *agent) {
	u := ds.byAgent[a.ID]
	if u == nil || !u.draining {
		return
	}
	u.drain.back = true
	ds.settleDrain(now, a, u)
}

// settleDrain ends the draining of an agent that makes offers again, unless it would drop what is launched there. Tasks that
// live are a sign that it has ended long ago.
func (ds *disruptions) settleDrain(now time.Time, a *agent, u *disruption) {
	if !u.drain.back || now.Before(a.drops.until) || a.hasExecutor && len(ds.core.tasks.on(a.ID)) == 0 {
		return
	}
	u.draining, u.drain = false, drain{}
	ds.changed(a.ID)
}

// tickDrain has the executor of a draining agent end when the last pod has left. Mesos knows nothing of pods of DaemonSets or
// static ones that would stay: they end with it.
func (ds *disruptions) tickDrain(now time.Time, a *agent, u *disruption, residents []*pod) []Action {
	d := &u.drain
	if len(ds.core.tasks.on(a.ID)) > 0 {
		d.quiet = time.Time{}
		return nil
	}
	if d.quiet.IsZero() {
		d.quiet = now
	}
	ds.settleDrain(now, a, u)
	switch {
	case !u.draining, !a.hasExecutor && (d.exited || !d.asked.IsZero()):
		return nil
	case !d.asked.IsZero() && now.Sub(d.asked) < killAgain:
		return nil
	case !d.back && now.Sub(d.quiet) < drainPatience && stays(residents):
		return nil
	}
	d.asked = now
	return []Action{ShutdownExecutor{Agent: a.ID, Executor: api.MinionExecutorID}}
}

// stays tells whether one of the pods has still to leave.
func stays(residents []*pod) bool {
	return slices.ContainsFunc(residents, func(p *pod) bool { return !finished(p.Obj) })
}
