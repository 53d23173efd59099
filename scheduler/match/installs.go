package match

// Installs bounds how many agents fetch km at a time. Each of them has to be done within the agent's
// --executor_registration_timeout (a minute), and they share what the scheduler's machine can send.
type Installs struct {
	fleet    *fleet
	limit    int                 // at a time; 0 bounds nothing
	fetching map[*Agent]struct{} // that were given a first task, or will be when their executor is prepared
	// turnedAway says that an agent was not given a pod or a task because of the bound, since the last one that ended.
	turnedAway bool
	ended      int // how many times that changed something for somebody who was turned away
}

func newInstalls(f *fleet) Installs { return Installs{fleet: f, fetching: map[*Agent]struct{}{}} }

// full tells whether the agent has to wait for others before its executor is launched.
func (in *Installs) full(a *Agent) bool {
	if in.limit == 0 || len(in.fetching) < in.limit || a.installed {
		return false
	}
	_, under := in.fetching[a]
	in.turnedAway = in.turnedAway || !under
	return !under
}

// Begin counts an agent whose executor is about to be launched.
func (in *Installs) Begin(a *Agent) {
	if in.limit > 0 && !a.installed {
		in.fetching[a] = struct{}{}
	}
}

// Done notes that the agent has km, in the fetcher's cache too if its executor has to be launched again. It tells whether
// that was waited for.
func (in *Installs) Done(a *Agent) bool {
	_, under := in.fetching[a]
	if !under || a.installed {
		return false
	}
	a.installed = true
	return true
}

// End finds out which agents fetch no longer: they have km, or pending says that nothing is to come any more. Agents that were
// turned away are looked at again.
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

// Crowded tells whether an agent has room for the class, and waits for others to fetch km.
func (in *Installs) Delays(s *Class) bool { return s.delayedAt == in.ended && in.turnedAway }
