package scheduler

import (
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

const (
	reconcileBatch = 100
	reconcileFirst = 2 * time.Second
	reconcileLast  = time.Minute
)

// reconciliation is the explicit reconciliation of tasks: each is asked for, in batches and with growing pauses, until
// Mesos has answered (https://mesos.apache.org/documentation/latest/reconciliation/#algorithm).
type reconciliation struct {
	left  []api.TaskID
	at    time.Time // when to ask next
	pause time.Duration
	next  int // in left
}

// add asks for one more task, soon.
func (r *reconciliation) add(now time.Time, id api.TaskID) {
	if slices.Contains(r.left, id) {
		return
	}
	r.left = append(r.left, id)
	r.at, r.pause = now, reconcileFirst
}

// done takes a task off because Mesos has answered.
func (r *reconciliation) done(id api.TaskID) {
	r.left = slices.DeleteFunc(r.left, func(other api.TaskID) bool { return other == id })
}

// reconcileDue asks for the next batch if it is time.
func (c *Core) reconcileDue(now time.Time) []Action {
	r := &c.reconcile
	if len(r.left) == 0 || now.Before(r.at) {
		return nil
	}
	if r.next >= len(r.left) {
		r.next = 0
		slices.Sort(r.left)
	}
	batch := r.left[r.next:min(r.next+reconcileBatch, len(r.left))]
	r.next += len(batch)
	refs := make([]TaskRef, 0, len(batch))
	for _, id := range batch {
		refs = append(refs, TaskRef{Task: id, Agent: c.tasks[id].agent})
	}
	r.at = now.Add(time.Second)
	if r.next >= len(r.left) {
		r.at = now.Add(r.pause)
		r.pause = min(2*r.pause, reconcileLast)
	}
	return []Action{Reconcile{Tasks: refs}}
}
