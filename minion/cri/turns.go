package cri

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// startPatience is after how long a start does not count any more: a volume that hangs must not keep all other pods from starting.
const startPatience = 10 * time.Second

// turns bounds how many containers the Engine starts at the same time. More do not start sooner, they only all end late: each start has
// its part of the processors. A container comes before a sandbox: then its pod runs, and makes room for another.
type turns struct {
	mu      sync.Mutex // guards the fields below
	free    int
	waiting [2][]chan struct{} // containers, sandboxes; a channel is closed when its turn comes
}

// newTurns returns as many as keep the processors busy: a start also waits for disks and for other programs.
func newTurns() *turns { return &turns{free: max(4, 2*runtime.NumCPU())} }

// take waits for a turn to start something of this kind. The caller ends it by release.
func (t *turns) take(ctx context.Context, kind string) (release func(), err error) {
	class := 0
	if kind == kindSandbox {
		class = 1
	}
	if turn := t.queue(class); turn != nil {
		select {
		case <-turn:
		case <-ctx.Done():
			t.leave(class, turn)
			return nil, ctx.Err()
		}
	}
	var once sync.Once
	give := func() { once.Do(t.give) }
	late := time.AfterFunc(startPatience, give)
	return func() { late.Stop(); give() }, nil
}

// queue returns nil if the turn is there.
func (t *turns) queue(class int) (turn chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free > 0 {
		t.free--
		return nil
	}
	turn = make(chan struct{})
	t.waiting[class] = append(t.waiting[class], turn)
	return turn
}

// leave gives up waiting, and gives the turn back if it has come meanwhile.
func (t *turns) leave(class int, turn chan struct{}) {
	t.mu.Lock()
	at := slices.Index(t.waiting[class], turn)
	if at >= 0 {
		t.waiting[class] = slices.Delete(t.waiting[class], at, at+1)
	}
	t.mu.Unlock()
	if at < 0 {
		t.give()
	}
}

// give ends a turn.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for class, waiting := range t.waiting {
		if len(waiting) > 0 {
			t.waiting[class] = waiting[1:]
			close(waiting[0])
			return
		}
	}
	t.free++
}
