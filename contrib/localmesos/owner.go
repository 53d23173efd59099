package localmesos

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// machine is a state machine as its owner sees it.
type machine interface {
	step(now time.Time, e event) []action
	wake() time.Time
}

// owner is the one goroutine that owns a state machine: it takes events from an inbox and performs the actions.
type owner struct {
	machine machine
	perform func(action)
	inbox   mailbox[envelope]
	batch   []envelope    // taken from the inbox; only the owner uses it
	quit    chan struct{} // closed to end run
	done    chan struct{} // closed when run has returned
	ending  sync.Once
}

// envelope is an event, or a look at the machine, and where the answer goes.
type envelope struct {
	event  event
	look   func()
	answer chan answer // has room for one; nil where no one waits
}

func newOwner(m machine, perform func(action)) *owner {
	return &owner{machine: m, perform: perform, inbox: newMailbox[envelope](), quit: make(chan struct{}), done: make(chan struct{})}
}

// run steps the machine until end is called.
func (o *owner) run() {
	defer close(o.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if at := o.machine.wake(); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-o.quit:
			return
		case <-timer.C:
			o.take(envelope{event: tick{}})
		case <-o.inbox.ready:
			for o.batch = o.inbox.take(); len(o.batch) > 0; {
				e := o.batch[0]
				o.batch = o.batch[1:]
				o.take(e)
			}
		}
	}
}

func (o *owner) take(e envelope) {
	if e.look != nil {
		e.look()
		e.answer <- answer{}
		return
	}
	for _, x := range o.machine.step(time.Now(), e.event) {
		if a, ok := x.(answer); ok {
			if e.answer != nil {
				e.answer <- a
			}
			continue
		}
		o.perform(x)
	}
}

// end ends run without waiting for it: the owner itself may call it.
func (o *owner) end() { o.ending.Do(func() { close(o.quit) }) }

// post leaves an event for the machine. It never blocks.
func (o *owner) post(e event) { o.inbox.put(envelope{event: e}) }

// ask takes an event to the machine and waits for its answer.
func (o *owner) ask(e event) answer { return o.wait(envelope{event: e, answer: make(chan answer, 1)}) }

// look runs f in the owner's goroutine, where it may read the machine; false means that the owner has ended.
func (o *owner) look(f func()) bool {
	return o.wait(envelope{look: f, answer: make(chan answer, 1)}).status == 0
}

// see returns what f sees of the machine in the owner's goroutine; ok is false if the owner has ended, or does not come to it in time.
func see[T any](ctx context.Context, o *owner, f func() T) (seen T, ok bool) {
	result := make(chan T, 1)
	o.inbox.put(envelope{look: func() { result <- f() }, answer: make(chan answer, 1)})
	select {
	case seen := <-result:
		return seen, true
	case <-ctx.Done():
	case <-o.done:
	}
	return seen, false
}

// queue counts what waits for the machine: messages of the other machines, requests, and anything else. Only look and see may call it.
func (o *owner) queue() (messages, requests, others int) {
	for _, e := range slices.Concat(o.batch, o.inbox.peek()) {
		_, ofAgent := e.event.(fromAgent)
		switch {
		case ofAgent:
			messages++
		case e.answer != nil:
			requests++
		default:
			others++
		}
	}
	return messages, requests, others
}

func (o *owner) wait(e envelope) answer {
	o.inbox.put(e)
	select {
	case a := <-e.answer:
		return a
	case <-o.done:
		return answer{status: http.StatusServiceUnavailable, text: "it has ended"}
	}
}

// mailbox is a queue without bound that never blocks its writers: master and agents write to each other, and must not
// wait for each other.
type mailbox[T any] struct {
	box   *mailboxState[T]
	ready <-chan struct{} // gets a value when there may be something to take
}

type mailboxState[T any] struct {
	mu    sync.Mutex // guards items
	items []T
	ready chan struct{}
}

func newMailbox[T any]() mailbox[T] {
	ready := make(chan struct{}, 1)
	return mailbox[T]{box: &mailboxState[T]{ready: ready}, ready: ready}
}

// put adds an item, and returns how many wait.
func (m mailbox[T]) put(item T) int {
	m.box.mu.Lock()
	m.box.items = append(m.box.items, item)
	waiting := len(m.box.items)
	m.box.mu.Unlock()
	select {
	case m.box.ready <- struct{}{}:
	default:
	}
	return waiting
}

// peek returns what take would return.
func (m mailbox[T]) peek() []T {
	m.box.mu.Lock()
	defer m.box.mu.Unlock()
	return slices.Clone(m.box.items)
}

// take returns all that came since the last take.
func (m mailbox[T]) take() []T {
	m.box.mu.Lock()
	defer m.box.mu.Unlock()
	items := m.box.items
	m.box.items = nil
	return items
}
