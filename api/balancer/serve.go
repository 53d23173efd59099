package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Serve connects each caller of the listener to a server until ctx ends. Then it closes the listener and all connections, and returns
// when all have ended.
func (b *Balancer) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		near, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("cannot serve as the API server on %s: %w", l.Addr(), err)
		case err != nil: // such as too many open files
			logrus.WithError(err).Warn("cannot accept a connection to the API server")
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		default:
			callers.Go(func() { b.pass(ctx, near) })
		}
	}
}

// pass copies in both directions until either end is closed or ctx ends.
func (b *Balancer) pass(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := b.Dial(ctx, "", "")
	if err != nil {
		logrus.WithError(err).Debug("closing a connection")
		return
	}
	defer far.Close()
	both := func() {
		_ = near.Close()
		_ = far.Close()
	}
	defer context.AfterFunc(ctx, both)()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(near, far) // closed ends are expected
		both()
	})
	_, _ = io.Copy(far, near)
	both()
	back.Wait()
}
