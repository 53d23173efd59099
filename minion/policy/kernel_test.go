package policy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a network namespace with pods behind it, in namespaces of their own, routed as the pod network routes them.
type machine struct {
	t *testing.T
}

// guest is the network namespace of a pod, or of somebody outside.
type guest struct {
	t         *testing.T
	namespace netns.NsHandle
	addresses []netip.Addr
}

// inNamespace moves the rest of the test into a network namespace of its own.
func inNamespace(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and the namespace with it
	namespace, err := netns.New()
	must(t, err)
	t.Cleanup(func() { namespace.Close() })
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	inNamespace(t)
	for _, sysctl := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		must(t, os.WriteFile("/proc/sys/net/"+sysctl, []byte("1"), 0))
	}
	return &machine{t}
}

// pod makes a namespace with the addresses, behind a veth of the machine.
func (m *machine) pod(name string, addresses ...string) *guest {
	m.t.Helper()
	machine, err := netns.Get()
	must(m.t, err)
	defer machine.Close()
	inside, err := netns.New()
	must(m.t, err)
	g := &guest{t: m.t, namespace: inside}
	m.t.Cleanup(func() { inside.Close() })
	must(m.t, netns.Set(machine))
	outside := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth-" + name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(inside)}
	must(m.t, netlink.LinkAdd(outside))
	must(m.t, netlink.LinkSetUp(outside))
	gateways := []string{"169.254.1.1/32", "fe80::1/64"}
	for _, gateway := range gateways {
		address, err := netlink.ParseAddr(gateway)
		must(m.t, err)
		address.Flags = 0x02 // IFA_F_NODAD: it is of use at once
		must(m.t, netlink.AddrAdd(outside, address))
	}
	must(m.t, netns.Set(inside))
	link, err := netlink.LinkByName("eth0")
	must(m.t, err)
	must(m.t, netlink.LinkSetUp(link))
	for _, text := range addresses {
		g.addresses = append(g.addresses, netip.MustParseAddr(text))
		address := netlink.NewIPNet(net.ParseIP(text))
		must(m.t, netlink.AddrAdd(link, &netlink.Addr{IPNet: address, Flags: 0x02}))
	}
	for i, gateway := range []string{"169.254.1.1", "fe80::1"} {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway), Flags: int(netlink.FLAG_ONLINK)}); i == 0 {
			must(m.t, err)
		}
	}
	must(m.t, netns.Set(machine))
	for _, text := range addresses {
		must(m.t, netlink.RouteAdd(&netlink.Route{LinkIndex: outside.Attrs().Index, Dst: netlink.NewIPNet(net.ParseIP(text))}))
	}
	return g
}

// in does something with sockets of the guest's. It has to be done before do returns.
func (g *guest) in(do func()) {
	g.t.Helper()
	machine, err := netns.Get()
	must(g.t, err)
	defer machine.Close()
	must(g.t, netns.Set(g.namespace))
	defer func() { must(g.t, netns.Set(machine)) }()
	do()
}

// serve answers at a port of the guest's addresses, TCP and UDP, until the test ends.
func (g *guest) serve(port uint16) {
	g.t.Helper()
	for _, address := range g.addresses {
		at := netip.AddrPortFrom(address, port).String()
		g.in(func() {
			stream, err := net.Listen("tcp", at)
			must(g.t, err)
			g.t.Cleanup(func() { stream.Close() })
			go accept(stream)
			datagrams, err := net.ListenPacket("udp", at)
			must(g.t, err)
			g.t.Cleanup(func() { datagrams.Close() })
			go echo(datagrams)
		})
	}
}

func accept(stream net.Listener) {
	for {
		connection, err := stream.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(connection, connection); connection.Close() }()
	}
}

func echo(datagrams net.PacketConn) {
	buffer := make([]byte, 100)
	for {
		n, from, err := datagrams.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = datagrams.WriteTo(buffer[:n], from)
	}
}

// patience is how long an answer is waited for that is to come, and briefly one that is not: on this machine answers take
// less than a millisecond.
const (
	patience = 3 * time.Second
	briefly  = 150 * time.Millisecond
)

// connect opens a connection to a port of an address.
func (g *guest) connect(network string, to netip.Addr, port uint16, wait time.Duration) (connection net.Conn, err error) {
	g.in(func() {
		connection, err = net.DialTimeout(network, net.JoinHostPort(to.String(), strconv.Itoa(int(port))), wait)
	})
	return connection, err
}

// ping sends a word and waits for it to come back.
func ping(connection net.Conn, wait time.Duration) error {
	if _, err := connection.Write([]byte("hello")); err != nil {
		return err
	}
	_ = connection.SetReadDeadline(time.Now().Add(wait))
	_, err := io.ReadFull(connection, make([]byte, 5))
	return err
}

// reaches tells whether a word comes back. It must not be refused: then the guest is reached, and nobody listens.
func (g *guest) reaches(network string, to netip.Addr, port uint16, wait time.Duration) bool {
	g.t.Helper()
	connection, err := g.connect(network, to, port, wait)
	if err == nil {
		defer connection.Close()
		err = ping(connection, wait)
	}
	if timeout := net.Error(nil); err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		g.t.Fatalf("%s to %s port %d: %v", network, to, port, err)
	}
	return err == nil
}

func (g *guest) expect(network string, to netip.Addr, port uint16, want bool) {
	g.t.Helper()
	wait := briefly
	if want {
		wait = patience
	}
	if got := g.reaches(network, to, port, wait); got != want {
		g.t.Errorf("%s from %s to %s port %d passes: %t", network, g.addresses[0], to, port, got)
	}
}

// hears tells whether a packet by which an SCTP association begins comes from the other guest. The machine may know no
// SCTP but for judging it, so it is made by hand (https://www.rfc-editor.org/rfc/rfc9260#section-3.3.2).
func (g *guest) hears(from *guest, port uint16, want bool) {
	g.t.Helper()
	var ear, mouth net.PacketConn
	for of, connection := range map[*guest]*net.PacketConn{g: &ear, from: &mouth} {
		of.in(func() {
			var err error
			*connection, err = net.ListenPacket("ip4:132", of.addresses[0].String())
			must(g.t, err)
		})
		defer (*connection).Close()
	}
	packet := make([]byte, 12+20) // a header, and a chunk INIT
	binary.BigEndian.PutUint16(packet, 4000)
	binary.BigEndian.PutUint16(packet[2:], port)
	chunk := packet[12:]
	chunk[0], chunk[3] = 1, 20               // its type and length
	binary.BigEndian.PutUint32(chunk[4:], 7) // a tag
	chunk[8], chunk[13], chunk[15] = 1, 1, 1 // a window, and a stream in each direction
	binary.LittleEndian.PutUint32(packet[8:], crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli)))
	_, err := mouth.WriteTo(packet, &net.IPAddr{IP: g.addresses[0].AsSlice()})
	must(g.t, err)
	_ = ear.SetReadDeadline(time.Now().Add(map[bool]time.Duration{true: patience, false: briefly}[want]))
	if _, _, err := ear.ReadFrom(make([]byte, 100)); (err == nil) != want {
		g.t.Errorf("SCTP from %s to port %d passes: %t", from.addresses[0], port, err == nil)
	}
}

// kernelTable is a table of the namespace that the test is in.
func kernelTable(t testing.TB) *Table {
	t.Helper()
	table, err := OpenTable("k8sm", "one")
	must(t, err)
	return table
}

func TestKernelFollowsThePolicies(t *testing.T) {
	m := newMachine(t)
	web := m.pod("web", "10.0.0.2", "fd00::2")
	friend, stranger := m.pod("friend", "10.0.0.3", "fd00::3"), m.pod("stranger", "10.0.0.4", "fd00::4")
	outside := m.pod("outside", "192.0.2.7", "2001:db8::7")
	for _, port := range []uint16{80, 81, 8080} {
		web.serve(port)
	}
	friend.serve(80)
	table := kernelTable(t)
	must(t, table.Apply(t.Context(), Compile(State{})))
	state := State{Node: "one", Namespaces: map[string]map[string]string{"x": {}}, Pods: []Pod{
		{Namespace: "x", UID: "web", Node: "one", Labels: map[string]string{"app": "web"}, Addresses: web.addresses, Ports: []Port{{"metrics", TCP, 81}}},
		{Namespace: "x", UID: "friend", Node: "two", Labels: map[string]string{"app": "friend"}, Addresses: friend.addresses},
		{Namespace: "x", UID: "stranger", Node: "two", Labels: map[string]string{"app": "stranger"}, Addresses: stranger.addresses},
	}}
	apply := func(policies ...*networkingv1.NetworkPolicy) {
		t.Helper()
		state.Policies = policies
		must(t, table.Apply(t.Context(), Compile(state)))
		if intact, err := table.Intact(t.Context()); !intact || err != nil {
			t.Fatalf("what was applied is not there: %v", err)
		}
	}
	everywhere := func(g *guest, port uint16, tcp, udp bool) {
		t.Helper()
		for _, address := range web.addresses {
			g.expect("tcp", address, port, tcp)
			g.expect("udp", address, port, udp)
		}
	}
	everywhere(stranger, 80, true, true)
	kept, err := stranger.connect("tcp", web.addresses[0], 80, patience)
	must(t, err)
	defer kept.Close()

	apply(onWeb(nil, nil, networkingv1.PolicyTypeIngress))
	everywhere(stranger, 80, false, false)
	everywhere(outside, 80, false, false)
	web.expect("tcp", friend.addresses[0], 80, true)
	if err := ping(kept, patience); err != nil {
		t.Errorf("a connection that was there before the policy: %v", err)
	}

	fromFriend := []networkingv1.NetworkPolicyIngressRule{{From: friends()}}
	apply(onWeb(fromFriend, nil, networkingv1.PolicyTypeIngress))
	everywhere(friend, 80, true, true)
	everywhere(stranger, 80, false, false)

	fromFriend[0].Ports = []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromString("metrics"))}, {Port: new(intstr.FromInt32(8000)), EndPort: new(int32(8100))}}
	apply(onWeb(fromFriend, nil, networkingv1.PolicyTypeIngress))
	everywhere(friend, 80, false, false)
	everywhere(friend, 81, true, false)
	everywhere(friend, 8080, true, false)

	fromFriend[0].Ports = []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolSCTP), Port: new(intstr.FromInt32(81))}}
	apply(onWeb(fromFriend, nil, networkingv1.PolicyTypeIngress))
	everywhere(friend, 81, false, false)
	web.hears(friend, 81, true)
	web.hears(friend, 80, false)
	web.hears(stranger, 81, false)

	blocks := []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
		{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.4/31"}}}, {IPBlock: &networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fd00::4/128"}}},
	}}}
	apply(onWeb(blocks, nil, networkingv1.PolicyTypeIngress))
	everywhere(outside, 80, true, true)
	everywhere(friend, 80, true, true)
	everywhere(stranger, 80, false, false)

	apply(onWeb(nil, nil, networkingv1.PolicyTypeEgress))
	web.expect("tcp", friend.addresses[0], 80, false)
	web.expect("udp", friend.addresses[1], 80, false)
	everywhere(friend, 80, true, true) // the answers are of connections that were let in
	apply(onWeb(nil, []networkingv1.NetworkPolicyEgressRule{{To: friends()}}, networkingv1.PolicyTypeEgress))
	web.expect("tcp", friend.addresses[1], 80, true)
	web.expect("udp", friend.addresses[0], 80, true)

	apply()
	everywhere(stranger, 80, true, true)
	must(t, table.Remove(t.Context()))
	must(t, table.Remove(t.Context()))
	everywhere(stranger, 80, true, true)
}

// onWeb is a policy for the pods of app web.
func onWeb(in []networkingv1.NetworkPolicyIngressRule, out []networkingv1.NetworkPolicyEgressRule, about ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, PolicyTypes: about, Ingress: in, Egress: out,
	}}
}

func friends() []networkingv1.NetworkPolicyPeer {
	return []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "friend"}}}}
}

// TestKernelTakesEveryChange has the kernel take the random clusters that the rules' text is tested with.
func TestKernelTakesEveryChange(t *testing.T) {
	inNamespace(t)
	table := kernelTable(t)
	for range 6 {
		seeds := []uint64{rand.Uint64(), rand.Uint64()}
		c := chance{rand.New(rand.NewPCG(seeds[0], seeds[1]))}
		state := c.cluster()
		for step := range 4 {
			if err := table.Apply(t.Context(), Compile(state)); err != nil {
				t.Fatalf("seeds %d, step %d: %v\n%s", seeds, step, err, Compile(state))
			}
			if intact, err := table.Intact(t.Context()); !intact || err != nil {
				t.Fatalf("seeds %d, step %d: what was applied is not there: %v", seeds, step, err)
			}
			state = c.evolve(state)
		}
	}
}

func TestTableThatSomebodyChangedIsNotIntact(t *testing.T) {
	inNamespace(t)
	table := kernelTable(t)
	name := TableName("k8sm", "one")
	pods := State{Node: "one", Policies: []*networkingv1.NetworkPolicy{onWeb(nil, nil, networkingv1.PolicyTypeIngress)}, Pods: []Pod{
		{Namespace: "x", UID: types.UID("web"), Node: "one", Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}}}
	for _, command := range [][]string{
		{"flush", "ruleset"}, {"delete", "table", "inet", name}, {"flush", "table", "inet", name}, {"flush", "chain", "inet", name, "ingress"},
		{"flush", "map", "inet", name, "ingress4"}, {"add", "rule", "inet", name, "ingress", "accept"},
	} {
		must(t, table.Apply(t.Context(), Compile(pods)))
		if intact, err := table.Intact(t.Context()); !intact || err != nil {
			t.Fatalf("before nft %s: %v", command, err)
		}
		nft(t.Context(), t, command...)
		if intact, err := table.Intact(t.Context()); intact || err != nil {
			t.Errorf("after nft %s: intact: %t, %v", command, intact, err)
		}
		table.Forget()
	}
}

func nft(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, "nft", args...).CombinedOutput(); err != nil {
		t.Fatalf("nft %s: %v: %s", args, err, out)
	}
}

// TestRulesHoldUntilTheyAreRemoved runs an Enforcer in the test's namespace. While it runs, what something else does to its
// rules is undone; when it has ended, as when it was killed, they hold.
func TestRulesHoldUntilTheyAreRemoved(t *testing.T) {
	inNamespace(t)
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	name := TableName("k8sm", "one")
	e := newEnforcer("one", name, kernelTable(t))
	api := fake.NewClientset(namespace("x"), denyWeb(), apiPod("web", "one", "web", "10.0.0.2"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- disturb(ctx, cancel, here, name) }()
	if err := e.Run(ctx, api); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	must(t, <-done)
	if !isolates(t.Context(), name) {
		t.Error("the rules ended with the process")
	}
	must(t, Remove(t.Context(), "k8sm", "one"))
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("left behind: %v %s", err, out)
	}
}

// disturb removes the rules from the namespace in several ways, each when they are there.
func disturb(ctx context.Context, cancel context.CancelFunc, where netns.NsHandle, table string) error {
	defer cancel()
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	if err := netns.Set(where); err != nil {
		return err
	}
	limit, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	for _, command := range [][]string{{"flush", "ruleset"}, {"delete", "table", "inet", table}, {"flush", "map", "inet", table, "ingress4"}, nil} {
		for !isolates(limit, table) {
			if limit.Err() != nil {
				return fmt.Errorf("the rules are not there before nft %s", command)
			}
		}
		if command == nil {
			return nil
		}
		if out, err := exec.CommandContext(limit, "nft", command...).CombinedOutput(); err != nil {
			return fmt.Errorf("nft %s: %w: %s", command, err, out)
		}
	}
	return nil
}

func isolates(ctx context.Context, table string) bool {
	out, _ := exec.CommandContext(ctx, "nft", "list", "map", "inet", table, "ingress4").Output()
	return strings.Contains(string(out), "10.0.0.2 : goto")
}
