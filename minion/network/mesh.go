package network

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/k8sm/k8sm/api"
)

// Peer is another node of the cluster, as its Node object describes it.
type Peer struct {
	Node string `json:"node"`
	// Addresses are the machine's own, at most one per family.
	Addresses []netip.Addr `json:"addresses"`
	// Prefixes are the address ranges of its pods.
	Prefixes []netip.Prefix `json:"prefixes"`
}

// address returns the peer's address of the family.
func (p Peer) address(like netip.Addr) (netip.Addr, bool) { return ofFamily(p.Addresses, like) }

func ofFamily(addresses []netip.Addr, like netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(addresses, func(a netip.Addr) bool { return a.Is4() == like.Is4() })
	if i < 0 {
		return netip.Addr{}, false
	}
	return addresses[i], true
}

// Join returns the peers that are told, and of the known ones those of which nothing is told, as far as no other peer has their prefixes
// now. They are sorted by name.
func Join(known, told []Peer) []Peer {
	all, names := slices.Clone(told), map[string]bool{}
	for _, peer := range told {
		names[peer.Node] = true
	}
	for _, peer := range known {
		if !names[peer.Node] && !slices.ContainsFunc(told, peer.overlaps) {
			all = append(all, peer)
		}
	}
	slices.SortFunc(all, func(a, b Peer) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// overlaps reports whether the peers have an address of pods in common.
func (p Peer) overlaps(other Peer) bool {
	return slices.ContainsFunc(p.Prefixes, func(a netip.Prefix) bool { return slices.ContainsFunc(other.Prefixes, a.Overlaps) })
}

// kernelRoute is the kernel's route to an address.
type kernelRoute struct {
	// local says that the address is this machine's.
	local bool
	// device is the link's name and index.
	device string
	index  int
	// gateway is the router on that link; not valid if the address itself is on the link.
	gateway netip.Addr
}

// hop is the route for a prefix.
type hop struct {
	prefix netip.Prefix
	via    netip.Addr
	// device is the link's name and index; empty for the VXLAN device.
	device string
	index  int
	// source is the source address of the machine's own packets; not valid if the kernel chooses.
	source netip.Addr
}

// tunnel is a peer's VXLAN device: its hardware address, its machine, and the addresses by which hops name it.
type tunnel struct {
	machine  netip.Addr
	hardware net.HardwareAddr
	names    []netip.Addr
}

// mesh is how a node reaches the pods of its peers. It follows from the Node objects alone: the hardware address of a VXLAN device
// is derived from its machine's address.
type mesh struct {
	hops    []hop
	tunnels []tunnel
}

// hardwareAddress returns the MAC address of the VXLAN device on the machine with this address.
func hardwareAddress(machine netip.Addr) net.HardwareAddr {
	return localHardwareAddress("k8sm vxlan " + machine.String())
}

// localHardwareAddress derives a MAC address from a name, a locally administered one
// (https://standards.ieee.org/products-programs/regauth/).
func localHardwareAddress(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	sum[0] = sum[0]&^1 | 2
	return sum[:6]
}

// linkLocal returns the IPv6 link-local address of a device with this hardware address
// (https://www.rfc-editor.org/rfc/rfc4291#appendix-A).
func linkLocal(hardware net.HardwareAddr) netip.Addr {
	h := hardware
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: h[0] ^ 2, h[1], h[2], 0xff, 0xfe, h[3], h[4], h[5]})
}

// mesh decides how to reach each peer's pods. lookUp returns the kernel's route to a machine. Unreachable peers are left out, and the
// error says why; the mesh has all others.
func (p Plan) mesh(peers []Peer, lookUp func(netip.Addr) (kernelRoute, error)) (m mesh, err error) {
	var problems []error
	for _, peer := range peers {
		for _, prefix := range peer.Prefixes {
			if err := p.reach(&m, peer, prefix, lookUp); err != nil {
				problems = append(problems, fmt.Errorf("cannot reach the pods of node %s in %s: %w", peer.Node, prefix, err))
			}
		}
	}
	return m, errors.Join(problems...)
}

func (p Plan) reach(m *mesh, peer Peer, prefix netip.Prefix, lookUp func(netip.Addr) (kernelRoute, error)) error {
	if p.Network.Mode == api.NetworkNone {
		return nil
	}
	machine, ok := peer.address(prefix.Addr())
	if len(peer.Addresses) == 0 {
		return errors.New("the node has no InternalIP")
	}
	if !ok && p.Network.Mode == api.NetworkRoutes {
		return errors.New("the node has no InternalIP of that family")
	}
	if !ok {
		machine = peer.Addresses[0]
	}
	to, err := lookUp(machine)
	if err != nil {
		return err
	}
	switch {
	case to.local: // a node on the same machine, which routes to all its pods
		return nil
	case p.Network.Mode != api.NetworkVXLAN && ok && !to.gateway.IsValid():
		m.hops = append(m.hops, hop{prefix: prefix, via: machine, device: to.device, index: to.index})
		return nil
	case p.Network.Mode == api.NetworkRoutes:
		return fmt.Errorf("%s is behind router %s: --network=routes requires that nodes share a link; use --network=auto or vxlan", machine, to.gateway)
	}
	return p.addTunnelHop(m, peer, prefix)
}

// addTunnelHop routes the prefix through a tunnel. All tunnels of a cluster use one family: IPv4 if the nodes have it.
func (p Plan) addTunnelHop(m *mesh, peer Peer, prefix netip.Prefix) error {
	own, ok := p.tunnelEnd()
	if !ok {
		return errors.New("this node's own address is not known")
	}
	machine, ok := peer.address(own)
	if !ok {
		return fmt.Errorf("the node has no InternalIP of the family of %s", own)
	}
	t := tunnel{machine: machine, hardware: hardwareAddress(machine)}
	name := machine
	if prefix.Addr().Is6() {
		name = linkLocal(t.hardware)
	} else if machine.Is6() {
		return errors.New("IPv4 over VXLAN requires nodes with IPv4 addresses")
	}
	i := slices.IndexFunc(m.tunnels, func(t tunnel) bool { return t.machine == machine })
	if i < 0 {
		i, m.tunnels = len(m.tunnels), append(m.tunnels, t)
	}
	if names := &m.tunnels[i].names; !slices.Contains(*names, name) {
		*names = append(*names, name)
	}
	source, _ := ofFamily(p.gateways(), prefix.Addr())
	m.hops = append(m.hops, hop{prefix: prefix, via: name, source: source})
	return nil
}

// tunnelEnd returns the address at which this machine sends and receives tunnelled packets.
func (p Plan) tunnelEnd() (netip.Addr, bool) {
	if address, ok := ofFamily(p.Addresses, netip.IPv4Unspecified()); ok {
		return address, true
	}
	return ofFamily(p.Addresses, netip.IPv6Unspecified())
}

// overhead is the size of VXLAN's headers: Ethernet, IP, UDP and VXLAN.
func overhead(machine netip.Addr) int {
	if machine.Is6() {
		return 70
	}
	return 50
}

// String formats the mesh like ip(8) and bridge(8).
func (m mesh) String() string {
	var out strings.Builder
	for _, h := range m.hops {
		fmt.Fprintf(&out, "route %s via %s dev %s", h.prefix, h.via, cmp.Or(h.device, "VXLAN"))
		if h.source.IsValid() {
			fmt.Fprintf(&out, " src %s", h.source)
		}
		fmt.Fprintln(&out)
	}
	for _, t := range m.tunnels {
		fmt.Fprintf(&out, "fdb %s dev VXLAN dst %s\n", t.hardware, t.machine)
		for _, name := range t.names {
			fmt.Fprintf(&out, "neigh %s lladdr %s dev VXLAN\n", name, t.hardware)
		}
	}
	return out.String()
}
