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
	for _, gateway := range []string{"169.254.1.1/32", "fe80::1/64"} {
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
	for _, gateway := range []string{"169.254.1.1", "fe80::1"} {
		must(m.t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway), Flags: int(netlink.FLAG_ONLINK)}))
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

// reaches reports whether a word comes back. It must not be refused: then the guest is reached, and nobody listens.
func (g *guest) reaches(network string, to netip.Addr, port uint16, wait time.Duration) bool {
	g.t.Helper()
	connection, err := g.connect(network, to, port, wait)
	if err == nil {
		defer connection.Close()
		err = ping(connection, wait)
	}
	if timeout := net.Error(nil); err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
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

// hears reports whether a packet by which an SCTP association begins comes from the other guest. The machine may know no
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

// scene is a machine with a pod that serves, one that a policy may let in, one that it may not, and somebody outside.
type scene struct {
	t                              *testing.T
	web, friend, stranger, outside *guest
	table                          *Table
	state                          State
}

func newScene(t *testing.T) *scene {
	t.Helper()
	m := newMachine(t)
	s := &scene{
		t: t, web: m.pod("web", "10.0.0.2", "fd00::2"), friend: m.pod("friend", "10.0.0.3", "fd00::3"),
		stranger: m.pod("stranger", "10.0.0.4", "fd00::4"), outside: m.pod("outside", "192.0.2.7", "2001:db8::7"),
	}
	for _, port := range []uint16{80, 81, 8080} {
		s.web.serve(port)
	}
	s.friend.serve(80)
	s.state = State{Node: "one", Namespaces: map[string]map[string]string{"x": {}}, Pods: []Pod{
		{Namespace: "x", UID: "web", Node: "one", Labels: map[string]string{"app": "web"}, Addresses: s.web.addresses, Ports: []Port{{"metrics", TCP, 81}}},
		{Namespace: "x", UID: "friend", Node: "two", Labels: map[string]string{"app": "friend"}, Addresses: s.friend.addresses},
		{Namespace: "x", UID: "stranger", Node: "two", Labels: map[string]string{"app": "stranger"}, Addresses: s.stranger.addresses},
	}}
	s.table = kernelTable(t)
	s.apply()
	return s
}

// apply puts the policies in force, and no others.
func (s *scene) apply(policies ...*networkingv1.NetworkPolicy) {
	s.t.Helper()
	s.state.Policies = policies
	must(s.t, s.table.Apply(s.t.Context(), Compile(s.state)))
	if intact, err := s.table.Intact(s.t.Context()); !intact || err != nil {
		s.t.Fatalf("what was applied is not there: %v", err)
	}
}

// letIn puts a policy in force that lets in what the rule says.
func (s *scene) letIn(rule networkingv1.NetworkPolicyIngressRule) {
	s.t.Helper()
	s.apply(onWeb([]networkingv1.NetworkPolicyIngressRule{rule}, nil, networkingv1.PolicyTypeIngress))
}

// everywhere calls a port of the pod that serves, at all of its addresses.
func (s *scene) everywhere(from *guest, port uint16, tcp, udp bool) {
	s.t.Helper()
	for _, address := range s.web.addresses {
		from.expect("tcp", address, port, tcp)
		from.expect("udp", address, port, udp)
	}
}

func TestKernelLetsInWhatThePoliciesSay(t *testing.T) {
	s := newScene(t)
	s.everywhere(s.stranger, 80, true, true)
	kept, err := s.stranger.connect("tcp", s.web.addresses[0], 80, patience)
	must(t, err)
	defer kept.Close()
	s.apply(denyWeb())
	s.everywhere(s.stranger, 80, false, false)
	s.everywhere(s.outside, 80, false, false)
	s.web.expect("tcp", s.friend.addresses[0], 80, true)
	if err := ping(kept, patience); err != nil {
		t.Errorf("a connection that was there before the policy: %v", err)
	}

	s.letIn(networkingv1.NetworkPolicyIngressRule{From: friends()})
	s.everywhere(s.friend, 80, true, true)
	s.everywhere(s.stranger, 80, false, false)

	s.letIn(networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{
		{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.4/31"}}}, {IPBlock: &networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fd00::4/128"}}},
	}})
	s.everywhere(s.outside, 80, true, true)
	s.everywhere(s.friend, 80, true, true)
	s.everywhere(s.stranger, 80, false, false)

	s.apply()
	s.everywhere(s.stranger, 80, true, true)
	must(t, s.table.Remove(t.Context()))
	must(t, s.table.Remove(t.Context()))
	s.everywhere(s.stranger, 80, true, true)
}

func TestKernelLetsInByPorts(t *testing.T) {
	s := newScene(t)
	s.letIn(networkingv1.NetworkPolicyIngressRule{From: friends(), Ports: []networkingv1.NetworkPolicyPort{
		{Port: new(intstr.FromString("metrics"))}, {Port: new(intstr.FromInt32(8000)), EndPort: new(int32(8100))}}})
	s.everywhere(s.friend, 80, false, false)
	s.everywhere(s.friend, 81, true, false)
	s.everywhere(s.friend, 8080, true, false)

	s.letIn(networkingv1.NetworkPolicyIngressRule{From: friends(), Ports: []networkingv1.NetworkPolicyPort{
		{Protocol: new(corev1.ProtocolSCTP), Port: new(intstr.FromInt32(81))}}})
	s.everywhere(s.friend, 81, false, false)
	s.web.hears(s.friend, 81, true)
	s.web.hears(s.friend, 80, false)
	s.web.hears(s.stranger, 81, false)
}

func TestKernelLetsOutWhatThePoliciesSay(t *testing.T) {
	s := newScene(t)
	s.apply(onWeb(nil, nil, networkingv1.PolicyTypeEgress))
	s.web.expect("tcp", s.friend.addresses[0], 80, false)
	s.web.expect("udp", s.friend.addresses[1], 80, false)
	s.everywhere(s.friend, 80, true, true) // the answers are of connections that were let in
	s.apply(onWeb(nil, []networkingv1.NetworkPolicyEgressRule{{To: friends()}}, networkingv1.PolicyTypeEgress))
	s.web.expect("tcp", s.friend.addresses[1], 80, true)
	s.web.expect("udp", s.friend.addresses[0], 80, true)
}

func TestKernelLetsPodsAskTheClustersDNSByItsService(t *testing.T) {
	s := newScene(t)
	s.outside.serve(10053)
	for i, service := range []string{"10.96.0.10", "fd00:96::a"} {
		family := families[i].address
		nft(t.Context(), t, "add table", family, "services")
		nft(t.Context(), t, "add chain", family, "services", "in { type nat hook prerouting priority dstnat; }")
		to := netip.AddrPortFrom(s.outside.addresses[i], 10053).String()
		nft(t.Context(), t, "add rule", family, "services in meta l4proto { tcp, udp } th dport 53", family, "daddr", service, "dnat to", to)
		s.state.DNS = append(s.state.DNS, netip.MustParseAddr(service))
	}
	s.state.Namespaces["kube-system"] = map[string]string{"kubernetes.io/metadata.name": "kube-system"}
	s.apply(onWeb(nil, nil, networkingv1.PolicyTypeEgress))
	s.web.expect("udp", s.state.DNS[0], 53, false)
	s.apply(onWeb(nil, []networkingv1.NetworkPolicyEgressRule{{
		To: []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "kube-system"}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
		}},
		Ports: []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolUDP), Port: new(intstr.FromInt32(53))}},
	}}, networkingv1.PolicyTypeEgress))
	for i, service := range s.state.DNS {
		s.web.expect("udp", service, 53, true)
		s.web.expect("tcp", service, 53, false)
		s.web.expect("udp", s.outside.addresses[i], 10053, false)
	}
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
			if err := table.apply(t.Context(), Compile(state)); err != nil {
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

func TestTableThatSomebodyChangedTakesTheNextChange(t *testing.T) {
	inNamespace(t)
	table := kernelTable(t)
	name := TableName("k8sm", "one")
	pods := State{Node: "one", Policies: []*networkingv1.NetworkPolicy{denyWeb()}, Pods: []Pod{
		{Namespace: "x", UID: "web", Node: "one", Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}}}
	for _, command := range [][]string{{"flush", "ruleset"}, {"flush", "map", "inet", name, "ingress4"}} {
		must(t, table.Apply(t.Context(), Compile(pods)))
		nft(t.Context(), t, command...)
		must(t, table.Apply(t.Context(), Compile(State{})))
		if intact, err := table.Intact(t.Context()); !intact || err != nil {
			t.Errorf("after nft %s and a change: intact: %t, %v", command, intact, err)
		}
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
