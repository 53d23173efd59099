package scheduler

import "github.com/k8sm/k8sm/scheduler/match"

// cameUp notes that the agent's executor has said something of a task. That offers name the executor says nothing: they do from
// its launch on (Master::addExecutor in Mesos's src/master/master.cpp).
func (as *agents) cameUp(a *agent) {
	if as.core.index.Installs.Done(&a.Agent) {
		as.core.stir()
	}
}

// installing tells whether the agent may still fetch km: its executor is being prepared, or its tasks have not ended.
func (as *agents) installing(seen *match.Agent) bool {
	a := as.byID[seen.ID]
	return a != nil && &a.Agent == seen && (a.executor.preparing || len(as.core.tasks.on(a.ID)) > 0)
}
