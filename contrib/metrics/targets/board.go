package targets

import (
	"context"
	"sync"

	"github.com/prometheus/prometheus/discovery/targetgroup"
)

// Board passes targets on to Prometheus, which asks for those of one job at a time. Its methods may be called concurrently. The zero
// value has no targets.
type Board struct {
	mu      sync.Mutex // guards what follows
	jobs    map[string][]*targetgroup.Group
	changed chan struct{} // closed when jobs changes; nil if nobody waits
}

// Set replaces the targets of all jobs.
func (b *Board) Set(jobs map[string][]*targetgroup.Group) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.jobs = jobs
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// read returns the targets of a job, and what is closed when they may have changed.
func (b *Board) read(job string) ([]*targetgroup.Group, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.jobs[job], b.changed
}

// Tell sends the groups of a job until ctx ends: all whenever targets change, and those that are gone once more, without targets.
func (b *Board) Tell(ctx context.Context, job string, groups chan<- []*targetgroup.Group) {
	told := map[string]bool{}
	for {
		now, changed := b.read(job)
		there, send := map[string]bool{}, now[:len(now):len(now)]
		for _, g := range now {
			there[g.Source] = true
		}
		for source := range told {
			if !there[source] {
				send = append(send, &targetgroup.Group{Source: source})
			}
		}
		select {
		case <-ctx.Done():
			return
		case groups <- send:
			told = there
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
