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
	// Detect calls tell with the URLs of masters' scheduler APIs, each of which redirects to the leading one, and again whenever
	// they change. While it finds no master, it calls tell without URLs and with the reason. It blocks until ctx ends.
	Detect(ctx context.Context, tell func(urls []string, why error))
}

// list is a Detector for masters that never change.
type list []string

// Detect implements Detector.
func (l list) Detect(ctx context.Context, tell func([]string, error)) {
	tell(l, nil)
	<-ctx.Done()
}

// candidates are the masters to try, from a Detector. They stay candidates while the Detector finds none: a master that does not
// lead any more says so, and an outage of ZooKeeper alone changes nothing.
type candidates struct {
	mu      sync.Mutex // guards what follows
	urls    []string
	why     error         // why none is found now; nil if one is
	changed chan struct{} // is closed when urls changes
}

func newCandidates() *candidates {
	return &candidates{why: errors.New("the search for a master has just begun"), changed: make(chan struct{})}
}

func (c *candidates) tell(urls []string, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why != nil && (c.why == nil || c.why.Error() != why.Error()) { // once, not at each attempt
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

// all returns the URLs of all candidates.
func (c *candidates) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.urls
}

// pick returns the master for an attempt; "" if there is none. why is the reason if no master is found now. changed is closed when
// the candidates change.
func (c *candidates) pick(attempt int) (master string, changed <-chan struct{}, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.urls) > 0 {
		master = c.urls[attempt%len(c.urls)]
	}
	return master, c.changed, c.why
}
