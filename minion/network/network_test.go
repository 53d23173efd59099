package network

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The ranges are no one else's: 198.18.0.0/15 is for tests (RFC 2544).
const testRange = "198.18.1.0/24"

// newTestNetwork is a network that is not set up, on a machine that is a network namespace of the test's own.
func newTestNetwork(t *testing.T) *Network {
	t.Helper()
	inNamespace(t)
	n, err := New(Config{Cluster: "test", Node: "agent-1", ClusterCIDR: "198.18.0.0/16", Dir: filepath.Join(t.TempDir(), "network")})
	must(t, err)
	return n
}

// restarted is the network of a process after this one.
func restarted(t *testing.T, n *Network) *Network {
	t.Helper()
	for _, held := range n.held {
		must(t, closeAll(held))
	}
	next, err := New(n.cfg)
	must(t, err)
	return next
}

// pod is a namespace like a sandbox's: nothing is in it but its loopback.
type pod struct {
	Sandbox
	namespace netns.NsHandle
}

func newPod(t *testing.T, id string, ports ...Port) pod {
	t.Helper()
	machine, err := netns.Get()
	must(t, err)
	defer machine.Close()
	namespace, err := netns.New()
	must(t, err)
	must(t, netns.Set(machine))
	t.Cleanup(func() { namespace.Close() })
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), namespace)
	p := pod{Sandbox{ID: id, Pod: "default/" + id, Namespace: path, Ports: ports}, namespace}
	p.do(t, func() {
		loopback, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.LinkSetUp(loopback))
	})
	return p
}

// do calls a function in the pod. It must not start goroutines that use the network.
func (p pod) do(t *testing.T, call func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	machine, err := netns.Get()
	must(t, err)
	defer machine.Close()
	must(t, netns.Set(p.namespace))
	defer func() { must(t, netns.Set(machine)) }()
	call()
}

// serve listens in the pod, tells each caller who it takes it for, and ends with the test.
func (p pod) serve(t *testing.T, port string) {
	t.Helper()
	var listener net.Listener
	p.do(t, func() {
		var err error
		listener, err = net.Listen("tcp", ":"+port)
		must(t, err)
	})
	answer(t, listener)
}

func answer(t *testing.T, listener net.Listener) {
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			host := netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr()
			_, _ = io.WriteString(conn, host.Unmap().String())
			conn.Close()
		}
	}()
}

// call returns what the server at the address says, or why there is none. It dials on this thread.
func call(address string) (string, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", err
	}
	var there unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		there = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(int(familyOf(to.Addr())), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(2 * time.Second)
	if err := unix.Connect(fd, there); err != nil && err != unix.EINPROGRESS {
		return "", err
	}
	if err := await(fd, unix.POLLOUT, deadline); err != nil {
		return "", err
	}
	if failure, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || failure != 0 {
		return "", cmp.Or[error](err, syscall.Errno(failure))
	}
	if err := await(fd, unix.POLLIN, deadline); err != nil {
		return "", err
	}
	answer := make([]byte, 64)
	n, err := unix.Read(fd, answer)
	return string(answer[:max(n, 0)]), err
}

// await waits until the socket is ready. Signals of the runtime interrupt it.
func await(fd int, event int16, deadline time.Time) error {
	for left := time.Until(deadline); left > 0; left = time.Until(deadline) {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: event}}, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return err
		}
		if ready > 0 {
			return nil
		}
	}
	return unix.ETIMEDOUT
}

func attach(t *testing.T, n *Network, p pod) string {
	t.Helper()
	addresses, err := n.Attach(t.Context(), p.Sandbox)
	must(t, err)
	if len(addresses) != 1 || !netip.MustParsePrefix(testRange).Contains(addresses[0]) {
		t.Fatalf("the pod was given %v", addresses)
	}
	return addresses[0].String()
}

func expect(t *testing.T, address, want string) {
	t.Helper()
	if got, err := call(address); got != want || err != nil {
		t.Errorf("calling %s: %q %v, want %q", address, got, err, want)
	}
}

func TestPodsReachEachOtherAndTheMachineByTheirOwnAddresses(t *testing.T) {
	n := newTestNetwork(t)
	if err := n.Ready(); err == nil {
		t.Error("the network is ready before it was set up")
	}
	if _, err := n.Attach(t.Context(), Sandbox{ID: "early"}); err == nil {
		t.Error("a sandbox was attached before the network was set up")
	}
	must(t, n.Adopt()) // there is nothing to adopt
	must(t, n.Setup([]string{testRange}))
	one, two := newPod(t, "one"), newPod(t, "two")
	oneIP, twoIP := attach(t, n, one), attach(t, n, two)
	if again := attach(t, n, one); again != oneIP || oneIP == twoIP {
		t.Errorf("pods have %s, again %s, and %s", oneIP, again, twoIP)
	}
	one.serve(t, "80")
	two.do(t, func() { expect(t, oneIP+":80", twoIP) })
	expect(t, oneIP+":80", "198.18.1.1")
	one.do(t, func() { expect(t, oneIP+":80", oneIP) })
	two.do(t, func() {
		if _, err := call("198.18.7.7:80"); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("an address that no pod has: %v", err)
		}
	})
}

func TestHostPortLeadsToThePodFromEverywhere(t *testing.T) {
	n := newTestNetwork(t)
	must(t, n.Setup([]string{testRange}))
	web := newPod(t, "web", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}, Port{Protocol: "UDP", HostPort: 8080, ContainerPort: 80},
		Port{Protocol: "TCP", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8081, ContainerPort: 80})
	other := newPod(t, "other")
	attach(t, n, web)
	otherIP := attach(t, n, other)
	web.serve(t, "80")
	for when, again := range map[string]func(){
		"first":           func() {},
		"after a restart": func() { n = restarted(t, n); must(t, n.Adopt()) },
	} {
		again()
		for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:8081", "198.18.1.1:8080"} {
			if _, err := call(address); err != nil {
				t.Errorf("%s: %s from the machine: %v", when, address, err)
			}
		}
		other.do(t, func() { expect(t, "198.18.1.1:8080", otherIP) })
		web.do(t, func() { expect(t, "198.18.1.1:8080", "198.18.1.1") }) // as from the machine: its own address it would not answer
		if _, err := net.Listen("tcp4", "127.0.0.1:8080"); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: a program of the machine gets the host port: %v", when, err)
		}
	}
	rival := newPod(t, "rival", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 81})
	if _, err := n.Attach(t.Context(), rival.Sandbox); err == nil || !strings.Contains(err.Error(), "cannot publish host port 8080/TCP") {
		t.Errorf("a port that another pod has: %v", err)
	}
	must(t, n.Detach(t.Context(), "web"))
	if _, err := call("127.0.0.1:8080"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after the pod has gone: %v", err)
	}
	attach(t, n, rival)
}

func TestPodCannotTalkToTheMachinesLoopback(t *testing.T) {
	n := newTestNetwork(t)
	must(t, n.Setup([]string{testRange}))
	p := newPod(t, "sneaky", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}) // its device lets 127.0.0.0/8 through
	attach(t, n, p)
	secret, err := net.Listen("tcp4", "127.0.0.1:9999")
	must(t, err)
	answer(t, secret)
	p.do(t, func() {
		// It needs its own loopback out of the way, which takes CAP_NET_ADMIN in the pod.
		loopback, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.AddrDel(loopback, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(8, 32)}}))
		must(t, os.WriteFile(sysctls+"/ipv4/conf/eth0/route_localnet", []byte("1"), 0))
		device, err := netlink.LinkByName(podDevice)
		must(t, err)
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: device.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
			Gw: net.IPv4(198, 18, 1, 1)}))
		if got, err := call("127.0.0.1:9999"); !errors.Is(err, unix.ETIMEDOUT) { // no answer in time
			t.Errorf("a pod reaches the machine's loopback: %q %v", got, err)
		}
	})
}

func TestPodCannotSendByAnAddressThatIsNotItsOwn(t *testing.T) {
	inNamespace(t)
	n, err := New(Config{Cluster: "test", Node: "agent-1", ClusterCIDR: "198.18.0.0/16,fd00:7::/48", Dir: filepath.Join(t.TempDir(), "network")})
	must(t, err)
	must(t, n.Setup([]string{testRange, "fd00:7:0:1::/64"}))
	liar, target := newPod(t, "liar"), newPod(t, "target")
	own, err := n.Attach(t.Context(), liar.Sandbox)
	must(t, err)
	at, err := n.Attach(t.Context(), target.Sandbox)
	must(t, err)
	for i, another := range []string{"198.18.1.77", "fd00:7:0:1::77"} {
		var heard net.PacketConn
		target.do(t, func() {
			heard, err = net.ListenPacket("udp", net.JoinHostPort(at[i].String(), "53"))
			must(t, err)
		})
		defer heard.Close()
		liar.do(t, func() {
			device, err := netlink.LinkByName(podDevice)
			must(t, err)
			must(t, netlink.AddrAdd(device, deviceAddress(netip.MustParseAddr(another))))
			for _, from := range []string{another, own[i].String()} { // in this order
				source, err := net.ListenPacket("udp", net.JoinHostPort(from, "0"))
				must(t, err)
				_, err = source.WriteTo([]byte(from), &net.UDPAddr{IP: at[i].AsSlice(), Port: 53})
				must(t, errors.Join(err, source.Close()))
			}
		})
		must(t, heard.SetReadDeadline(time.Now().Add(5*time.Second)))
		text := make([]byte, 64)
		got, _, err := heard.ReadFrom(text)
		if first := string(text[:got]); err != nil || first != own[i].String() {
			t.Errorf("the first to arrive is from %q: %v", first, err)
		}
	}
	must(t, n.Teardown())
}

func TestWhatEndedUnseenIsTakenBack(t *testing.T) {
	n := newTestNetwork(t)
	must(t, n.Setup([]string{testRange}))
	stays, goes := newPod(t, "stays"), newPod(t, "goes", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80})
	address := attach(t, n, stays)
	attach(t, n, goes)
	n = restarted(t, n)
	if got := n.Addresses("stays"); len(got) != 1 || got[0].String() != address {
		t.Errorf("the next process takes the pod's address for %v, not %s", got, address)
	}
	must(t, n.Keep(t.Context(), []string{"stays", "unknown"}))
	if left := n.Addresses("goes"); left != nil {
		t.Errorf("the sandbox that is gone still has %v", left)
	}
	must(t, n.Adopt())
	if err := n.Setup([]string{"198.18.2.0/24"}); err == nil || !strings.Contains(err.Error(), "default/stays still has "+address) {
		t.Errorf("the range changes under a pod: %v", err)
	}
	must(t, n.Detach(t.Context(), "stays"))
	must(t, n.Detach(t.Context(), "stays"))
	must(t, n.Setup([]string{"198.18.2.0/24"}))
}

func TestSandboxThatCannotBeAttachedLeavesNothing(t *testing.T) {
	n := newTestNetwork(t)
	must(t, n.Setup([]string{testRange}))
	before := state(t)
	if _, err := n.Attach(t.Context(), Sandbox{ID: "ghost", Namespace: "/proc/0/ns/net", Ports: []Port{{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}}}); err == nil {
		t.Fatal("a sandbox without a namespace was attached")
	}
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if files, err := filepath.Glob(filepath.Join(n.cfg.Dir, "*"+endpointSuffix)); len(files) > 0 || err != nil {
		t.Errorf("files are left: %v %v", files, err)
	}
	listener, err := net.Listen("tcp4", ":8080")
	must(t, err)
	listener.Close()
}

func TestTeardownLeavesNothingAlsoAfterAKill(t *testing.T) {
	n := newTestNetwork(t)
	must(t, n.Teardown()) // nothing was set up
	before := state(t)
	must(t, n.Setup([]string{testRange}))
	attach(t, n, newPod(t, "one", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}))
	foreign := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: n.plan.LinkPrefix() + "ffffffff"}, PeerName: "foreign"}
	must(t, netlink.LinkAdd(foreign))
	next := restarted(t, n)
	must(t, next.Teardown())
	must(t, next.Teardown())
	must(t, netlink.LinkDel(foreign)) // it was none of ours
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if exists(n.cfg.Dir) {
		t.Error("files are left")
	}
}

// state is what the machine's network consists of.
func state(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	links, err := netlink.LinkList()
	must(t, err)
	for _, link := range links {
		fmt.Fprintln(&out, link.Attrs().Name)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	must(t, err)
	for _, route := range routes {
		fmt.Fprintln(&out, route)
	}
	for table, chains := range map[string][]string{"raw": {"PREROUTING"}, "nat": {"PREROUTING", "POSTROUTING", "OUTPUT"}, "filter": {"INPUT", "FORWARD"}} {
		for _, chain := range chains {
			for _, f := range []Family{IPv4, IPv6} {
				ipt, err := openTables(f)
				must(t, err)
				rules, err := ipt.List(table, chain)
				must(t, err)
				slices.Sort(rules)
				fmt.Fprintln(&out, table, strings.Join(rules[1:], "\n"))
			}
		}
	}
	lines := strings.Split(out.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestAddressesAreGivenOnceAndLateAgain(t *testing.T) {
	p := newPool(netip.MustParsePrefix("198.18.1.0/29"))
	var got []string
	for range 5 {
		address, err := p.take()
		must(t, err)
		got = append(got, address.String())
	}
	if want := []string{"198.18.1.2", "198.18.1.3", "198.18.1.4", "198.18.1.5", "198.18.1.6"}; !slices.Equal(got, want) {
		t.Errorf("given %v, want %v", got, want)
	}
	if address, err := p.take(); err == nil || !strings.Contains(err.Error(), "all 5 addresses") {
		t.Errorf("given %v of an empty pool: %v", address, err)
	}
	p.giveBack(netip.MustParseAddr("198.18.1.5"))
	p.giveBack(netip.MustParseAddr("198.18.1.3"))
	for _, want := range []string{"198.18.1.3", "198.18.1.5"} {
		if address, err := p.take(); err != nil || address.String() != want {
			t.Errorf("given %v %v, want %s", address, err, want)
		}
	}
	p = newPool(netip.MustParsePrefix("198.18.1.0/29"))
	p.claim(netip.MustParseAddr("198.18.1.2"))
	if address, err := p.take(); err != nil || address.String() != "198.18.1.3" {
		t.Errorf("given %v %v beside one that a pod has", address, err)
	}
}

func TestNodeWithoutRangeIsAnError(t *testing.T) {
	n := &Network{}
	for _, cidrs := range [][]string{nil, {"10.0.0.0/24", "10.0.1.0/24"}, {"nonsense"}} {
		if err := n.Setup(cidrs); err == nil {
			t.Errorf("%v was accepted", cidrs)
		}
	}
}

func TestWhatAKilledMachineLeftHalfWrittenIsForgotten(t *testing.T) {
	n := newTestNetwork(t)
	must(t, n.Setup([]string{testRange}))
	must(t, os.WriteFile(n.store.endpointFile("half"), nil, 0o600))
	n = restarted(t, n)
	if n.Addresses("half") != nil {
		t.Error("it has an address")
	}
	must(t, n.Adopt())
	must(t, n.Ready())
	must(t, n.Setup([]string{testRange}))
	must(t, n.Teardown())
}
