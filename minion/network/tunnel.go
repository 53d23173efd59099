package network

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tunnelName is the name of the machine's VXLAN device for the cluster. Nodes on one machine share it, because the kernel allows one
// device per VNI and port. Each node has an address on it, and the last one that leaves removes it.
func (p Plan) tunnelName() string { return fmt.Sprintf("kmx%08x", Plan{Cluster: p.Cluster}.hash()) }

func (p Plan) tunnelAlias() string { return "k8sm " + p.Cluster }

// findTunnel returns the device, or nil if there is none.
func (p Plan) findTunnel() (netlink.Link, error) {
	link, err := netlink.LinkByName(p.tunnelName())
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find VXLAN device %s: %w", p.tunnelName(), err)
	}
	if link.Attrs().Alias != p.tunnelAlias() && link.Attrs().Alias != "" {
		return nil, fmt.Errorf("cannot use network device %s: it belongs to something else (%s)", p.tunnelName(), link.Attrs().Alias)
	}
	return link, nil
}

// enterTunnel creates the device unless it is right, and adds this node's addresses to it.
func (p Plan) enterTunnel() (netlink.Link, error) {
	end, ok := p.tunnelEnd()
	if !ok {
		return nil, errors.New("cannot create a VXLAN device: the node's own address is not known")
	}
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: p.tunnelName(), MTU: p.linkMTU() - overhead(end), HardwareAddr: hardwareAddress(end)},
		VxlanId:   p.Network.VXLANVNI, Port: p.Network.VXLANPort, SrcAddr: end.AsSlice(),
	}
	link, err := p.findTunnel()
	if err == nil && link != nil && !sameTunnel(link, want) {
		err, link = netlink.LinkDel(link), nil
	}
	if err == nil && link == nil {
		link, err = p.makeTunnel(want)
	}
	for _, gateway := range p.gateways() {
		if err == nil {
			err = netlink.AddrReplace(link, deviceAddress(gateway))
		}
	}
	if err == nil && link.Attrs().MTU != want.MTU {
		err = netlink.LinkSetMTU(link, want.MTU)
	}
	if err == nil && link.Attrs().OperState == netlink.OperDown {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot set up VXLAN device %s: %w", p.tunnelName(), err)
	}
	return link, nil
}

func sameTunnel(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.Port == want.Port && have.SrcAddr.Equal(want.SrcAddr) &&
		slices.Equal(have.HardwareAddr, want.HardwareAddr)
}

func (p Plan) makeTunnel(want *netlink.Vxlan) (netlink.Link, error) {
	switch err := netlink.LinkAdd(want); {
	case errors.Is(err, syscall.EEXIST):
		return nil, fmt.Errorf("another VXLAN device on this machine uses VNI %d on port %d: set another --vxlan-vni or --vxlan-port", want.VxlanId, want.Port)
	case err != nil:
		return nil, explainDevice(err, "vxlan")
	}
	err := netlink.LinkSetAlias(want, p.tunnelAlias())
	if err == nil {
		err = confine(want.Name, false)
	}
	if err == nil {
		err = settleIPv6(&netlink.Handle{}, want, p.gateways())
	}
	if err == nil {
		err = netlink.LinkSetUp(want)
	}
	if err != nil {
		return nil, errors.Join(err, netlink.LinkDel(want))
	}
	return netlink.LinkByName(want.Name)
}

// leaveTunnel removes this node's addresses from the device, and the device if no other node uses it. gone says that it has removed
// the device.
func (p Plan) leaveTunnel() (gone bool, err error) {
	link, err := p.findTunnel()
	if link == nil || err != nil {
		return false, err
	}
	for _, gateway := range p.gateways() {
		if err := netlink.AddrDel(link, deviceAddress(gateway)); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return false, fmt.Errorf("cannot remove address %s from VXLAN device %s: %w", gateway, p.tunnelName(), err)
		}
	}
	left, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("cannot list the addresses of VXLAN device %s: %w", p.tunnelName(), err)
	}
	if slices.ContainsFunc(left, func(a netlink.Addr) bool { return !a.IP.IsLinkLocalUnicast() }) {
		return false, nil
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
		return false, fmt.Errorf("cannot remove VXLAN device %s: %w", p.tunnelName(), err)
	}
	return true, nil
}

// applyTunnels sets the device's neighbor and forwarding entries for its peers, and removes others.
func applyTunnels(link netlink.Link, tunnels []tunnel) error {
	want := map[string]netlink.Neigh{}
	for _, t := range tunnels {
		entries := []netlink.Neigh{{Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: t.machine.AsSlice()}}
		for _, name := range t.names {
			entries = append(entries, netlink.Neigh{Family: int(familyOf(name)), IP: name.AsSlice()})
		}
		for _, entry := range entries {
			entry.LinkIndex, entry.State, entry.HardwareAddr = link.Attrs().Index, netlink.NUD_PERMANENT, t.hardware
			want[entryKey(entry)] = entry
		}
	}
	for _, kind := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		have, err := netlink.NeighList(link.Attrs().Index, kind)
		if err != nil {
			return fmt.Errorf("cannot list the neighbors on VXLAN device %s: %w", link.Attrs().Name, err)
		}
		for _, entry := range have {
			entry.Family = kind
			if _, ok := want[entryKey(entry)]; ok {
				delete(want, entryKey(entry))
			} else if entry.State&netlink.NUD_PERMANENT != 0 {
				_ = netlink.NeighDel(&entry) // no route uses it any more
			}
		}
	}
	for _, entry := range want {
		if err := netlink.NeighSet(&entry); err != nil {
			return fmt.Errorf("cannot set neighbor %s on VXLAN device %s: %w", entry.IP, link.Attrs().Name, err)
		}
	}
	return nil
}

func entryKey(n netlink.Neigh) string { return fmt.Sprint(n.Family, n.IP, n.HardwareAddr) }
