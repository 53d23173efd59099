package scheduler

import "time"

// gatherLimit is how many times --batch-idle-duration pods that keep coming hold the launch of those before them at most.
const gatherLimit = 4

// maxGather is the longest --batch-idle-duration that makes sense: Mesos offers again what is free once a second.
const maxGather = time.Second

// gathering holds launches back for a moment while pods come one after the other. An ACCEPT uses an offer up: what is left
// of it is recovered and offered again with the next allocation, and that comes once in Mesos's --allocation_interval, a second,
// or by a REVIVE (Master::_accept in src/master/master.cpp, HierarchicalAllocatorProcess::recoverResources and reviveOffers
// in src/master/allocator/mesos/hierarchical.cpp). So the first of a deployment's pods would have the others wait.
type gathering struct {
	until time.Time // launches are held back; zero if they are not
	limit time.Time // of until, however many pods come
}

// arrive takes in that a pod has come that needs a task.
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

// holds tells whether launches are held back. What a Tick does cannot wait.
func (g *gathering) holds(now time.Time, ev Event) bool {
	if _, tick := ev.(Tick); !tick && now.Before(g.until) {
		return true
	}
	g.until, g.limit = time.Time{}, time.Time{}
	return false
}

// reviveFirst is how long after a REVIVE the next one may come, with so many agents: each has Mesos go through all of them.
func reviveFirst(agents int) time.Duration {
	return min(max(reviveSoonest, time.Duration(agents)*time.Millisecond), reviveAgain)
}

// wakeAt returns when the next Wake has to come; zero if none has to.
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
