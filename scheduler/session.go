package scheduler

import (
	"time"

	"github.com/k8sm/k8sm/api"
)

// session is the connection to Mesos, and what holds as long as it does.
type session struct {
	core       *Core
	id         api.FrameworkID
	complete   bool // all that Kubernetes has was seen
	up         bool
	since      time.Time // when it was subscribed
	first      time.Time // when it was subscribed for the first time
	implicitAt time.Time // when to reconcile all tasks next
	leaseAt    time.Time // when to renew the leases of nodes next
}

// framework is the id that Mesos knows the scheduler by.
func (se *session) framework() api.FrameworkID { return se.id }

// synced tells whether all that Kubernetes has was seen: until then nobody knows whose a task is.
func (se *session) synced() bool { return se.complete }

// connected tells whether Mesos hears the scheduler.
func (se *session) connected() bool { return se.up }

// subscribed is when the scheduler was subscribed last; zero if it never was.
func (se *session) subscribed() time.Time { return se.since }

// begun is when the scheduler was subscribed first; zero if it never was.
func (se *session) begun() time.Time { return se.first }

// sync takes in that all that Kubernetes has was seen.
func (se *session) sync() []Action {
	se.complete = true
	return []Action{Subscribe{}}
}

// disconnect takes in that Mesos does not hear the scheduler any more.
func (se *session) disconnect(now time.Time) {
	se.up = false
	se.core.offering.disconnect(now)
}

// subscribe starts over with what only holds within a connection: which agents are there, and what Mesos knows of
// our tasks.
func (se *session) subscribe(now time.Time, id api.FrameworkID) []Action {
	se.id, se.up, se.since = id, true, now
	if se.first.IsZero() {
		se.first = now
		se.core.addresses.begin(now)
	}
	se.implicitAt = now.Add(implicitEvery)
	se.core.offering.subscribed()
	se.core.agents.subscribed(now)
	se.core.disruptions.subscribed(now)
	return append([]Action{Reconcile{}}, se.core.tasks.subscribed(now)...)
}

// tick renews leases, and reconciles all tasks now and then.
func (se *session) tick(now time.Time) []Action {
	var acts []Action
	if !now.Before(se.leaseAt) {
		se.leaseAt = now.Add(leaseEvery)
		acts = se.core.agents.renewLeases()
	}
	if !se.up {
		return acts
	}
	acts = append(acts, se.core.tasks.reconcileDue(now)...)
	if !now.Before(se.implicitAt) {
		se.implicitAt = now.Add(implicitEvery)
		acts = append(acts, Reconcile{})
	}
	return acts
}
