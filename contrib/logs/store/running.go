package store

import (
	"context"
	"errors"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// ErrMemory is why a query ends that takes too much memory, or runs beside one.
var ErrMemory = errors.New("the query was ended because queries took too much memory: ask for less time, fewer fields, or less at once")

// watchEvery is how often the memory is looked at while queries run.
const watchEvery = 20 * time.Millisecond

// running ends all queries when the process takes too much memory.
type running struct {
	limit uint64 // 0 for none

	mu   sync.Mutex // guards ends
	next int
	ends map[int]context.CancelCauseFunc
}

// begin returns a context for a query. It ends when queries take too much memory. The caller calls ended.
func (r *running) begin(ctx context.Context) (_ context.Context, ended func()) {
	if r.limit == 0 {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ends) == 0 {
		r.ends = map[int]context.CancelCauseFunc{}
		go r.watch()
	}
	r.next++
	key := r.next
	r.ends[key] = end
	return ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.ends, key)
		end(nil)
	}
}

// watch looks at the memory until no query runs.
func (r *running) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for range tick.C {
		r.mu.Lock()
		if len(r.ends) == 0 {
			r.mu.Unlock()
			return
		}
		if heap() > r.limit {
			logrus.Warn("ending the queries that run: they take too much memory")
			for _, end := range r.ends {
				end(ErrMemory)
			}
			r.ends = nil
			r.mu.Unlock()
			debug.FreeOSMemory() // what is garbage now must not end the next query
			return
		}
		r.mu.Unlock()
	}
}

// heap returns how many bytes objects take, with those that are not yet collected.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
