// Package heldport keeps a TCP port for a server that starts later, or stops and starts again: the local Mesos's master, and servers of
// tests. A port that was only seen to be free is soon another program's on a busy machine.
//
// A socket has the port and does not listen. So connections are refused, and the kernel gives the port to nobody who asks for any port.
// Who asks for this one with SO_REUSEADDR, as Go's listeners do, gets it (https://man7.org/linux/man-pages/man7/socket.7.html).
package heldport

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Port is a port that is held.
type Port struct {
	// Number is from the kernel's range of local ports.
	Number int

	socket int
}

// Hold takes a free port of an IP address. The caller closes it.
func Hold(ip netip.Addr) (*Port, error) {
	family, any := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: ip.As16()})
	if ip.Is4() {
		family, any = unix.AF_INET, &unix.SockaddrInet4{Addr: ip.As4()}
	}
	socket, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot hold a port: %w", err)
	}
	err = errors.Join(unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(socket, any))
	bound, nameErr := unix.Getsockname(socket)
	if err := errors.Join(err, nameErr); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot hold a port of %s: %w", ip, err), unix.Close(socket))
	}
	p := &Port{socket: socket}
	switch bound := bound.(type) {
	case *unix.SockaddrInet4:
		p.Number = bound.Port
	case *unix.SockaddrInet6:
		p.Number = bound.Port
	}
	return p, nil
}

// Close gives the port up. A server that has it keeps it.
func (p *Port) Close() { _ = unix.Close(p.socket) }

// test is a testing.TB. The package testing is not linked into km for it.
type test interface {
	Helper()
	Cleanup(func())
	Fatal(...any)
}

// OfTest holds a port of 127.0.0.1 until the test ends.
func OfTest(t test) (port int) {
	t.Helper()
	p, err := Hold(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p.Number
}
