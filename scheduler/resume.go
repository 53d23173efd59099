package scheduler

import "time"

const (
	// resumeAfter is how long after its executor's end a pod's next task is launched, for the first time. An agent tells the
	// ends of an executor's tasks one after the other, and drops what is launched there before all of them are acknowledged
	// ("Master wants to launch executor, but one already exists", Slave::__run in src/slave/slave.cpp of Mesos).
	resumeAfter = 250 * time.Millisecond
	// keeperPatience is how long the pods of a node may be without an executor before one is started for them without a task.
	keeperPatience = 5 * time.Second
)

// resume has a bound pod whose executor is gone launched again soon, together with the others of its node: its containers run
// on, and Mesos offers what they use to everybody. Offers are called for at once.
func (ts *tasks) resume(now time.Time, p *pod) {
	if p.task != nil || p.backoff.failures != 1 {
		return
	}
	p.backoff.until = now.Add(resumeAfter)
	ts.core.offering.resume(p.backoff.until)
	ts.core.stir()
	ts.core.pods.requeue(now, p)
}

// untended tells whether pods that have run are bound to the agent's node and have no task. Their containers may run on.
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

// orphaned tells whether nobody looks after the pods of the agent's node. Kubernetes has to see that: the node is left to
// become NotReady.
func (wm *warming) orphaned(a *agent) bool {
	return !a.hasExecutor && len(wm.core.tasks.on(a.ID)) == 0 && wm.untended(a)
}

// wantsKeeper tells whether the agent's executor shall run for pods whose tasks cannot be launched, since too little is
// offered: it looks after their containers, and ends those whose pods have been deleted. Otherwise the node's warden would
// end them all.
func (wm *warming) wantsKeeper(now time.Time, a *agent) bool {
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
