package controlplane

import (
	"context"
	"errors"
	"time"
)

// server is a part that runs in the background until it is stopped or fails.
type server struct {
	stop  context.CancelFunc
	ended <-chan struct{}
	err   error // valid when ended is closed
	// patience is how long the server may take to stop; 0 for as long as it wants. See abandon.
	patience time.Duration
}

// start runs the function in a goroutine. ctx does not cancel it, because a lower layer must outlive those above it: only stop does.
func start(ctx context.Context, run func(context.Context) error) *server {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	s := &server{stop: stop, ended: done}
	go func() {
		defer close(done)
		s.err = run(own)
	}()
	return s
}

// outlive returns a context that ends when the server has ended, or a grace period after ctx.
func (s *server) outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer cancel()
		select {
		case <-s.ended:
			return
		case <-own.Done():
			return
		case <-ctx.Done():
		}
		select {
		case <-s.ended:
		case <-own.Done():
		case <-time.After(grace):
		}
	}()
	return own, cancel
}

// errEnded is for a part that returns without a request and without an error.
var errEnded = errors.New("a part of the control plane ended by itself")

// failure returns the error of a part that has ended without a request.
func (s *server) failure() error {
	if s.err == nil {
		return errEnded
	}
	return s.err
}

// whileRunning calls body with a context that ends with ctx or s. Then it stops s and waits for it. If s ended first, it returns the
// error of s, because that is why body failed.
func whileRunning(ctx context.Context, s *server, body func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.stop()
	result := make(chan error, 1)
	go func() { result <- body(ctx) }()
	var err error
	select {
	case <-s.ended:
		cancel()
		<-result
		return s.failure()
	case err = <-result:
	}
	select {
	case <-s.ended:
		return s.failure()
	default:
	}
	s.stop()
	if s.abandon() {
		return err
	}
	return errors.Join(err, s.err)
}

// abandon waits until the server has stopped. It reports whether it gave that up, because the server waits for something that may never
// come; it ends with the process then.
func (s *server) abandon() bool {
	var late <-chan time.Time
	if s.patience > 0 {
		late = time.After(s.patience)
	}
	select {
	case <-s.ended:
		return false
	case <-late:
		return true
	}
}
