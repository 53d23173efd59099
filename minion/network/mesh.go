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
	Node string
	// Addresses are the machine's own, at most one of each family.
	Addresses []netip.Addr
	// Prefixes are the ranges of addresses that its pods have.
	Prefixes []netip.Prefix
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

// way is how the machine's own packets go to an address.
type way struct {
	// local: the address is this machine's.
	local bool
	// device is the link's name and index.
	device string
	index  int
	// gateway is the router on that link; not valid if the address itself is on it.
	gateway netip.Addr
}

// hop is where packets for a range of addresses go.
type hop struct {
	prefix netip.Prefix
	via    netip.Addr
	// device is the link's name and index; empty for the VXLAN device.
	device string
	index  int
	// source is the address that the machine's own packets have; not valid if that is the kernel's to choose.
	source netip.Addr
}

// tunnel is the VXLAN device of a peer: its hardware address, the machine that it is on, and the addresses that hops name
// it by.
type tunnel struct {
	machine  netip.Addr
	hardware net.HardwareAddr
	names    []netip.Addr
}

// mesh is all that leads from a node to the pods of its peers. Nodes know it from each other's Node objects alone: the
// hardware address of a VXLAN device follows from its machine's address.
type mesh struct {
	hops    []hop
	tunnels []tunnel
}

// hardwareAddress is that of the VXLAN device of the machine with the address: a locally administered one
// (https://standards.ieee.org/products-programs/regauth/).
func hardwareAddress(machine netip.Addr) net.HardwareAddr {
	sum := sha256.Sum256([]byte("k8sm vxlan " + machine.String()))
	sum[0] = sum[0]&^1 | 2
	return sum[:6]
}

// linkLocal is the address that a device with the hardware address has in IPv6
// (https://www.rfc-editor.org/rfc/rfc4291#appendix-A).
func linkLocal(hardware net.HardwareAddr) netip.Addr {
	h := hardware
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: h[0] ^ 2, h[1], h[2], 0xff, 0xfe, h[3], h[4], h[5]})
}

// mesh decides how each peer's pods are reached. look finds the way to a machine. Peers that cannot be reached are left
// out, and the error says which and why; the others are in the mesh all the same.
func (p Plan) mesh(peers []Peer, look func(netip.Addr) (way, error)) (m mesh, err error) {
	var problems []error
	for _, peer := range peers {
		for _, prefix := range peer.Prefixes {
			if err := p.reach(&m, peer, prefix, look); err != nil {
				problems = append(problems, fmt.Errorf("cannot reach the pods of node %s in %s: %w", peer.Node, prefix, err))
			}
		}
	}
	return m, errors.Join(problems...)
}

func (p Plan) reach(m *mesh, peer Peer, prefix netip.Prefix, look func(netip.Addr) (way, error)) error {
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
	to, err := look(machine)
	if err != nil {
		return err
	}
	switch {
	case to.local: // several nodes on one machine, which has routes to all of its pods
		return nil
	case p.Network.Mode != api.NetworkVXLAN && ok && !to.gateway.IsValid():
		m.hops = append(m.hops, hop{prefix: prefix, via: machine, device: to.device, index: to.index})
		return nil
	case p.Network.Mode == api.NetworkRoutes:
		return fmt.Errorf("%s is behind router %s: with --network=routes nodes have to share a link; give --network=auto or vxlan", machine, to.gateway)
	}
	return p.dig(m, peer, prefix)
}

// dig leads the range through a tunnel. All tunnels of a cluster are of one family, IPv4 if nodes have that.
func (p Plan) dig(m *mesh, peer Peer, prefix netip.Prefix) error {
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
		return errors.New("IPv4 in VXLAN needs nodes with IPv4 addresses")
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

// tunnelEnd is the address that this machine sends and takes tunnelled packets at.
func (p Plan) tunnelEnd() (netip.Addr, bool) {
	if address, ok := ofFamily(p.Addresses, netip.IPv4Unspecified()); ok {
		return address, true
	}
	return ofFamily(p.Addresses, netip.IPv6Unspecified())
}

// overhead is what VXLAN adds to a packet: Ethernet's, IP's, UDP's and its own header.
func overhead(machine netip.Addr) int {
	if machine.Is6() {
		return 70
	}
	return 50
}

// String shows the mesh as ip(8) and bridge(8) would.
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
