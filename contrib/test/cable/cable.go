// Package cable is a TCP proxy that a test can cut: to the far end, the near end then looks killed or unplugged. It does not know
// the protocol.
package cable

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// Cable forwards TCP connections until it is cut. Its methods may be called concurrently.
type Cable struct {
	listener net.Listener
	to       string
	copiers  sync.WaitGroup

	mu   sync.Mutex // guards the fields below
	ends []net.Conn
	off  bool
}

// New returns a cable that leads from a free loopback port to HOST:PORT. The caller must Cut it.
func New(to string) (*Cable, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot lay a cable to %s: %w", to, err)
	}
	c := &Cable{listener: l, to: to}
	c.copiers.Go(c.serve)
	return c, nil
}

// Addr returns HOST:PORT of the near end.
func (c *Cable) Addr() string { return c.listener.Addr().String() }

// Cut closes all connections, refuses new ones, and waits until no data passes. A second Cut is no error.
func (c *Cable) Cut() {
	_ = c.listener.Close()
	c.mu.Lock()
	c.off = true
	for _, end := range c.ends {
		_ = end.Close()
	}
	c.mu.Unlock()
	c.copiers.Wait()
}

func (c *Cable) serve() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		c.pass(near, far)
	}
}

// pass copies in both directions until either end is closed.
func (c *Cable) pass(near, far net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		_ = near.Close()
		_ = far.Close()
		return
	}
	c.ends = append(c.ends, near, far)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		c.copiers.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // closed ends are expected
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
}
