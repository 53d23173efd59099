package machines

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// uplink is the machine's own end of its cable.
const uplink = "eth0"

// closedMetric is the metric of the routes that keep pod and service addresses on this machine. All other routes take precedence.
const closedMetric = 4_100_000_000

// Check returns an error if this machine already uses one of the ranges.
func (m *Machines) Check() error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list this machine's routes: %w", err)
	}
	for _, route := range routes {
		destination, ok := prefixOf(route.Dst)
		if !ok || destination.Bits() == 0 {
			continue
		}
		link, err := netlink.LinkByIndex(route.LinkIndex)
		if err != nil || link.Attrs().Name == m.bridge() {
			continue
		}
		for _, prefix := range m.ranges {
			if prefix.Overlaps(destination) {
				return fmt.Errorf("cannot use --node-cidr=%s: this machine has a route to %s by %s%s; give another range", prefix, destination, link.Attrs().Name, about(link))
			}
		}
	}
	return nil
}

func prefixOf(network *net.IPNet) (prefix netip.Prefix, ok bool) {
	if network == nil {
		return prefix, false
	}
	address, ok := netip.AddrFromSlice(network.IP)
	bits, _ := network.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), bits), ok
}

func networkOf(address netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, address.BitLen())}
}

// about returns the link's alias, if it has one.
func about(link netlink.Link) string {
	if alias := link.Attrs().Alias; alias != "" {
		return " (" + alias + ")"
	}
	return ""
}

// makeBridge creates the bridge with this machine's address, and the routes that keep the closed ranges on this machine.
func (m *Machines) makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = m.bridge()
	// Without an address of its own a bridge has that of one of its ports, and changes it when that one goes.
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0x6b, 0x6d, m.hash(0), m.hash(1), m.hash(2)}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot make the nodes' bridge %s: %w", m.bridge(), err)
	}
	link, err := netlink.LinkByName(m.bridge())
	if err != nil {
		return fmt.Errorf("cannot find the nodes' bridge %s: %w", m.bridge(), err)
	}
	if err := netlink.LinkSetAlias(link, fmt.Sprintf("nodes of cluster %s in %s", m.cfg.Cluster, m.cfg.Dir)); err != nil {
		return fmt.Errorf("cannot name the nodes' bridge: %w", err)
	}
	for _, prefix := range m.ranges {
		if err := setUp(link, gateway(prefix), prefix.Bits()); err != nil {
			return err
		}
	}
	for _, text := range m.cfg.Closed {
		for _, cidr := range splitRanges(text) {
			if err := netlink.RouteReplace(closed(cidr)); err != nil {
				return fmt.Errorf("cannot keep %s on this machine: %w", cidr, err)
			}
		}
	}
	return enableForwarding()
}

func (m *Machines) hash(i int) byte {
	var b byte
	_, _ = fmt.Sscanf(m.mark[2*i:2*i+2], "%02x", &b)
	return b
}

// setUp brings a link up and assigns an address that is known to be unique.
func setUp(link netlink.Link, address netip.Addr, bits int) error {
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: networkOf(address, bits), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("cannot give %s the address %s: %w", link.Attrs().Name, address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot turn on %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// makeMachine creates one machine: its namespace, cable and default route.
func (m *Machines) makeMachine(machine *Machine) error {
	if err := ensureNamespace(machine.namespace); err != nil {
		return err
	}
	if err := m.ensureCable(machine); err != nil {
		return err
	}
	return machine.Enter(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("cannot turn on lo: %w", err)
		}
		link, err := netlink.LinkByName(uplink)
		if err != nil {
			return err
		}
		for i, address := range []netip.Addr{machine.Address, machine.Address6} {
			if !address.IsValid() {
				continue
			}
			if err := setUp(link, address, m.ranges[i].Bits()); err != nil {
				return err
			}
			if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway(m.ranges[i]).AsSlice()}); err != nil {
				return fmt.Errorf("cannot set the default route by %s: %w", gateway(m.ranges[i]), err)
			}
		}
		return nil
	})
}

// ensureCable makes the machine's cable to the bridge unless it is there, whole.
func (m *Machines) ensureCable(machine *Machine) error {
	bridge, err := netlink.LinkByName(m.bridge())
	if err != nil {
		return err
	}
	there := machine.Enter(func() error { _, err := netlink.LinkByName(uplink); return err }) == nil
	if link, err := netlink.LinkByName(machine.link); err == nil && there {
		return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
	}
	if err := removeLink(machine.link); err != nil {
		return err
	}
	namespace, err := netns.GetFromPath(machine.namespace)
	if err != nil {
		return err
	}
	defer namespace.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = machine.link, bridge.Attrs().Index
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: uplink, PeerNamespace: netlink.NsFd(namespace)}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("cannot make the link %s: %w", machine.link, err)
	}
	link, err := netlink.LinkByName(machine.link)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// removeLink removes a link if it is there.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the link %s: %w", name, err)
	}
	return nil
}

// closed returns the route for unknown addresses of pods and services: connections fail at once with "no route to host", and no
// packet leaves this machine.
func closed(cidr string) *netlink.Route {
	_, destination, _ := net.ParseCIDR(cidr) // which others have validated
	return &netlink.Route{Dst: destination, Type: unix.RTN_UNREACHABLE, Priority: closedMetric}
}

// splitRanges reads a list of ranges, one for each IP family.
func splitRanges(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
