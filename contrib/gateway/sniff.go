package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// handshake is the first byte of a TLS connection (https://www.rfc-editor.org/rfc/rfc8446#section-5.1). No method of HTTP begins
// with it.
const handshake = 0x16

// sniffer is a listener of HTTP and of TLS on one port. A connection's first byte says which it is. Each connection has a goroutine
// until that byte has come, so that a silent one keeps no other waiting; the listener below bounds how many there are.
type sniffer struct {
	net.Listener
	config  *tls.Config
	patient time.Duration // how long a client may take for its first byte

	ready  chan net.Conn
	failed chan error // errors of the listener below
	ctx    context.Context
	cancel context.CancelFunc
	joined sync.WaitGroup
}

func sniff(l net.Listener, config *tls.Config, patient time.Duration) *sniffer {
	s := &sniffer{Listener: l, config: config, patient: patient, ready: make(chan net.Conn), failed: make(chan error)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.joined.Go(s.run)
	return s
}

// run accepts connections. After an error it waits until the server, which decides how long to pause, asks for the next one.
func (s *sniffer) run() {
	for {
		conn, err := s.Listener.Accept()
		if err == nil {
			s.joined.Go(func() { s.look(conn) })
			continue
		}
		select {
		case s.failed <- err:
		case <-s.ctx.Done():
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// look waits for the connection's first byte, and passes it on as what it is.
func (s *sniffer) look(conn net.Conn) {
	looked := &peeked{Conn: conn, first: make([]byte, 1)}
	letGo := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	err := conn.SetReadDeadline(time.Now().Add(s.patient))
	if err == nil {
		_, err = conn.Read(looked.first)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if !letGo() || err != nil {
		_ = conn.Close() // the client has gone, or says nothing
		return
	}
	conn = looked
	if looked.first[0] == handshake {
		conn = tls.Server(looked, s.config)
	}
	select {
	case s.ready <- conn:
	case <-s.ctx.Done():
		_ = looked.Close() // nobody serves it
	}
}

// Accept implements net.Listener. A connection of TLS is a *tls.Conn.
func (s *sniffer) Accept() (net.Conn, error) {
	select {
	case conn := <-s.ready:
		return conn, nil
	case err := <-s.failed:
		return nil, err
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It closes the connections that Accept has not returned, too, and returns when all is joined.
func (s *sniffer) Close() error {
	s.cancel()
	err := s.Listener.Close()
	s.joined.Wait()
	return err
}

// peeked is a connection whose first byte has been read.
type peeked struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) > 0 && len(b) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
