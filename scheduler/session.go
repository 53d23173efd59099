package scheduler

import (
	"time"

	"github.com/k8sm/k8sm/api"
)

// session is the connection to Mesos.
type session struct {
	core       *Core
	id         api.FrameworkID
	complete   bool // all existing Kubernetes objects were seen
	up         bool
	since      time.Time // of the last subscription
	first      time.Time // of the first subscription
	implicitAt time.Time // when to reconcile all tasks
	leaseAt    time.Time // when to renew the nodes' leases
}

// framework returns the scheduler's framework id.
func (se *session) framework() api.FrameworkID { return se.id }

// synced reports whether all existing Kubernetes objects were seen: until then a task's pod may be unknown.
func (se *session) synced() bool { return se.complete }

// connected reports whether the scheduler is subscribed.
func (se *session) connected() bool { return se.up }

// subscribed returns the time of the last subscription; zero for none.
func (se *session) subscribed() time.Time { return se.since }

// begun returns the time of the first subscription; zero for none.
func (se *session) begun() time.Time { return se.first }

// sync handles Synced: it subscribes.
func (se *session) sync() []Action {
	se.complete = true
	return []Action{Subscribe{}}
}

// disconnect handles the end of the connection.
func (se *session) disconnect(now time.Time) {
	se.up = false
	se.core.offering.disconnect(now)
}

// subscribe handles a new connection: what is known about offers, agents and tasks has to be confirmed again.
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

// tick renews leases and reconciles tasks, when due.
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
