package scheduler

import (
	"maps"
	"slices"
	"time"

	"github.com/k8sm/k8sm/api"
)

const (
	reconcileBatch = 100
	reconcileFirst = 2 * time.Second
	reconcileLast  = time.Minute
)

// reconciliation is the explicit reconciliation of tasks, in batches and with growing pauses, until Mesos has sent an update
// of each (https://mesos.apache.org/documentation/latest/reconciliation/#algorithm).
type reconciliation struct {
	wanted map[api.TaskID]struct{} // without an update yet
	round  []api.TaskID            // still to ask for before the next pause; some may not be wanted any more
	at     time.Time               // when to send the next batch
	pause  time.Duration
}

// add schedules the reconciliation of a task.
func (r *reconciliation) add(now time.Time, id api.TaskID) {
	if _, asked := r.wanted[id]; asked {
		return
	}
	if r.wanted == nil {
		r.wanted = map[api.TaskID]struct{}{}
	}
	r.wanted[id] = struct{}{}
	r.round = append(r.round, id)
	r.at, r.pause = now, reconcileFirst
}

// done ends the reconciliation of a task.
func (r *reconciliation) done(id api.TaskID) { delete(r.wanted, id) }

// batch removes the next batch from the round and returns it.
func (r *reconciliation) batch() []api.TaskID {
	var batch []api.TaskID
	for len(r.round) > 0 && len(batch) < reconcileBatch {
		if _, wanted := r.wanted[r.round[0]]; wanted {
			batch = append(batch, r.round[0])
		}
		r.round = r.round[1:]
	}
	return batch
}

// reconcileDue sends the next batch if it is due.
func (ts *tasks) reconcileDue(now time.Time) []Action {
	r := &ts.reconcile
	if len(r.wanted) == 0 || now.Before(r.at) {
		return nil
	}
	batch := r.batch()
	if len(batch) == 0 {
		r.round = slices.Sorted(maps.Keys(r.wanted))
		batch = r.batch()
	}
	refs := make([]TaskRef, 0, len(batch))
	for _, id := range batch {
		refs = append(refs, TaskRef{Task: id, Agent: ts.byID[id].agent})
	}
	r.at = now.Add(time.Second)
	if len(r.round) == 0 {
		r.at = now.Add(r.pause)
		r.pause = min(2*r.pause, reconcileLast)
	}
	return []Action{Reconcile{Tasks: refs}}
}
