package mesos

import (
	"context"
	"errors"
	"slices"
	"sync"

	log "github.com/sirupsen/logrus"
)

// Detector finds the masters.
type Detector interface {
	// Detect tells the URLs of masters' scheduler APIs, any of which leads to the leading one, and again whenever they
	// have changed; none, and why, while no master can be found. It blocks until ctx ends.
	Detect(ctx context.Context, tell func(urls []string, why error))
}

// list is a Detector for masters that never change.
type list []string

// Detect implements Detector.
func (l list) Detect(ctx context.Context, tell func([]string, error)) {
	tell(l, nil)
	<-ctx.Done()
}

// candidates are the masters to try, as a Detector last told. Masters stay candidates when none can be found any more:
// if they lead no longer they will say so, and if only what the Detector asks is out of order, nothing need change.
type candidates struct {
	mu      sync.Mutex // guards what follows
	urls    []string
	why     error         // none can be found now
	changed chan struct{} // is closed when the urls are others
}

func newCandidates() *candidates {
	return &candidates{why: errors.New("the search for them has just begun"), changed: make(chan struct{})}
}

func (c *candidates) tell(urls []string, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why != nil && (c.why == nil || c.why.Error() != why.Error()) { // once, not with each attempt
		log.WithError(why).Warn("waiting for a Mesos master to be found")
	}
	c.why = why
	if len(urls) == 0 || slices.Equal(urls, c.urls) {
		return
	}
	c.urls = urls
	close(c.changed)
	c.changed = make(chan struct{})
}

// pick returns the master to try at an attempt, "" if there is none, and why none can be found if that is so; changed is
// closed when there are others.
func (c *candidates) pick(attempt int) (master string, changed <-chan struct{}, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.urls) > 0 {
		master = c.urls[attempt%len(c.urls)]
	}
	return master, c.changed, c.why
}
