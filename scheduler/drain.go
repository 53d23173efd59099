package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

// drainPatience is how long the kubelet of a draining agent gets after the last task to finish the deletion of its pods.
const drainPatience = time.Minute

// drain is the progress of draining an agent. Only updates of its killed or dropped tasks say that it drains: if it has no
// tasks of ours, we learn it from the first task that it drops. The agent drains until its last executor has ended, even
// one without tasks. Until then it drops every task, even after the operator has reactivated it and the master offers it
// again (Slave::updateDrainStatus and Slave::__run in src/slave/slave.cpp of Mesos).
type drain struct {
	idleSince   time.Time // since when no task of ours is there; zero while there is one
	asked       time.Time // when the executor was last asked to end; zero for never
	exited      bool      // the executor has ended
	offersAgain bool      // the agent makes offers again
}

// noteDraining learns from the update of a task that its agent drains, or was taken down for maintenance.
func (ds *disruptions) noteDraining(now time.Time, s TaskStatus) {
	a := ds.core.agents.get(s.Agent)
	switch {
	case s.Agent == "" || a == nil:
	case s.Reason == reasonDraining:
		u := ds.ensure(now, s.Agent)
		if !u.draining {
			u.draining, u.drain = true, drain{exited: s.State == Dropped && !a.hasExecutor}
			ds.core.agents.changed(a.ID)
		}
		u.gone = u.gone || s.State == GoneByOperator
		if s.State != Dropped {
			u.drain.offersAgain = false
		} else if !now.Before(a.dropBackoff.until) { // count the tasks of one ACCEPT once
			a.dropBackoff.fail(now)
		}
	case s.State == Gone && s.Reason == reasonRemoved && ds.byAgent[s.Agent] != nil:
		ds.byAgent[s.Agent].gone = true
	case s.State == Starting || s.State == Running:
		a.dropBackoff = backoff{}
	}
}

// reactivated notes that an agent, if it was draining, makes offers again. It takes tasks once our executor has ended.
func (ds *disruptions) reactivated(now time.Time, a *agent) {
	u := ds.byAgent[a.ID]
	if u == nil || !u.draining {
		return
	}
	u.drain.offersAgain = true
	ds.settleDrain(now, a, u)
}

// settleDrain ends the draining of a reactivated agent, unless it may still drop tasks. If tasks run there, it has stopped
// dropping them.
func (ds *disruptions) settleDrain(now time.Time, a *agent, u *disruption) {
	if !u.drain.offersAgain || now.Before(a.dropBackoff.until) || a.hasExecutor && len(ds.core.tasks.on(a.ID)) == 0 {
		return
	}
	u.draining, u.drain = false, drain{}
	ds.core.agents.changed(a.ID)
}

// tickDrain shuts the executor of a draining agent down when the last task has ended. Pods of DaemonSets and static pods end
// with the executor.
func (ds *disruptions) tickDrain(now time.Time, a *agent, u *disruption, residents []*pod) []Action {
	d := &u.drain
	if len(ds.core.tasks.on(a.ID)) > 0 {
		d.idleSince = time.Time{}
		return nil
	}
	if d.idleSince.IsZero() {
		d.idleSince = now
	}
	ds.settleDrain(now, a, u)
	switch {
	case !u.draining, !a.hasExecutor && (d.exited || !d.asked.IsZero()):
		return nil
	case !d.asked.IsZero() && now.Sub(d.asked) < killRetry:
		return nil
	case !d.offersAgain && now.Sub(d.idleSince) < drainPatience && stays(residents):
		return nil
	}
	d.asked = now
	return []Action{ShutdownExecutor{Agent: a.ID, Executor: api.MinionExecutorID}}
}

// stays reports whether one of the pods has not finished.
func stays(residents []*pod) bool {
	return slices.ContainsFunc(residents, func(p *pod) bool { return !finished(p.Obj) })
}
