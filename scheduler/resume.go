package scheduler

import "time"

const (
	// resumeAfter is how long after its executor's end a pod's next task is launched, for the first time. An agent sends the
	// updates of an executor's tasks one by one, and drops new tasks before all updates are acknowledged
	// ("Master wants to launch executor, but one already exists", Slave::__run in src/slave/slave.cpp of Mesos).
	resumeAfter = 250 * time.Millisecond
	// keeperPatience is how long a node's pods may lack an executor before one is started by a task without a pod.
	keeperPatience = 5 * time.Second
)

// resume relaunches a bound pod soon after its executor ended, together with the others of its node. Its containers still run,
// and Mesos offers what they use to every framework, so this sends REVIVE at once.
func (ts *tasks) resume(now time.Time, p *pod) {
	if p.task != nil || p.backoff.failures != 1 {
		return
	}
	p.backoff.until = now.Add(resumeAfter)
	ts.core.offering.resume(p.backoff.until)
	ts.core.requestCycle()
	ts.core.pods.requeue(now, p)
}

// untended reports whether pods that have run on the agent's node have no task. Their containers may still run.
func (wm *warming) untended(a *agent) bool {
	if a.Node == "" {
		return false
	}
	for obj := range wm.core.index.OccupiedBy(a.Node) {
		if p := wm.core.pods.get(obj.UID); p != nil && p.Node == a.Node && p.task == nil && p.attempt > 0 {
			return true
		}
	}
	return false
}

// orphaned reports whether pods of the agent's node have no executor. Then we let the node become NotReady, so that Kubernetes
// notices.
func (wm *warming) orphaned(a *agent) bool {
	return !a.hasExecutor && len(wm.core.tasks.on(a.ID)) == 0 && wm.untended(a)
}

// needsKeeper reports whether a task without a pod shall run the agent's executor, because offers are too small for the tasks of
// pods whose containers still run. The executor manages these containers; without it the node's warden would end them all.
func (wm *warming) needsKeeper(now time.Time, a *agent) bool {
	if a.warm != nil {
		return len(wm.core.tasks.on(a.ID)) == 1 && wm.untended(a)
	}
	if !wm.orphaned(a) {
		a.orphaned = time.Time{}
		return false
	}
	if a.orphaned.IsZero() {
		a.orphaned = now
	}
	return now.Sub(a.orphaned) >= keeperPatience
}
