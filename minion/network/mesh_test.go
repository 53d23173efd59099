package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api"
)

func addresses(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// lookInTest: 192.0.2.0/24 and 2001:db8::/64 are on the link, all else is behind its router.
func lookInTest(address netip.Addr) (kernelRoute, error) {
	eth0 := kernelRoute{device: "eth0", index: 2}
	switch {
	case address == netip.MustParseAddr("192.0.2.1"):
		return kernelRoute{local: true}, nil
	case netip.MustParsePrefix("203.0.113.0/24").Contains(address):
		return kernelRoute{}, errors.New("network is unreachable")
	case netip.MustParsePrefix("192.0.2.0/24").Contains(address), netip.MustParsePrefix("2001:db8::/64").Contains(address):
		return eth0, nil
	case address.Is4():
		eth0.gateway = netip.MustParseAddr("192.0.2.254")
	default:
		eth0.gateway = netip.MustParseAddr("2001:db8::ffff")
	}
	return eth0, nil
}

func TestKnownPeersStayUntilOthersHaveTheirPrefixes(t *testing.T) {
	peer := func(node, address string, ranges ...string) Peer {
		return Peer{Node: node, Addresses: addresses(address), Prefixes: prefixes(ranges...)}
	}
	known := []Peer{
		peer("a", "192.0.2.1", "10.244.1.0/24"), peer("b", "192.0.2.2", "10.244.2.0/24"), peer("c", "192.0.2.3", "10.244.3.0/24", "203.0.113.3/32"),
		peer("d", "192.0.2.4", "10.244.4.0/24"),
	}
	told := []Peer{peer("z", "192.0.2.9", "10.244.9.0/24", "203.0.113.0/30"), peer("b", "192.0.2.22", "10.244.22.0/24"), peer("e", "192.0.2.4", "10.244.4.0/25")}
	want := []Peer{known[0], told[1], told[2], told[0]} // c and d have lost a prefix
	if diff := cmp.Diff(want, Join(known, told), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := Join(known, nil); len(got) != len(known) {
		t.Errorf("told of no peers, it knows %v", got)
	}
}

func TestMeshIsTheGoldenOne(t *testing.T) {
	peers := []Peer{
		{Node: "beside", Addresses: addresses("192.0.2.1"), Prefixes: prefixes("10.244.9.0/24")},
		{Node: "near", Addresses: addresses("192.0.2.2", "2001:db8::2"), Prefixes: prefixes("10.244.2.0/24", "fd00:244:2::/64", "203.0.113.7/32")},
		{Node: "far", Addresses: addresses("198.51.100.3", "2001:db8:1::3"), Prefixes: prefixes("10.244.3.0/24", "fd00:244:3::/64", "198.51.100.77/32")},
		{Node: "away", Addresses: addresses("203.0.113.4"), Prefixes: prefixes("10.244.4.0/24")},
		{Node: "nameless", Prefixes: prefixes("10.244.5.0/24")},
	}
	six := []Peer{
		{Node: "near", Addresses: addresses("2001:db8::2"), Prefixes: prefixes("fd00:244:2::/64")},
		{Node: "far", Addresses: addresses("2001:db8:1::3"), Prefixes: prefixes("fd00:244:3::/64", "10.244.3.0/24")},
	}
	var got strings.Builder
	for _, mode := range []api.NetworkMode{api.NetworkAuto, api.NetworkRoutes, api.NetworkVXLAN, api.NetworkNone} {
		for _, test := range []struct {
			machine []netip.Addr
			peers   []Peer
		}{{addresses("192.0.2.1", "2001:db8::1"), peers}, {addresses("2001:db8::1"), six}} {
			plan := Plan{Cluster: "k8sm", Node: "self", PodCIDRs: prefixes("10.244.1.0/24", "fd00:244:1::/64"), ClusterCIDR: "10.244.0.0/16,fd00:244::/48",
				Addresses: test.machine, Network: api.PodNetwork{Mode: mode}}
			m, err := plan.mesh(test.peers, lookInTest)
			fmt.Fprintf(&got, "--network=%s on %v\n%s", mode, test.machine, m)
			if err != nil {
				fmt.Fprintf(&got, "%s\n", err)
			}
			fmt.Fprintln(&got)
		}
	}
	golden := filepath.Join("testdata", "mesh.txt")
	if *update {
		must(t, os.WriteFile(golden, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("the mesh differs (-golden +got):\n%s", diff)
	}
}

// machine is a network namespace that stands for a machine with one node.
type machine struct {
	pod
	network *Network
	peer    Peer
}

// lan is a machine's place on a link of the test: its address there, and the router to all others.
type lan struct{ bridge, address, router string }

// addresses are those of the place, with one of the other family if it is given.
func (l lan) addresses() []string { return strings.Split(l.address, " ") }

// newMachine makes a machine with a device on the lan's bridge, which is in the namespace that the test runs in, and a pod
// network with the given ranges, with spaces between.
func newMachine(t *testing.T, name string, at lan, podCIDRs string, how api.PodNetwork) *machine {
	t.Helper()
	m := &machine{pod: newPod(t, name)}
	bridge, err := netlink.LinkByName(at.bridge)
	if err != nil {
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: at.bridge}}))
		bridge, err = netlink.LinkByName(at.bridge)
		must(t, err)
		must(t, netlink.LinkSetUp(bridge))
	}
	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: bridge.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(m.namespace)}
	must(t, netlink.LinkAdd(port))
	must(t, netlink.LinkSetUp(port))
	var own []netip.Addr
	m.do(t, func() {
		eth0, err := netlink.LinkByName("eth0")
		must(t, err)
		for _, text := range at.addresses() {
			prefix := netip.MustParsePrefix(text)
			address := deviceAddress(prefix.Addr())
			address.Mask = network(prefix).Mask
			must(t, netlink.AddrAdd(eth0, address))
			own = append(own, prefix.Addr())
		}
		must(t, settleIPv6(&netlink.Handle{}, eth0, own))
		must(t, netlink.LinkSetUp(eth0))
		// The kernel tells each pod of few packets in a second that they led nowhere.
		must(t, os.WriteFile(sysctls+"/ipv4/icmp_ratelimit", []byte("0"), 0))
		if at.router != "" {
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: netip.MustParseAddr(at.router).AsSlice()}))
		}
		m.network, err = New(Config{Cluster: "test", Node: name, ClusterCIDR: "198.18.0.0/16,fd00:18::/48", ServiceCIDR: "198.19.0.0/16", Network: how,
			Addresses: own, Dir: filepath.Join(t.TempDir(), "network")})
		must(t, err)
		must(t, m.network.Setup(strings.Split(podCIDRs, " ")))
	})
	m.peer = Peer{Node: name, Addresses: own, Prefixes: prefixes(strings.Split(podCIDRs, " ")...)}
	return m
}

// newPodOn attaches a pod to the machine's network, which answers on port 80. It returns its first address.
func newPodOn(t *testing.T, m *machine, id string, ports ...Port) (p pod, address string) {
	t.Helper()
	p = newPod(t, id, ports...)
	m.do(t, func() {
		addresses, err := m.network.Attach(t.Context(), p.Sandbox)
		must(t, err)
		address = addresses[0].String()
	})
	p.serve(t, "80")
	return p, address
}

// acquaint tells all machines of each other.
func acquaint(t *testing.T, machines ...*machine) {
	for _, m := range machines {
		var peers []Peer
		for _, other := range machines {
			if other != m {
				peers = append(peers, other.peer)
			}
		}
		m.do(t, func() { m.network.Reach(peers) })
	}
}

// newRouter makes the test's namespace a router between lans: each bridge gets its router's address.
func newRouter(t *testing.T, lans ...lan) {
	t.Helper()
	for _, l := range lans {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: l.bridge}}
		must(t, netlink.LinkAdd(bridge))
		address, err := netlink.ParseAddr(l.router + "/24")
		must(t, err)
		must(t, netlink.AddrAdd(bridge, address))
		must(t, netlink.LinkSetUp(bridge))
	}
	must(t, enable(sysctlForward))
}

// deviceMTU returns that of a device in a namespace.
func (p pod) deviceMTU(t *testing.T, device string) (mtu int) {
	t.Helper()
	p.do(t, func() {
		link, err := netlink.LinkByName(device)
		must(t, err)
		mtu = link.Attrs().MTU
	})
	return mtu
}

// expectEachOther calls each pod from the other and from the other's machine; pods see the others' own addresses.
func expectEachOther(t *testing.T, machines []*machine, pods []pod, at []string) {
	t.Helper()
	for i := range pods {
		j := 1 - i
		pods[i].do(t, func() { expect(t, net.JoinHostPort(at[j], "80"), at[i]) })
		machines[i].do(t, func() {
			if _, err := call(net.JoinHostPort(at[j], "80")); err != nil {
				t.Errorf("machine %d to the other's pod: %v", i, err)
			}
		})
	}
}

func TestPodsOfMachinesOnOneLinkReachEachOther(t *testing.T) {
	for mode, wants := range map[api.NetworkMode]struct {
		tunnel bool
		mtu    int
	}{api.NetworkAuto: {false, 1500}, api.NetworkRoutes: {false, 1500}, api.NetworkVXLAN: {true, 1450}} {
		t.Run(string(mode), func(t *testing.T) {
			inNamespace(t)
			how := api.PodNetwork{Mode: mode}
			one := newMachine(t, "one", lan{"lan", "192.0.2.1/24", ""}, "198.18.1.0/24", how)
			two := newMachine(t, "two", lan{"lan", "192.0.2.2/24", ""}, "198.18.2.0/24", how)
			first, firstIP := newPodOn(t, one, "first")
			second, secondIP := newPodOn(t, two, "second")
			first.do(t, func() {
				if _, err := call(secondIP + ":80"); !errors.Is(err, unix.EHOSTUNREACH) {
					t.Errorf("before the other machine is known: %v", err)
				}
			})
			acquaint(t, one, two)
			expectEachOther(t, []*machine{one, two}, []pod{first, second}, []string{firstIP, secondIP})
			if got := second.deviceMTU(t, "eth0"); got != wants.mtu {
				t.Errorf("a pod's MTU is %d, want %d", got, wants.mtu)
			}
			one.do(t, func() {
				if link, err := one.network.plan.findTunnel(); (link != nil) != wants.tunnel || err != nil {
					t.Errorf("VXLAN device: %v %v, want %v", link, err, wants.tunnel)
				}
				one.network.Reach(nil) // the other node is gone
			})
			first.do(t, func() {
				if _, err := call(secondIP + ":80"); !errors.Is(err, unix.EHOSTUNREACH) {
					t.Errorf("after the other machine has gone: %v", err)
				}
			})
		})
	}
}

func TestPodsOfMachinesBehindARouterReachEachOtherByVXLAN(t *testing.T) {
	inNamespace(t)
	here, there := lan{"here", "192.0.2.1/24", "192.0.2.254"}, lan{"there", "198.51.100.2/24", "198.51.100.254"}
	newRouter(t, here, there)
	one, two := newMachine(t, "one", here, "198.18.1.0/24", api.PodNetwork{}), newMachine(t, "two", there, "198.18.2.0/24", api.PodNetwork{})
	first, firstIP := newPodOn(t, one, "first")
	acquaint(t, one, two)
	second, secondIP := newPodOn(t, two, "second") // it comes when there is a tunnel
	expectEachOther(t, []*machine{one, two}, []pod{first, second}, []string{firstIP, secondIP})
	if got := second.deviceMTU(t, "eth0"); got != 1450 {
		t.Errorf("the MTU of a pod with a tunnel is %d", got)
	}
	one.do(t, one.network.repair)
	if inside := first.deviceMTU(t, "eth0"); inside != 1450 {
		t.Errorf("the MTU of a pod from before the tunnel is %d", inside)
	}
	one.do(t, func() {
		must(t, one.network.Teardown())
		left, err := netlink.LinkList()
		must(t, err)
		for _, link := range left {
			if strings.HasPrefix(link.Attrs().Name, "km") {
				t.Errorf("device %s is left", link.Attrs().Name)
			}
		}
	})
}

func TestRoutesModeSaysWhichNodeIsBehindARouter(t *testing.T) {
	inNamespace(t)
	here := lan{"here", "192.0.2.1/24", "192.0.2.254"}
	newRouter(t, here)
	one := newMachine(t, "one", here, "198.18.1.0/24", api.PodNetwork{Mode: api.NetworkRoutes})
	one.do(t, func() {
		one.network.Reach([]Peer{{Node: "two", Addresses: addresses("198.51.100.2"), Prefixes: prefixes("198.18.2.0/24")}})
	})
	if !strings.Contains(one.network.logged, "node two") || !strings.Contains(one.network.logged, "behind router 192.0.2.254") {
		t.Errorf("logged: %s", one.network.logged)
	}
}

func TestNodesOfOneMachineShareTheTunnel(t *testing.T) {
	inNamespace(t)
	how := api.PodNetwork{Mode: api.NetworkVXLAN}
	one := newMachine(t, "one", lan{"lan", "192.0.2.1/24", ""}, "198.18.1.0/24", how)
	two := newMachine(t, "two", lan{"lan", "192.0.2.2/24", ""}, "198.18.2.0/24", how)
	cfg := one.network.cfg
	cfg.Node, cfg.Dir = "one-5052", filepath.Join(t.TempDir(), "network")
	beside := *one
	beside.peer = Peer{Node: cfg.Node, Addresses: one.peer.Addresses, Prefixes: prefixes("198.18.3.0/24")}
	one.do(t, func() {
		var err error
		beside.network, err = New(cfg)
		must(t, err)
		must(t, beside.network.Setup([]string{"198.18.3.0/24"}))
	})
	acquaint(t, one, two, &beside)
	first, firstIP := newPodOn(t, &beside, "first")
	second, secondIP := newPodOn(t, two, "second")
	neighbor, neighborIP := newPodOn(t, one, "neighbor")
	expectEachOther(t, []*machine{&beside, two}, []pod{first, second}, []string{firstIP, secondIP})
	neighbor.do(t, func() { expect(t, firstIP+":80", neighborIP) })
	one.do(t, func() { must(t, one.network.Teardown()) })
	expectEachOther(t, []*machine{&beside, two}, []pod{first, second}, []string{firstIP, secondIP})
	one.do(t, func() {
		must(t, beside.network.Teardown())
		if link, err := beside.network.planFor(nil).findTunnel(); link != nil || err != nil {
			t.Errorf("the device is left: %v %v", link, err)
		}
	})
}

func TestVXLANOfAnotherIsAClearError(t *testing.T) {
	inNamespace(t)
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 7, Port: 8472}))
	n, err := New(Config{Cluster: "test", Node: "one", ClusterCIDR: "198.18.0.0/16", Network: api.PodNetwork{Mode: api.NetworkVXLAN, VXLANVNI: 7},
		Addresses: addresses("192.0.2.1"), Dir: t.TempDir()})
	must(t, err)
	err = n.Setup([]string{testRange})
	if err == nil || !strings.Contains(err.Error(), "VNI 7 on port 8472: set another --vxlan-vni or --vxlan-port") || n.Ready() == nil {
		t.Errorf("%v; ready: %v", err, n.Ready())
	}
	must(t, n.Teardown())
}

func TestWhatOthersFlushIsThereAgain(t *testing.T) {
	inNamespace(t)
	how := api.PodNetwork{Mode: api.NetworkVXLAN}
	one := newMachine(t, "one", lan{"lan", "192.0.2.1/24", ""}, "198.18.1.0/24", how)
	two := newMachine(t, "two", lan{"lan", "192.0.2.2/24", ""}, "198.18.2.0/24", how)
	acquaint(t, one, two)
	second, secondIP := newPodOn(t, two, "second")
	_, webIP := newPodOn(t, two, "web", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80})
	first, firstIP := newPodOn(t, one, "first")
	whole := func(after string) {
		t.Log(after)
		expectEachOther(t, []*machine{one, two}, []pod{first, second}, []string{firstIP, secondIP})
		first.do(t, func() { expect(t, webIP+":80", firstIP) })
		one.do(t, func() { expect(t, "192.0.2.2:8080", "192.0.2.1") })
	}
	whole("as it begins")
	for name, spoil := range map[string]func(n *Network) error{
		"nothing":           func(*Network) error { return nil },
		"all of nat":        func(*Network) error { return flushTable("nat") },
		"all of filter":     func(*Network) error { return flushTable("filter") },
		"a chain":           func(n *Network) error { return exec.Command("iptables", "-t", "nat", "-F", n.plan.portsChain()).Run() },
		"a jump":            func(n *Network) error { return exec.Command("iptables", "-F", "FORWARD").Run() },
		"forwarding":        func(*Network) error { return os.WriteFile(sysctlForward, []byte("0"), 0) },
		"the routes":        flushRoutes,
		"the VXLAN device":  func(n *Network) error { link, _ := n.plan.findTunnel(); return netlink.LinkDel(link) },
		"the VXLAN entries": flushNeighbors,
		"the VXLAN down":    func(n *Network) error { link, _ := n.plan.findTunnel(); return netlink.LinkSetDown(link) },
		"a pod's device": func(n *Network) error {
			link, _ := netlink.LinkByName(n.plan.link("second"))
			return netlink.LinkSetMTU(link, 1000)
		},
		"the unreachable": func(n *Network) error { return netlink.RouteDel(&n.plan.unreachable()[0]) },
		"the tunnel address": func(n *Network) error {
			link, _ := n.plan.findTunnel()
			return netlink.AddrDel(link, deviceAddress(n.plan.gateways()[0]))
		},
	} {
		two.do(t, func() { // on this thread: a subtest would have another
			n := two.network
			before := save(t)
			must(t, spoil(n))
			n.repair()
			if diff := cmp.Diff(before, save(t)); diff != "" || n.logged != "" {
				t.Errorf("%s was not restored: %s (-before +repaired):\n%s", name, n.logged, diff)
			}
		})
		whole(name)
	}
}

func flushTable(table string) error {
	return errors.Join(exec.Command("iptables", "-t", table, "-F").Run(), exec.Command("iptables", "-t", table, "-X").Run())
}

func flushRoutes(*Network) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	for _, route := range routes {
		if route.Protocol != unix.RTPROT_KERNEL {
			err = errors.Join(err, netlink.RouteDel(&route))
		}
	}
	return err
}

func flushNeighbors(n *Network) error {
	link, err := n.plan.findTunnel()
	if err != nil {
		return err
	}
	for _, kind := range []int{unix.AF_BRIDGE, unix.AF_INET} {
		list, failed := netlink.NeighList(link.Attrs().Index, kind)
		err = errors.Join(err, failed)
		for _, entry := range list {
			entry.Family = kind
			err = errors.Join(err, netlink.NeighDel(&entry))
		}
	}
	return err
}

// save is all that a machine has for its pods, in an order of its own.
func save(t *testing.T) (lines []string) {
	t.Helper()
	ipt, err := iptables.New()
	must(t, err)
	for _, table := range []string{"raw", "nat", "filter"} {
		chains, err := ipt.ListChains(table)
		must(t, err)
		for _, chain := range chains {
			rules, err := ipt.List(table, chain)
			must(t, err)
			lines = append(lines, rules...)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	for _, route := range routes {
		lines = append(lines, fmt.Sprint(route.Dst, route.Gw, route.Src, route.Type, route.Priority))
	}
	forward, err := os.ReadFile(sysctlForward)
	must(t, err)
	links, err := netlink.LinkList()
	must(t, err)
	for _, link := range links {
		lines = append(lines, fmt.Sprint(link.Attrs().Name, link.Attrs().MTU, link.Attrs().Flags))
	}
	slices.Sort(lines)
	return append(lines, string(forward))
}

func TestPodsHaveAddressesOfBothFamilies(t *testing.T) {
	for mode, mtu := range map[api.NetworkMode]int{api.NetworkRoutes: 1500, api.NetworkVXLAN: 1450} {
		t.Run(string(mode), func(t *testing.T) {
			inNamespace(t)
			how := api.PodNetwork{Mode: mode}
			one := newMachine(t, "one", lan{"lan", "192.0.2.1/24 2001:db8::1/64", ""}, "198.18.1.0/24 fd00:18:0:1::/64", how)
			two := newMachine(t, "two", lan{"lan", "192.0.2.2/24 2001:db8::2/64", ""}, "198.18.2.0/24 fd00:18:0:2::/64", how)
			acquaint(t, one, two)
			first, _ := newPodOn(t, one, "first")
			web := Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}
			second, _ := newPodOn(t, two, "second", web)
			for i := range 2 {
				at := []string{one.network.Addresses("first")[i].String(), two.network.Addresses("second")[i].String()}
				expectEachOther(t, []*machine{one, two}, []pod{first, second}, at)
			}
			one.do(t, func() { expect(t, "[2001:db8::2]:8080", "2001:db8::1") })
			if got := first.deviceMTU(t, "eth0"); got != mtu {
				t.Errorf("a pod's MTU is %d, want %d", got, mtu)
			}
			two.do(t, func() {
				must(t, exec.Command("ip6tables", "-t", "nat", "-F").Run())
				two.network.repair()
			})
			one.do(t, func() {
				expect(t, "[2001:db8::2]:8080", "2001:db8::1")
				must(t, one.network.Detach(t.Context(), "first"))
			})
			two.do(t, func() {
				must(t, two.network.Teardown())
				left := state(t)
				if strings.Contains(left, "K8SM") || strings.Contains(left, "fd00:18") || strings.Contains(left, "km") {
					t.Errorf("left behind:\n%s", left)
				}
			})
		})
	}
}

func TestPodsMayHaveIPv6Only(t *testing.T) {
	for mode, mtu := range map[api.NetworkMode]int{api.NetworkAuto: 1500, api.NetworkVXLAN: 1430} {
		t.Run(string(mode), func(t *testing.T) {
			inNamespace(t)
			how := api.PodNetwork{Mode: mode}
			one := newMachine(t, "one", lan{"lan", "2001:db8::1/64", ""}, "fd00:18:0:1::/64", how)
			two := newMachine(t, "two", lan{"lan", "2001:db8::2/64", ""}, "fd00:18:0:2::/64", how)
			acquaint(t, one, two)
			first, firstIP := newPodOn(t, one, "first")
			second, secondIP := newPodOn(t, two, "second")
			expectEachOther(t, []*machine{one, two}, []pod{first, second}, []string{firstIP, secondIP})
			if got := first.deviceMTU(t, "eth0"); got != mtu {
				t.Errorf("a pod's MTU is %d, want %d", got, mtu)
			}
		})
	}
}

func TestRangesThatOverlapTheMachinesAreRefused(t *testing.T) {
	inNamespace(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}
	must(t, netlink.LinkAdd(bridge))
	address, err := netlink.ParseAddr("198.18.1.77/28")
	must(t, err)
	must(t, netlink.AddrAdd(bridge, address))
	for want, cfg := range map[string]Config{
		"198.18.1.0/24 overlaps the network 198.18.1.64/28 on this machine's device docker0": {ClusterCIDR: "198.18.0.0/16"},
		"own address 198.18.9.9 lies in --cluster-cidr=198.18.0.0/16":                        {ClusterCIDR: "198.18.0.0/16", Addresses: addresses("198.18.9.9")},
		"own address 198.19.9.9 lies in --service-cluster-ip-range=198.19.0.0/16":            {ServiceCIDR: "198.19.0.0/16", Addresses: addresses("198.19.9.9")},
	} {
		cfg.Dir = t.TempDir()
		before := state(t)
		n, err := New(cfg)
		must(t, err)
		if err := n.Setup([]string{testRange}); err == nil || !strings.Contains(err.Error(), want) || n.Ready() != err {
			t.Errorf("got %v, and the node says %v, want %q", err, n.Ready(), want)
		}
		if after := state(t); before != after {
			t.Errorf("something was changed all the same:\n%s", after)
		}
	}
}

func TestRoutersBetweenMachinesLeadToPodsThatAreNoneOfThisNodes(t *testing.T) {
	plan := Plan{PodCIDRs: prefixes("198.18.1.0/24"), ClusterCIDR: "198.18.0.0/16"}
	for mode, want := range map[api.NetworkMode]string{api.NetworkNone: "198.18.1.0/24", api.NetworkAuto: "198.18.0.0/16"} {
		plan.Network.Mode = mode
		if routes := plan.unreachable(); len(routes) != 1 || routes[0].Dst.String() != want {
			t.Errorf("--network=%s: unreachable are %v, want %s", mode, routes, want)
		}
	}
}

func TestErrorsOfAKernelThatLacksSomethingSayWhatToDo(t *testing.T) {
	for _, test := range []struct {
		ipt  brokenIPTables
		want string
	}{
		{brokenIPTables{writes: exited(3), lists: exited(3)}, "has no iptables (load its modules: modprobe -a nf_tables nft_compat, or ip_tables"},
		{brokenIPTables{writes: exited(1), lists: exited(1)}, "has no iptables (load its modules: modprobe -a nf_tables"},
		{brokenIPTables{writes: exited(1)}, "xt_conntrack"},
		{brokenIPTables{writes: exited(4)}, "xt_conntrack"},
		{brokenIPTables{writes: exited(4), lists: exited(4)}, ""}, // another program has the lock
		{brokenIPTables{writes: errors.New("cannot run iptables")}, ""},
	} {
		err := (Plan{}).apply(tables{IPv4, test.ipt}, nil)
		if !errors.Is(err, test.ipt.writes) || strings.Contains(err.Error(), "modprobe") != (test.want != "") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want %q", test.ipt, err, test.want)
		}
	}
	if err := explainDevice(unix.EOPNOTSUPP, "vxlan"); !strings.Contains(err.Error(), "modprobe vxlan") || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Error(err)
	}
	if err := explainDevice(unix.EPERM, "vxlan"); err != unix.EPERM {
		t.Error(err)
	}
}

// exited is an error of iptables that ended with this code.
type exited int

func (e exited) Error() string   { return fmt.Sprintf("running iptables: exit status %d", int(e)) }
func (e exited) ExitStatus() int { return int(e) }

// brokenIPTables is that of a kernel that lacks it, or a part of it.
type brokenIPTables struct{ writes, lists error }

func (b brokenIPTables) List(string, string) ([]string, error)          { return nil, b.lists }
func (b brokenIPTables) Insert(string, string, int, ...string) error    { return b.writes }
func (b brokenIPTables) DeleteIfExists(string, string, ...string) error { return b.writes }
func (b brokenIPTables) Restore(string) error                           { return b.writes }

// TestErrorsOfIPTablesItselfAreExplained holds exited to what the program and its library do.
func TestErrorsOfIPTablesItselfAreExplained(t *testing.T) {
	inNamespace(t)
	ipt, err := openTables(IPv4)
	must(t, err)
	for _, err := range []error{
		ipt.Insert("filter", "INPUT", 1, "-m", "comment", "--comment", "x", "-j", "K8SM-NO-SUCH-TARGET"),
		ipt.Restore("*filter\n-A INPUT -j K8SM-NO-SUCH-TARGET\nCOMMIT\n"),
	} {
		if status, ok := exitStatus(err); !ok || status == 0 {
			t.Fatalf("%v has exit status %d, %v", err, status, ok)
		}
		if why := explain(ipt, err); !errors.Is(why, err) || !strings.Contains(why.Error(), "xt_conntrack") || !strings.Contains(why.Error(), "K8SM-NO-SUCH-TARGET") {
			t.Errorf("got %v", why)
		}
	}
}

func TestTunnelAndRoutesOfAKilledNodeAreRemovedByWhoCleansUp(t *testing.T) {
	inNamespace(t)
	how := api.PodNetwork{Mode: api.NetworkVXLAN}
	one := newMachine(t, "one", lan{"lan", "192.0.2.1/24 2001:db8::1/64", ""}, "198.18.1.0/24 fd00:18:0:1::/64", how)
	one.do(t, func() {
		one.network.Reach([]Peer{{Node: "two", Addresses: addresses("192.0.2.2"), Prefixes: prefixes("198.18.2.0/24", "fd00:18:0:2::/64")}})
		if here := state(t); !strings.Contains(here, "kmx") || !strings.Contains(here, "198.18.2.0/24") {
			t.Fatalf("there is nothing to clean up:\n%s", here)
		}
		n, err := New(Config{Cluster: one.network.cfg.Cluster, Node: "one", Dir: one.network.cfg.Dir}) // without a Node object, or a cluster
		must(t, err)
		must(t, n.Teardown())
		if left := state(t); strings.Contains(left, "K8SM") || strings.Contains(left, "198.18.") || strings.Contains(left, "fd00:18") || strings.Contains(left, "km") {
			t.Errorf("left behind:\n%s", left)
		}
	})
}

func TestPodsCannotSendWhatMachinesTakeForOtherMachinesPackets(t *testing.T) {
	inNamespace(t)
	how := api.PodNetwork{Mode: api.NetworkVXLAN}
	one := newMachine(t, "one", lan{"lan", "192.0.2.1/24", ""}, "198.18.1.0/24", how)
	two := newMachine(t, "two", lan{"lan", "192.0.2.2/24", ""}, "198.18.2.0/24", how)
	acquaint(t, one, two)
	first, _ := newPodOn(t, one, "first")
	heard := func(m *machine) uint64 {
		var packets uint64
		m.do(t, func() {
			link, err := m.network.plan.findTunnel()
			must(t, err)
			packets = link.Attrs().Statistics.RxPackets
		})
		return packets
	}
	forged := append([]byte{8, 0, 0, 0, 0, byte(api.DefaultVXLANVNI >> 8), byte(api.DefaultVXLANVNI & 0xff), 0}, make([]byte, 60)...)
	send := func(to netip.Addr) {
		conn, err := net.Dial("udp4", netip.AddrPortFrom(to, api.DefaultVXLANPort).String())
		must(t, err)
		defer conn.Close()
		_, err = conn.Write(forged)
		must(t, err)
	}
	for _, m := range []*machine{one, two} {
		other := map[*machine]*machine{one: two, two: one}[m]
		copy(forged[8:], hardwareAddress(m.peer.Addresses[0]))
		for _, to := range []netip.Addr{m.peer.Addresses[0], gateway(m.peer.Prefixes[0])} {
			before, want := heard(m), uint64(1)
			first.do(t, func() { send(to) })
			if m == two && to != m.peer.Addresses[0] {
				want++ // it comes as any packet to that address does, and what is in it does not
			}
			other.do(t, func() { send(m.peer.Addresses[0]) }) // the same from a machine is taken: the packet is no wrong one
			got := heard(m) - before
			for deadline := time.Now().Add(2 * time.Second); got < want && time.Now().Before(deadline); got = heard(m) - before {
			}
			if got != want {
				t.Errorf("machine %s has taken %d packets when a pod sends to %s, want %d", m.peer.Node, got, to, want)
			}
		}
	}
}
