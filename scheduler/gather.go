package scheduler

import "time"

// gatherLimit limits the wait for more pods to this many times --batch-idle-duration.
const gatherLimit = 4

// maxGather is the longest useful --batch-idle-duration: Mesos offers free resources once a second.
const maxGather = time.Second

// gathering holds launches back for a moment while more pods are coming. An ACCEPT uses the whole offer up: Mesos offers the rest
// only with the next allocation, after its --allocation_interval of a second or a REVIVE (Master::_accept in
// src/master/master.cpp, HierarchicalAllocatorProcess::recoverResources and reviveOffers in
// src/master/allocator/mesos/hierarchical.cpp). So a Deployment's first pod would make the others wait.
type gathering struct {
	until time.Time // when launches may go on; zero if they are not held back
	limit time.Time // of until
}

// arrive notes that a new pod needs a task.
func (g *gathering) arrive(now time.Time, quiet time.Duration) {
	if quiet <= 0 {
		return
	}
	if !now.Before(g.limit) {
		g.limit = now.Add(gatherLimit * quiet)
	}
	if g.until = now.Add(quiet); g.until.After(g.limit) {
		g.until = g.limit
	}
}

// holds reports whether launches are held back. A Tick ends that.
func (g *gathering) holds(now time.Time, ev Event) bool {
	if _, tick := ev.(Tick); !tick && now.Before(g.until) {
		return true
	}
	g.until, g.limit = time.Time{}, time.Time{}
	return false
}

// reviveFirst returns the shortest time between two REVIVEs. It grows with the number of agents, all of which Mesos checks.
func reviveFirst(agents int) time.Duration {
	return min(max(reviveSoonest, time.Duration(agents)*time.Millisecond), reviveAgain)
}

// wakeAt returns when to send the next Wake; zero for none.
func (of *offering) wakeAt(now time.Time) time.Time {
	if !of.core.session.connected() {
		return time.Time{}
	}
	var next time.Time
	consider := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	consider(of.gather.until)
	consider(of.resumeAt)
	if of.revival.wanted && of.revival.next.After(now) {
		consider(of.revival.next)
	}
	return next
}
