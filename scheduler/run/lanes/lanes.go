// Package lanes runs jobs with a fixed number of workers. Jobs in one lane run in order, jobs in different lanes concurrently.
// It imports no other package of this module.
package lanes

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Lanes is a queue of jobs with its workers. Add never blocks, so an event loop may call it.
type Lanes[T any] struct {
	lane func(T) string
	do   func(context.Context, T)
	wake chan struct{} // holds a token if a worker should take a ready lane

	mu    sync.Mutex     // guards what follows
	jobs  map[string][]T // waiting jobs by lane; a lane is in the map while a job of it waits or runs
	ready []string       // lanes with a waiting job and no running one
}

// New returns Lanes that run each job with do. The function lane returns the job's lane.
func New[T any](lane func(T) string, do func(context.Context, T)) *Lanes[T] {
	return &Lanes[T]{lane: lane, do: do, jobs: map[string][]T{}, wake: make(chan struct{}, 1)}
}

// Add queues a job. It may be called concurrently, before Run too.
func (l *Lanes[T]) Add(job T) {
	l.AddInstead(job, func(T) bool { return false })
}

// AddInstead queues a job as Add does, but replaces the last waiting job of the lane if needless returns true for that job. So
// repeated jobs do not pile up in a slow lane.
func (l *Lanes[T]) AddInstead(job T, needless func(T) bool) {
	name := l.lane(job)
	l.mu.Lock()
	defer l.mu.Unlock()
	jobs, busy := l.jobs[name]
	if last := len(jobs) - 1; last >= 0 && needless(jobs[last]) {
		jobs[last] = job
		return
	}
	l.jobs[name] = append(jobs, job)
	if !busy {
		l.ready = append(l.ready, name)
		l.wakeOne()
	}
}

// Run runs jobs until ctx ends, and returns when all workers have ended. It drops the waiting jobs. It may be called again after that.
func (l *Lanes[T]) Run(ctx context.Context, workers int) error {
	var group errgroup.Group
	for range workers {
		group.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-l.wake:
					l.drain(ctx)
				}
			}
		})
	}
	err := group.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.jobs, l.ready = map[string][]T{}, nil
	return err
}

func (l *Lanes[T]) wakeOne() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Lanes[T]) drain(ctx context.Context) {
	for ctx.Err() == nil {
		name, job, ok := l.next()
		if !ok {
			return
		}
		l.do(ctx, job)
		l.finish(name)
	}
}

// next takes the first job of a ready lane. It wakes another worker if other lanes are ready.
func (l *Lanes[T]) next() (name string, job T, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ready) == 0 {
		return "", job, false
	}
	name, l.ready = l.ready[0], l.ready[1:]
	if len(l.ready) > 0 {
		l.wakeOne()
	}
	job, l.jobs[name] = l.jobs[name][0], l.jobs[name][1:]
	return name, job, true
}

func (l *Lanes[T]) finish(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.jobs[name]) == 0 {
		delete(l.jobs, name)
		return
	}
	l.ready = append(l.ready, name)
}
