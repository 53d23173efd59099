package network

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api"
)

// joinLan gives a namespace that is no node's a device on the bridge.
func joinLan(t *testing.T, p pod, bridge, address string) {
	t.Helper()
	link, err := netlink.LinkByName(bridge)
	must(t, err)
	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.ID, MasterIndex: link.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(p.namespace)}
	must(t, netlink.LinkAdd(port))
	must(t, netlink.LinkSetUp(port))
	p.do(t, func() {
		eth0, err := netlink.LinkByName("eth0")
		must(t, err)
		parsed, err := netlink.ParseAddr(address)
		must(t, err)
		parsed.Flags = unix.IFA_F_NODAD
		must(t, netlink.AddrAdd(eth0, parsed))
		must(t, netlink.LinkSetUp(eth0))
	})
}

func TestPodWithAnAddressOfAPoolIsAPodAsAnyOther(t *testing.T) {
	inNamespace(t)
	lanA := lan{"br0", "198.51.100.1/24", ""}
	one := newMachine(t, "one", lanA, "198.18.1.0/24", api.PodNetwork{})
	two := newMachine(t, "two", lan{"br0", "198.51.100.2/24", ""}, "198.18.2.0/24", api.PodNetwork{})
	known := netip.MustParseAddr("198.19.7.7")
	static := newPod(t, "static", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80})
	static.Address, static.UID = known, "uid-static"
	one.do(t, func() {
		addresses, err := one.network.Attach(t.Context(), static.Sandbox)
		if err != nil || !slices.Equal(addresses, []netip.Addr{known}) {
			t.Fatalf("it was given %v, %v", addresses, err)
		}
	})
	static.serve(t, "80")
	beside, besideIP := newPodOn(t, one, "beside")
	far, farIP := newPodOn(t, two, "far")
	two.peer.Prefixes = prefixes("198.18.2.0/24")
	reach := func() {
		one.peer.Prefixes = prefixes("198.18.1.0/24", "198.19.7.7/32")
		one.do(t, func() { one.network.Reach([]Peer{two.peer}) })
		two.do(t, func() { two.network.Reach([]Peer{one.peer}) })
	}
	reach()
	outside := newPod(t, "outside") // a machine of the link that is no node
	joinLan(t, outside, "br0", "198.51.100.9/24")
	outside.serve(t, "80")
	for when, again := range map[string]func(){
		"first": func() {},
		"after a restart, before the nodes are known again": func() {
			one.do(t, func() { one.network = restarted(t, one.network); must(t, one.network.Adopt()) })
			two.do(t, func() { two.network = restarted(t, two.network); must(t, two.network.Adopt()) })
		},
		"flushed":              func() { flush(t, one); flush(t, two) },
		"the nodes seen again": reach,
	} {
		t.Run(when, func(t *testing.T) {
			again()
			beside.do(t, func() { expect(t, "198.19.7.7:80", besideIP) })
			far.do(t, func() { expect(t, "198.19.7.7:80", farIP) })
			static.do(t, func() {
				expect(t, besideIP+":80", "198.19.7.7")
				expect(t, farIP+":80", "198.19.7.7")
				expect(t, "198.51.100.9:80", "198.51.100.1") // outside, as all pods by the machine's address
			})
			outside.do(t, func() {
				if _, err := call("198.51.100.1:8080"); err != nil {
					t.Errorf("its host port: %v", err)
				}
			})
		})
	}
	one.do(t, func() { refusals(t, one.network, known) })
	addressGoesOn(t, one, known)
}

// The addresses may lead to other machines by then.
func TestNodesAreForgottenWhenTheMachineIsRebooted(t *testing.T) {
	inNamespace(t)
	one := newMachine(t, "one", lan{"br0", "198.51.100.1/24", ""}, "198.18.1.0/24", api.PodNetwork{})
	one.do(t, func() {
		n := one.network
		n.Reach([]Peer{{Node: "two", Addresses: addresses("198.51.100.2"), Prefixes: prefixes("198.18.2.0/24", "198.19.7.7/32")}})
		if n = restarted(t, n); len(n.peers) != 1 {
			t.Errorf("the next process knows the nodes %v", n.peers)
		}
		must(t, n.store.write(filepath.Join(n.store.dir, peersFile), knownPeers{Boot: "another", Peers: n.peers}))
		if n = restarted(t, n); n.peers != nil {
			t.Errorf("after another boot the nodes are %v", n.peers)
		}
	})
}

// The first pod of a node comes before the other nodes are known: its packets would leave by the default route, with the machine's address.
func TestFirstPodIsAttachedWhenTheOtherNodesAreKnown(t *testing.T) {
	inNamespace(t)
	one := newMachine(t, "one", lan{"br0", "198.51.100.1/24", "198.51.100.2"}, "198.18.1.0/24", api.PodNetwork{})
	two := newMachine(t, "two", lan{"br0", "198.51.100.2/24", ""}, "198.18.2.0/24", api.PodNetwork{})
	static := newPod(t, "static")
	static.Address = netip.MustParseAddr("198.19.7.7")
	two.do(t, func() {
		two.network.Reach([]Peer{one.peer})
		_, err := two.network.Attach(t.Context(), static.Sandbox)
		must(t, err)
	})
	static.serve(t, "80")
	two.peer.Prefixes = append(two.peer.Prefixes, prefixes("198.19.7.7/32")...)
	one.network.cfg.AwaitPeers = time.Hour
	known := make(chan struct{})
	time.AfterFunc(200*time.Millisecond, func() {
		one.do(t, func() { one.network.Reach([]Peer{two.peer}) })
		close(known)
	})
	first, firstIP := newPodOn(t, one, "first")
	first.do(t, func() { expect(t, "198.19.7.7:80", firstIP) })
	<-known
}

func TestPodsDoNotWaitForeverForTheOtherNodes(t *testing.T) {
	n := newTestNetwork(t)
	must(t, n.Setup([]string{testRange}))
	n.cfg.AwaitPeers = time.Hour
	one := newPod(t, "one")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := n.Attach(ctx, one.Sandbox); !errors.Is(err, context.DeadlineExceeded) || n.Addresses("one") != nil {
		t.Errorf("attached when the caller has gone: %v", err)
	}
	n = restarted(t, n)
	must(t, n.Adopt())
	n.cfg.AwaitPeers = time.Millisecond
	attach(t, n, one)
}

// flush empties the chains of a machine's network, and has it repair them.
func flush(t *testing.T, m *machine) {
	m.do(t, func() {
		ipt, err := iptables.New()
		must(t, err)
		for _, chain := range m.network.plan.Rules(IPv4) {
			must(t, ipt.ClearChain(chain.Table, chain.Name))
		}
		m.network.repair()
	})
}

// addressGoesOn has the address, which a sandbox of the pod has, given to the pod's next sandbox, and then to another pod.
func addressGoesOn(t *testing.T, one *machine, known netip.Addr) {
	next := newPod(t, "next")
	next.Address, next.UID = known, "uid-static"
	one.do(t, func() { // the same pod's next sandbox, though the kubelet has not stopped the one before
		_, err := one.network.Attach(t.Context(), next.Sandbox)
		must(t, err)
		if one.network.Addresses("static") != nil {
			t.Error("two sandboxes have the address")
		}
		must(t, one.network.Detach(t.Context(), "next"))
		other := newPod(t, "other")
		other.Address, other.UID = known, "uid-other"
		_, err = one.network.Attach(t.Context(), other.Sandbox)
		must(t, err)
		must(t, one.network.Teardown())
	})
}

// refusals are of addresses that the node must not give out.
func refusals(t *testing.T, n *Network, known netip.Addr) {
	t.Helper()
	for address, says := range map[string]string{
		known.String(): "pod default/static on this node still has it", "198.18.1.77": "lies in the cluster CIDR", "198.18.9.7": "lies in the cluster CIDR",
		"2001:db8::7": "in [198.18.1.0/24] only", "198.51.100.1": "the node's own",
	} {
		rival := newPod(t, "rival")
		rival.Address, rival.UID = netip.MustParseAddr(address), "uid-rival"
		if _, err := n.Attach(t.Context(), rival.Sandbox); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", address, err, says)
		}
		if n.Addresses("rival") != nil {
			t.Errorf("%s was refused and given", address)
		}
	}
}

// A minion that starts writes the rules anew, up to three times, while pods of before go on.
func TestConnectionsGoOnWhileRulesAreWrittenAnew(t *testing.T) {
	inNamespace(t)
	one := newMachine(t, "one", lan{"br0", "198.51.100.1/24", ""}, "198.18.1.0/24", api.PodNetwork{})
	outside := newPod(t, "outside") // a machine of the link that is no node
	joinLan(t, outside, "br0", "198.51.100.9/24")
	outside.serve(t, "80")
	static := newPod(t, "static")
	static.Address = netip.MustParseAddr("198.19.7.7")
	one.do(t, func() {
		_, err := one.network.Attach(t.Context(), static.Sandbox)
		must(t, err)
	})
	web, webIP := newPodOn(t, one, "web", Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80})
	enough, written := make(chan struct{}), make(chan error)
	go func() {
		var err error
		one.do(t, func() {
			for more := true; more; {
				err = errors.Join(err, one.network.Setup([]string{"198.18.1.0/24"}))
				select {
				case <-enough:
					more = false
				default:
				}
			}
		})
		written <- err
	}()
	for range 20 {
		static.do(t, func() {
			expect(t, "198.51.100.9:80", "198.51.100.1")
			expect(t, webIP+":80", "198.19.7.7")
		})
		web.do(t, func() { expect(t, "198.51.100.9:80", "198.51.100.1") })
		outside.do(t, func() { expect(t, "198.51.100.1:8080", "198.51.100.9") })
		if t.Failed() {
			break
		}
	}
	close(enough)
	must(t, <-written)
}
