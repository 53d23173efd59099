// Package pipenet is a network in memory, for tests in a bubble of testing/synctest: there, time passes only while all wait, and
// sockets of the kernel would not count as waiting. Start reading at Listener.
package pipenet

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listener accepts connections of Dial. Its methods may be called concurrently.
type Listener struct {
	arriving chan net.Conn
	closed   chan struct{}
	close    func()
}

// New returns a listener without connections. The caller closes it.
func New() *Listener {
	l := &Listener{arriving: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

// Dial connects from an IP address. It waits for Accept. A connection has no buffer: each side waits until the other reads.
func (l *Listener) Dial(from string) (net.Conn, error) {
	near, far := net.Pipe()
	address := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 1))
	select {
	case l.arriving <- conn{far, address}:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Trickle connects, sends the beginning of a request, and then a byte a second. It returns how long the server bears that, an hour at
// most. Call it in a bubble.
func (l *Listener) Trickle(beginning string) (time.Duration, error) {
	conn, err := l.Dial("192.0.2.1")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }() // until it is closed
	began := time.Now()
	_, err = io.WriteString(conn, beginning)
	for err == nil && time.Since(began) < time.Hour {
		time.Sleep(time.Second)
		_, err = conn.Write([]byte("x"))
	}
	return time.Since(began), nil
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.arriving:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error { l.close(); return nil }

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// conn has the address of its client.
type conn struct {
	net.Conn
	from net.Addr
}

// RemoteAddr implements net.Conn.
func (c conn) RemoteAddr() net.Addr { return c.from }
