package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api"
)

// TestEachTaskIsAskedForOnceARoundWhateverIsAnswered: when Mesos answers for some tasks in the middle of a round, the others must
// still be asked for.
func TestEachTaskIsAskedForOnceARoundWhateverIsAnswered(t *testing.T) {
	c := NewCore(testConfig())
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	for i := range 250 {
		id := api.TaskID(fmt.Sprintf("%03d", i))
		c.tasks.byID[id] = &task{id: id}
		c.tasks.reconcile.add(now, id)
	}
	asked := map[api.TaskID]int{}
	for range 3 {
		acts := c.tasks.reconcileDue(now)
		if len(acts) != 1 {
			t.Fatalf("at %s: %v", now, acts)
		}
		for i, ref := range acts[0].(Reconcile).Tasks {
			asked[ref.Task]++
			if i%2 == 0 {
				c.tasks.reconcile.done(ref.Task)
			}
		}
		now = c.tasks.reconcile.at
	}
	for id, times := range asked {
		if times != 1 {
			t.Errorf("task %s was asked for %d times", id, times)
		}
	}
	if len(asked) != 250 || now.Sub(start) < reconcileFirst {
		t.Errorf("%d of 250 tasks were asked for; the next round is %s after the first", len(asked), now.Sub(start))
	}
	if again := c.tasks.reconcileDue(now)[0].(Reconcile).Tasks; len(again) != 100 || again[0].Task != "001" {
		t.Errorf("the next round begins with %v", again)
	}
}
