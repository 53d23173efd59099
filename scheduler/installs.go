package scheduler

import "github.com/k8sm/k8sm/scheduler/match"

// executorUp notes that the agent's executor has sent an update, so that its install is done. An offer that names the executor does
// not prove this: it does so from the launch on (Master::addExecutor in Mesos's src/master/master.cpp).
func (as *agents) executorUp(a *agent) {
	if as.core.index.Installs.Done(&a.Agent) {
		as.core.requestCycle()
	}
}

// installing reports whether the agent may still be fetching km: its executor is being prepared, or it has tasks.
func (as *agents) installing(seen *match.Agent) bool {
	a := as.byID[seen.ID]
	return a != nil && &a.Agent == seen && (a.executor.preparing || len(as.core.tasks.on(a.ID)) > 0)
}
