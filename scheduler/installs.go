package scheduler

// installs bounds how many agents fetch km at a time. Each of them has to be done within the agent's
// --executor_registration_timeout (a minute), and they share what the scheduler's machine can send.
type installs struct {
	most  int                 // at a time; 0 bounds nothing
	under map[*agent]struct{} // that were given a first task, or will be when their executor is prepared
	// turnedAway says that an agent was not given a pod or a task because of the bound, since the last one that ended.
	turnedAway bool
	ended      int // how many times that changed something for somebody who was turned away
}

// full tells whether the agent has to wait for others before its executor is launched.
func (in *installs) full(a *agent) bool {
	if in.most == 0 || len(in.under) < in.most || a.hasProgram {
		return false
	}
	_, under := in.under[a]
	in.turnedAway = in.turnedAway || !under
	return !under
}

// begin counts an agent whose executor is about to be launched.
func (in *installs) begin(a *agent) {
	if in.most > 0 && !a.hasProgram {
		in.under[a] = struct{}{}
	}
}

// cameUp notes that the agent's executor has said something of a task. That offers name the executor says nothing: they do from
// its launch on (Master::addExecutor in Mesos's src/master/master.cpp).
func (c *Core) cameUp(a *agent) {
	if _, under := c.installs.under[a]; under && !a.hasProgram {
		a.hasProgram = true // in the fetcher's cache, if the executor has to be launched again
		c.look = true
	}
}

// endInstalls finds out which agents fetch no longer: their executor came up, or its tasks have ended without it. Agents that
// were turned away are looked at again.
func (c *Core) endInstalls() {
	in := &c.installs
	in.most = c.cfg.maxInstalls()
	before := len(in.under)
	for a := range in.under {
		switch {
		case c.agents[a.id] != a:
		case a.hasProgram:
		case a.executor.preparing || len(c.owners[a.id]) > 0:
			continue
		}
		delete(in.under, a)
	}
	if in.turnedAway && len(in.under) < before {
		in.turnedAway = false
		in.ended++
		c.fleet.restart()
	}
}
