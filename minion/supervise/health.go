package supervise

import (
	"context"
	"fmt"
	"time"
)

// How a child's health is watched. A child that hangs is found out within half a minute.
const (
	// ProbeEvery is how often it is asked.
	ProbeEvery    = 5 * time.Second
	probeTimeout  = 5 * time.Second
	probeFailures = 3 // in a row
	// startLimit is how long a child may take to become healthy for the first time. A kubelet waits for its certificate, and
	// a proxy for its node; either does so anew when it is started again.
	startLimit = 5 * time.Minute
)

// Health is how a child is watched.
type Health struct {
	Probe func(context.Context) error // asks once: nil for good
	Every time.Duration
}

// watch returns an error as soon as the child hangs, or the one of ctx.
func (h Health) watch(ctx context.Context) error {
	began, pause := time.Now(), h.Every/5
	var wasHealthy bool
	var failures int
	for {
		if err := Sleep(ctx, pause); err != nil {
			return err
		}
		once, cancel := context.WithTimeout(ctx, probeTimeout)
		err := h.Probe(once)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			wasHealthy, failures, pause = true, 0, h.Every
		case wasHealthy:
			failures++
		case time.Since(began) > startLimit:
			return fmt.Errorf("it has not become healthy within %s: %w", startLimit, err)
		}
		if failures == probeFailures {
			return fmt.Errorf("it has failed %d health checks in a row: %w", failures, err)
		}
	}
}
