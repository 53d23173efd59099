package heldport

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestHeldPortRefusesConnectionsUnlessItsServerRuns(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			p, err := Hold(netip.MustParseAddr(ip))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			address := net.JoinHostPort(ip, strconv.Itoa(p.Number))
			for range 3 {
				if conn, err := net.Dial("tcp", address); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("nobody listens, and dialing gives %v, %v", conn, err)
				}
				l, err := net.Listen("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(l.Close(), conn.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestHeldPortIsGivenToNobodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network needs root")
	}
	inNetworkOfOnePort(t)
	held := OfTest(t)
	for _, address := range []string{"127.0.0.1:0", ":0"} {
		if l, err := net.Listen("tcp4", address); err == nil {
			t.Errorf("who listens on %s gets %s, and %d is held", address, l.Addr(), held)
			_ = l.Close()
		}
	}
	server, err := net.Listen("tcp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if conn, err := net.Dial("tcp", "127.0.0.1:9"); err == nil {
		t.Errorf("who connects gets %s, and %d is held", conn.LocalAddr(), held)
		_ = conn.Close()
	}
}

// inNetworkOfOnePort gives the test's goroutine a network of its own, whose kernel gives out one port only.
func inNetworkOfOnePort(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	namespace, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = namespace.Close() })
	lo, err := netlink.LinkByName("lo")
	if err := errors.Join(err, netlink.LinkSetUp(lo), os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40000"), 0)); err != nil {
		t.Fatal(err)
	}
}
