package run

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/k8sm/k8sm/scheduler"
)

// ErrNotLeading is the error of a scheduler that waits for the leadership: it has nothing to show.
var ErrNotLeading = errors.New("this scheduler does not lead: ask the one that does")

// Window shows the core of a running scheduler. The owner loop answers between two events, so an answer is of one moment. The
// caller owns it. The methods may be called concurrently, and before, during and after Run.
type Window struct {
	leading   atomic.Bool
	questions chan func(time.Time, *scheduler.Core)
}

// NewWindow returns a window for Parts.
func NewWindow() *Window { return &Window{questions: make(chan func(time.Time, *scheduler.Core))} }

// Offers returns the offers that are held, by host and id. The error is ErrNotLeading, or that of ctx if the scheduler
// stopped meanwhile.
func (w *Window) Offers(ctx context.Context) ([]scheduler.LiveOffer, error) {
	return look(ctx, w, func(c *scheduler.Core, _ time.Time) []scheduler.LiveOffer { return c.LiveOffers() })
}

// Tasks returns the tasks, by pod and id; errors are as those of Offers.
func (w *Window) Tasks(ctx context.Context) ([]scheduler.LiveTask, error) {
	return look(ctx, w, func(c *scheduler.Core, _ time.Time) []scheduler.LiveTask { return c.LiveTasks() })
}

// Queue returns the pods that wait, first come first; errors are as those of Offers.
func (w *Window) Queue(ctx context.Context) ([]scheduler.WaitingPod, error) {
	return look(ctx, w, (*scheduler.Core).WaitingPods)
}

// Nodes returns the nodes that stand for agents, by name; errors are as those of Offers.
func (w *Window) Nodes(ctx context.Context) ([]scheduler.LiveNode, error) {
	return look(ctx, w, (*scheduler.Core).LiveNodes)
}

func look[T any](ctx context.Context, w *Window, see func(*scheduler.Core, time.Time) T) (T, error) {
	var none T
	if !w.leading.Load() {
		return none, ErrNotLeading
	}
	seen := make(chan T, 1)
	select {
	case w.questions <- func(now time.Time, c *scheduler.Core) { seen <- see(c, now) }:
		return <-seen, nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// open returns the owner loop's side of the window. A nil window never asks.
func (w *Window) open() (questions <-chan func(time.Time, *scheduler.Core), shut func()) {
	if w == nil {
		return nil, func() {}
	}
	w.leading.Store(true)
	return w.questions, func() { w.leading.Store(false) }
}
