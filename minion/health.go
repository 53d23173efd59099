package minion

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// How a child's health is watched. A child that hangs is found out within half a minute.
const (
	probeEvery    = 5 * time.Second
	probeTimeout  = 5 * time.Second
	probeFailures = 3 // in a row
	// startLimit is how long a child may take to become healthy for the first time. A kubelet waits for its certificate, and
	// a proxy for its node; either does so anew when it is started again.
	startLimit = 5 * time.Minute
)

// health is how a child is watched.
type health struct {
	probe func(context.Context) error // asks once: nil for good
	every time.Duration
}

// watch returns an error as soon as the child hangs, or the one of ctx.
func (h health) watch(ctx context.Context) error {
	began, pause := time.Now(), h.every/5
	var wasHealthy bool
	var failures int
	for {
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		once, cancel := context.WithTimeout(ctx, probeTimeout)
		err := h.probe(once)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			wasHealthy, failures, pause = true, 0, h.every
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

// unhealthy is the answer of a child that does not hang.
type unhealthy struct{ answer string }

func (u unhealthy) Error() string { return u.answer }

// getHealth asks the health endpoint of a stock program on loopback.
func getHealth(ctx context.Context, port int, path string) error {
	url := "http://" + net.JoinHostPort(loopback, strconv.Itoa(port)) + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Close = true // the next child listens there too
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
	return unhealthy{fmt.Sprintf("%s: %s %s", url, response.Status, body)}
}
