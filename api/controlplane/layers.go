package controlplane

import (
	"context"
	"errors"
	"time"
)

// server is something that runs in the background until it is stopped or fails.
type server struct {
	stop  context.CancelFunc
	ended <-chan struct{}
	err   error // may be read once ended is closed
}

// start runs the function in a goroutine. Its context does not end with ctx, because a lower layer must outlive those
// that stand on it: only stop ends it.
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

// outlive returns a context that ends when the server has ended, or when ctx has and the grace is over.
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

// errEnded is for a server that ends without being told to and without saying why.
var errEnded = errors.New("a part of the control plane ended by itself")

// failure is the error of a server that has ended without being told to.
func (s *server) failure() error {
	if s.err == nil {
		return errEnded
	}
	return s.err
}

// whileRunning calls body, with a context that ends when ctx does or when s does. Then it stops s and waits for it. If s
// ended first its error is the one that counts, because what stands on it fails with it.
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
	<-s.ended
	return errors.Join(err, s.err)
}
