package scheduler

import "github.com/k8sm/k8sm/scheduler/match"

// cameUp notes that the agent's executor has said something of a task. That offers name the executor says nothing: they do from
// its launch on (Master::addExecutor in Mesos's src/master/master.cpp).
func (c *Core) cameUp(a *agent) {
	if c.index.Installs.Done(&a.Agent) {
		c.look = true
	}
}

// installing tells whether the agent may still fetch km: its executor is being prepared, or its tasks have not ended.
func (c *Core) installing(seen *match.Agent) bool {
	a := c.agents[seen.ID]
	return a != nil && &a.Agent == seen && (a.executor.preparing || len(c.owners[a.ID]) > 0)
}
