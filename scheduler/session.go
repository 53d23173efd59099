package scheduler

import (
	"fmt"
	"time"

	"github.com/k8sm/k8sm/api"
)

// session is the connection to Mesos.
type session struct {
	core       *Core
	id         api.FrameworkID
	complete   bool // all existing Kubernetes objects were seen
	up         bool
	lost       time.Time // since when there is no connection, if it is not up
	why        string    // why there is none
	toldAt     time.Time // when that was told last; zero for not
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
func (se *session) sync(now time.Time) []Action {
	se.complete, se.lost = true, now
	return []Action{Subscribe{}}
}

// disconnect handles the end of the connection.
func (se *session) disconnect(now time.Time) {
	se.up, se.lost, se.why = false, now, ""
	se.core.offering.disconnect(now)
}

// failed handles an attempt to connect that failed.
func (se *session) failed(why string) { se.why = why }

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
	acts := append([]Action{Reconcile{}}, se.core.tasks.subscribed(now)...)
	if !se.toldAt.IsZero() {
		se.toldAt = time.Time{}
		acts = append(acts, Complain{Reason: "MesosMasterFound", Text: "the scheduler is connected to a Mesos master again", Over: true})
	}
	return acts
}

const (
	// lostPatience is how long a scheduler may be without a master before that is told: another one leads within seconds.
	lostPatience = 15 * time.Second
	// lostAgain is how soon that is told again. Events are kept for an hour.
	lostAgain = 10 * time.Minute
	// lostPodsPerTick bounds how many pods are told in one step.
	lostPodsPerTick = 50
	noMaster        = "the scheduler is not connected to a Mesos master: pods start when one answers"
)

// reportLost tells that there is no master: once for the cluster, and to the pods that wait.
func (se *session) reportLost(now time.Time) (acts []Action) {
	if !se.complete || now.Sub(se.lost) < lostPatience {
		return nil
	}
	if se.toldAt.IsZero() || now.Sub(se.toldAt) >= lostAgain {
		se.toldAt = now
		acts = append(acts, Complain{Reason: "MesosMasterLost", Text: fmt.Sprintf("no Mesos master has answered the scheduler since %s%s. Pods run on, and no new ones start",
			se.lost.UTC().Format(time.RFC3339), with(": ", se.why))})
	}
	for _, p := range se.core.pods.unexplained(now) {
		if len(acts) > lostPodsPerTick {
			break
		}
		if p.report.due(now, noMaster) {
			acts = append(acts, Report{Pod: p.Obj, Message: noMaster})
		}
	}
	return acts
}

// Leases of nodes without a kubelet are renewed as often as a kubelet does it. Each is a write of the API server, so with more than 2,500
// agents each lease is renewed less often: still twice within its 40 s.
const (
	leaseSoonest = 10 * time.Second
	leaseLatest  = 20 * time.Second
)

// leaseEvery returns the time between two renewals of a lease.
func leaseEvery(agents int) time.Duration {
	return min(max(leaseSoonest, time.Duration(agents)*4*time.Millisecond), leaseLatest)
}

// tick renews leases and reconciles tasks, when due.
func (se *session) tick(now time.Time) []Action {
	var acts []Action
	if !now.Before(se.leaseAt) {
		se.leaseAt = now.Add(leaseEvery(se.core.agents.count()))
		acts = se.core.agents.renewLeases()
	}
	if !se.up {
		return append(acts, se.reportLost(now)...)
	}
	acts = append(acts, se.core.tasks.reconcileDue(now)...)
	if !now.Before(se.implicitAt) {
		se.implicitAt = now.Add(implicitEvery)
		acts = append(acts, Reconcile{})
	}
	return acts
}
