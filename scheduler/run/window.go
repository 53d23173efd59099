package run

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/k8sm/k8sm/scheduler"
)

// ErrNotLeading is returned while the scheduler is not the leader, because it has no state then.
var ErrNotLeading = errors.New("this scheduler does not lead: ask the one that does")

// Window shows the state of a running scheduler. The loop answers between two events, so each answer is consistent. The caller
// owns the answer. The methods may be called concurrently, and before, during and after Run.
type Window struct {
	leading atomic.Bool
	queries chan func(time.Time, *scheduler.Core)
	// When the loop has last come round, and since when it has no connection to a master, in Unix nanoseconds; 0 for never.
	moved, disconnected atomic.Int64
}

// stuckAfter is how long the loop of a leading scheduler, which ticks once a second, may take for an event.
const stuckAfter = 30 * time.Second

// Alive returns an error if the scheduler leads, but its loop hangs.
func (w *Window) Alive() error {
	if idle := time.Since(time.Unix(0, w.moved.Load())); w.leading.Load() && idle > stuckAfter {
		return fmt.Errorf("the scheduler has handled no event for %s", idle.Round(time.Second))
	}
	return nil
}

// Ready returns an error if the scheduler leads, but cannot schedule: it hangs, or no Mesos master has it as a framework. One that waits for
// the leadership is ready to take it.
func (w *Window) Ready() error {
	if err := w.Alive(); err != nil {
		return err
	}
	if at := w.disconnected.Load(); w.leading.Load() && at != 0 {
		return fmt.Errorf("no Mesos master has answered since %s", time.Unix(0, at).UTC().Format(time.RFC3339))
	}
	return nil
}

// note notes that the loop has handled an event.
func (w *Window) note(now time.Time, ev scheduler.Event) {
	if w == nil {
		return
	}
	w.moved.Store(now.UnixNano())
	switch ev.(type) {
	case scheduler.Subscribed:
		w.disconnected.Store(0)
	case scheduler.Disconnected:
		w.disconnected.CompareAndSwap(0, now.UnixNano())
	}
}

// NewWindow returns a window for Parts.
func NewWindow() *Window { return &Window{queries: make(chan func(time.Time, *scheduler.Core))} }

// Offers returns the offers that the scheduler holds, sorted by host and id. The error is ErrNotLeading, or that of ctx if the
// scheduler does not answer.
func (w *Window) Offers(ctx context.Context) ([]scheduler.LiveOffer, error) {
	return ask(ctx, w, func(c *scheduler.Core, _ time.Time) []scheduler.LiveOffer { return c.LiveOffers() })
}

// OfferHistory returns how offers ended. Errors are as in Offers.
func (w *Window) OfferHistory(ctx context.Context) (scheduler.OfferHistory, error) {
	record, err := ask(ctx, w, (*scheduler.Core).OfferRecord)
	if err != nil {
		return scheduler.OfferHistory{}, err
	}
	return record.History(), nil
}

// Tasks returns the tasks, sorted by pod and id. Errors are as in Offers.
func (w *Window) Tasks(ctx context.Context) ([]scheduler.LiveTask, error) {
	return ask(ctx, w, func(c *scheduler.Core, _ time.Time) []scheduler.LiveTask { return c.LiveTasks() })
}

// Queue returns the waiting pods in order of arrival. Errors are as in Offers.
func (w *Window) Queue(ctx context.Context) ([]scheduler.WaitingPod, error) {
	return ask(ctx, w, (*scheduler.Core).WaitingPods)
}

// Nodes returns the nodes of Mesos agents, sorted by name. Errors are as in Offers.
func (w *Window) Nodes(ctx context.Context) ([]scheduler.LiveNode, error) {
	return ask(ctx, w, (*scheduler.Core).LiveNodes)
}

func ask[T any](ctx context.Context, w *Window, read func(*scheduler.Core, time.Time) T) (T, error) {
	var none T
	if !w.leading.Load() {
		return none, ErrNotLeading
	}
	answer := make(chan T, 1)
	select {
	case w.queries <- func(now time.Time, c *scheduler.Core) { answer <- read(c, now) }:
		return <-answer, nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// open returns the queries for the loop to answer. A nil window has none.
func (w *Window) open() (queries <-chan func(time.Time, *scheduler.Core), closeWindow func()) {
	if w == nil {
		return nil, func() {}
	}
	now := time.Now().UnixNano()
	w.moved.Store(now)
	w.disconnected.Store(now)
	w.leading.Store(true)
	return w.queries, func() { w.leading.Store(false) }
}
