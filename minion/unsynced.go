package minion

import (
	"fmt"
	"sync"
	"time"

	"github.com/k8sm/k8sm/minion/status"
)

// syncPatience is how long a sync with what the kernel has may fail before that is told. Each is tried again within seconds.
const syncPatience = time.Minute

// syncProblems are the syncs that fail.
type syncProblems struct {
	mu    sync.Mutex // guards since
	since map[status.Synced]failingSync
}

// failingSync is a sync that has failed since a time.
type failingSync struct {
	since time.Time
	why   error // the first reason: a later one may differ in what it was busy with
}

// note takes the result of a sync.
func (p *syncProblems) note(what status.Synced, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, failing := p.since[what]
	switch {
	case err == nil:
		delete(p.since, what)
	case !failing:
		if p.since == nil {
			p.since = map[status.Synced]failingSync{}
		}
		p.since[what] = failingSync{now, err}
	}
}

// lasting returns the problems that last.
func (p *syncProblems) lasting(now time.Time) (problems []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range []struct {
		what  status.Synced
		words string
	}{
		{status.PodNetwork, "the pod network is incomplete"},
		{status.NetworkPolicies, "network policies are not applied as they are in the cluster"},
	} {
		if f, failing := p.since[part.what]; failing && now.Sub(f.since) >= syncPatience {
			problems = append(problems, fmt.Sprintf("%s: %s", part.words, f.why))
		}
	}
	return problems
}

// synced returns a function that takes the results of a sync.
func (n *node) synced(what status.Synced) func(time.Duration, error) {
	count := n.metrics.Sync(what)
	return func(took time.Duration, err error) {
		count(took, err)
		n.syncs.note(what, err, time.Now())
	}
}
