package match

// Installs limits how many agents fetch km at a time. Each must be done within the agent's --executor_registration_timeout (a
// minute), and they share the bandwidth of the scheduler's machine.
type Installs struct {
	fleet    *fleet
	limit    int                 // 0 is no limit
	fetching map[*Agent]struct{} // agents that got their first task, or will when their executor is prepared
	// turnedAway says that the limit has kept a pod or task off an agent since an install ended last.
	turnedAway bool
	ended      int // counts the times that installs ended while turnedAway was set
}

func newInstalls(f *fleet) Installs { return Installs{fleet: f, fetching: map[*Agent]struct{}{}} }

// full tells whether the agent must wait for other agents before its executor is launched.
func (in *Installs) full(a *Agent) bool {
	if in.limit == 0 || len(in.fetching) < in.limit || a.installed {
		return false
	}
	_, fetching := in.fetching[a]
	in.turnedAway = in.turnedAway || !fetching
	return !fetching
}

// Begin counts an agent as fetching: its executor is about to be launched.
func (in *Installs) Begin(a *Agent) {
	if in.limit > 0 && !a.installed {
		in.fetching[a] = struct{}{}
	}
}

// Done notes that the agent has km, from now on in its fetcher's cache. It tells whether the agent counted as fetching.
func (in *Installs) Done(a *Agent) bool {
	if _, fetching := in.fetching[a]; !fetching || a.installed {
		return false
	}
	a.installed = true
	return true
}

// End drops the agents that no longer fetch: they have km, or pending returns false. Then agents that had to wait are checked
// again.
func (in *Installs) End(pending func(*Agent) bool) {
	before := len(in.fetching)
	for a := range in.fetching {
		if a.installed || !pending(a) {
			delete(in.fetching, a)
		}
	}
	if in.turnedAway && len(in.fetching) < before {
		in.turnedAway = false
		in.ended++
		in.fleet.restart()
	}
}

// Delays tells whether the class fits on an agent that has to wait until other agents have fetched km.
func (in *Installs) Delays(c *Class) bool { return c.delayedAt == in.ended && in.turnedAway }
