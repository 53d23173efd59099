package gateway

import (
	"context"
	"sync"
)

// places bounds how many do something at once.
type places chan struct{}

// tryTake takes a place if there is one.
func (p places) tryTake() bool {
	select {
	case p <- struct{}{}:
		return true
	default:
		return false
	}
}

// take waits for a place. One that is free is taken even if ctx has ended.
func (p places) take(ctx context.Context) error {
	if p.tryTake() {
		return nil
	}
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p places) giveBack() { <-p }

// shared bounds how many do something at once, and of these gives one caller a quarter at most: one who reads answers slowly keeps
// others from nothing.
type shared struct {
	all places

	mu  sync.Mutex        // guards all below
	own map[string]*quota // by the callers that have or want places
}

type quota struct {
	places
	users int
}

func share(number int) *shared {
	return &shared{all: make(places, number), own: map[string]*quota{}}
}

// take waits for a place for a caller. The caller must call giveBack.
func (s *shared) take(ctx context.Context, caller string) (giveBack func(), err error) {
	own := s.enter(caller)
	if err := own.take(ctx); err != nil {
		s.leave(caller)
		return nil, err
	}
	if err := s.all.take(ctx); err != nil {
		own.giveBack()
		s.leave(caller)
		return nil, err
	}
	return func() {
		s.all.giveBack()
		own.giveBack()
		s.leave(caller)
	}, nil
}

func (s *shared) enter(caller string) *quota {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.own[caller]
	if own == nil {
		own = &quota{places: make(places, max(cap(s.all)/4, 1))}
		s.own[caller] = own
	}
	own.users++
	return own
}

func (s *shared) leave(caller string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.own[caller]
	if own.users--; own.users == 0 {
		delete(s.own, caller)
	}
}
