package supervise

import (
	"context"
	"fmt"
	"time"
)

// Health checks detect a child that hangs within half a minute.
const (
	// ProbeEvery is the interval of health checks.
	ProbeEvery    = 5 * time.Second
	probeTimeout  = 5 * time.Second
	probeFailures = 3 // in a row
	// startLimit is how long a child may take to become healthy for the first time. A kubelet waits for its certificate, and a proxy
	// for its node; both wait again after a restart.
	startLimit = 5 * time.Minute
)

// Health configures the health checks of a child.
type Health struct {
	Probe func(context.Context) error // checks once; nil means healthy
	Every time.Duration
}

// watch returns an error when the child hangs, or that of ctx.
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
			return fmt.Errorf("not healthy within %s: %w", startLimit, err)
		}
		if failures == probeFailures {
			return fmt.Errorf("failed %d health checks in a row: %w", failures, err)
		}
	}
}
