package controlplane

import (
	"context"
	"errors"
)

// server is something that runs in the background until it is stopped or fails.
type server struct {
	stop   context.CancelFunc
	failed <-chan struct{} // closed when it has ended
	err    error           // may be read once failed is closed
}

// start runs the function in a goroutine. Its context does not end with ctx, because a lower layer must outlive those
// that stand on it: only stop ends it.
func start(ctx context.Context, run func(context.Context) error) *server {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	s := &server{stop: stop, failed: done}
	go func() {
		defer close(done)
		s.err = run(own)
	}()
	return s
}

// errEnded is for a server that ends without being told to and without saying why.
var errEnded = errors.New("a part of the control plane ended by itself")

// whileRunning calls body, with a context that ends when ctx does or when s does. Then it stops s and waits for it. The
// error is that of s if s ended first, else that of body, joined with what s says when it is stopped.
func whileRunning(ctx context.Context, s *server, body func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- body(ctx) }()
	select {
	case <-s.failed:
		cancel()
		<-result
		s.stop()
		if s.err == nil {
			return errEnded
		}
		return s.err
	case err := <-result:
		s.stop()
		<-s.failed
		return errors.Join(err, s.err)
	}
}
