package machines

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Forward forwards connections from a TCP address on the machine to one of this machine, such as a listener on loopback. It returns
// when it listens; wait returns when ctx has ended and all connections are closed.
func (m *Machine) Forward(ctx context.Context, there, here string) (wait func(), err error) {
	var listener net.Listener
	err = m.Enter(func() (err error) {
		listener, err = net.Listen("tcp", there)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s of node %s: %w", there, m.Name, err)
	}
	var connections sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	connections.Go(func() {
		defer stop()
		for {
			connection, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			connections.Go(func() { join(ctx, connection, here) })
		}
	})
	return connections.Wait, nil
}

// join copies between the connection and the address until both sides have closed or ctx ends.
func join(ctx context.Context, from net.Conn, address string) {
	defer from.Close()
	to, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return // as if nobody listened
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { from.Close(); to.Close() })()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // what has failed on one side the other learns by its end
			if half, ok := way[1].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		})
	}
	both.Wait()
}
