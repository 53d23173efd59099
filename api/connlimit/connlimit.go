// Package connlimit bounds what clients may take of a listener before they have said who they are: connections in all and of each
// client. It knows no protocol. Start reading at Listener.
package connlimit

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/netutil"
)

// Listener returns a listener that has at most total connections open, and at most perClient with one IP address. Further
// connections wait in the kernel's queue until others have ended; those of a client that has its share are closed at once. So one
// client can't take all connections.
func Listener(l net.Listener, total, perClient int) net.Listener {
	return netutil.LimitListener(&shares{Listener: l, most: perClient, open: map[netip.Addr]int{}}, total)
}

// shares closes the connections of clients that have too many.
type shares struct {
	net.Listener
	most int

	mu   sync.Mutex // guards open
	open map[netip.Addr]int
}

// Accept implements net.Listener.
func (s *shares) Accept() (net.Conn, error) {
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := clientOf(conn)
		if s.take(client) {
			return &share{Conn: conn, giveBack: sync.OnceFunc(func() { s.giveBack(client) })}, nil
		}
		_ = conn.Close() // nothing was promised
	}
}

func (s *shares) take(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[client] >= s.most {
		return false
	}
	s.open[client]++
	return true
}

func (s *shares) giveBack(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[client]--; s.open[client] == 0 {
		delete(s.open, client)
	}
}

// clientOf returns the address that a connection counts for. Those without one, as of Unix sockets, count together.
func clientOf(conn net.Conn) netip.Addr {
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return from.Addr().Unmap()
}

// share is a connection that counts until it is closed.
type share struct {
	net.Conn
	giveBack func()
}

// Close implements net.Conn.
func (s *share) Close() error {
	defer s.giveBack()
	return s.Conn.Close()
}
