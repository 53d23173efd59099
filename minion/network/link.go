package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podDevice is the name of the device inside a sandbox.
const podDevice = "eth0"

// connect connects the sandbox's namespace to the machine. gateways are the machine's addresses in the pod CIDRs, one for each of
// the endpoint's addresses. It replaces a device that an interrupted call left.
func (p Plan) connect(e endpoint, gateways []netip.Addr) error {
	namespace, err := netns.GetFromPath(e.Sandbox.Namespace)
	if err != nil {
		return fmt.Errorf("cannot open the sandbox's network namespace: %w", err)
	}
	defer namespace.Close()
	if err := p.disconnect(e.Sandbox.ID); err != nil {
		return err
	}
	mtu := p.podMTU()
	outside := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: p.link(e.Sandbox.ID), MTU: mtu},
		PeerName:         podDevice,
		PeerHardwareAddr: e.Sandbox.hardwareAddress(),
		PeerNamespace:    netlink.NsFd(namespace),
	}
	if err := netlink.LinkAdd(outside); err != nil {
		return fmt.Errorf("cannot create the pod's network device %s: %w", outside.Name, explainDevice(err, "veth"))
	}
	made, err := netlink.LinkByName(outside.Name) // read back its hardware address
	if err == nil {
		err = netlink.LinkSetAlias(made, p.alias(e.Sandbox.ID))
	}
	if err == nil {
		err = confine(outside.Name, len(e.Sandbox.Ports) > 0)
	}
	if err == nil {
		err = setUpOutside(made, e, gateways)
	}
	if err == nil {
		err = setUpInside(namespace, mtu, e, gateways)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot set up the pod's network device %s: %w", outside.Name, err), p.disconnect(e.Sandbox.ID))
	}
	return nil
}

// confine restricts what the machine accepts from the pod's device: no spoofed addresses, no router advertisements, no redirects,
// and no ARP requests from addresses that are not routed to the device, each of which would take a place in the machine's table of
// neighbors. With localPorts, connections from the machine's loopback may leave by the device. It writes only what differs.
func confine(device string, localPorts bool) error {
	settings := map[string]string{"ipv4/conf/rp_filter": "1", "ipv4/conf/arp_filter": "1", "ipv4/conf/accept_redirects": "0",
		"ipv6/conf/accept_ra": "0", "ipv6/conf/accept_redirects": "0"}
	if localPorts {
		settings["ipv4/conf/route_localnet"] = "1"
	}
	for name, want := range settings {
		path := filepath.Join(sysctls, filepath.Dir(name), device, filepath.Base(name))
		value, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(value)) == want {
			continue // it is so, the kernel lacks IPv6, or the device is gone by now
		}
		if err := os.WriteFile(path, []byte(want), 0); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// single returns the prefix of one address.
func single(address netip.Addr) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen())}
}

// deviceAddress disables duplicate address detection, because no one else can have the address and it is used at once.
func deviceAddress(address netip.Addr) *netlink.Addr {
	a := &netlink.Addr{IPNet: single(address)}
	if address.Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// setUpOutside assigns the gateways' addresses to the machine's end, and routes the pod's addresses to it. Pods see the machine
// under a gateway's address.
func setUpOutside(link netlink.Link, e endpoint, gateways []netip.Addr) error {
	for _, gateway := range gateways {
		if err := netlink.AddrReplace(link, deviceAddress(gateway)); err != nil {
			return fmt.Errorf("address %s: %w", gateway, err)
		}
	}
	if err := settleIPv6(&netlink.Handle{}, link, e.Addresses); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return routeTo(link, e, gateways)
}

// settleIPv6 sets the device's IPv6 link-local address. The kernel would set it itself, but wait one or two seconds for duplicates
// before it uses the address and discovers neighbors. There can be no duplicate here.
func settleIPv6(h *netlink.Handle, link netlink.Link, addresses []netip.Addr) error {
	if _, ok := ofFamily(addresses, netip.IPv6Unspecified()); !ok {
		return nil
	}
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := h.LinkSetIP6AddrGenMode(link, none); err != nil {
		return fmt.Errorf("IPv6 on %s: %w", link.Attrs().Name, err)
	}
	address := deviceAddress(linkLocal(link.Attrs().HardwareAddr))
	address.Mask = net.CIDRMask(64, 128)
	if err := h.AddrReplace(link, address); err != nil {
		return fmt.Errorf("IPv6 on %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// routeTo routes the pod's addresses to its device.
func routeTo(link netlink.Link, e endpoint, gateways []netip.Addr) error {
	for _, address := range e.Addresses {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(address), Scope: netlink.SCOPE_LINK}
		if gateway, ok := ofFamily(gateways, address); ok {
			route.Src = gateway.AsSlice()
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", address, err)
		}
	}
	return nil
}

// repairLink restores the addresses, routes and settings of the sandbox's device, and sets the MTU of both ends. A missing device is
// no error: the pod has ended.
func (p Plan) repairLink(e endpoint, mtu int) error {
	link, err := netlink.LinkByName(p.link(e.Sandbox.ID))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && link.Attrs().MTU != mtu {
		err = errors.Join(netlink.LinkSetMTU(link, mtu), setMTUInside(e.Sandbox.Namespace, mtu))
	}
	if err == nil {
		err = confine(p.link(e.Sandbox.ID), len(e.Sandbox.Ports) > 0)
	}
	var have []netlink.Route
	if err == nil {
		have, err = netlink.RouteList(link, netlink.FAMILY_ALL)
	}
	for _, address := range e.Addresses {
		there := slices.ContainsFunc(have, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == single(address).String() })
		if err == nil && !there {
			err = setUpOutside(link, e, p.gateways())
		}
	}
	if err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("cannot repair the network device %s of pod %s: %w", p.link(e.Sandbox.ID), e.Sandbox.Pod, err)
	}
	return nil
}

func setMTUInside(path string, mtu int) error {
	namespace, err := netns.GetFromPath(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the pod has ended
	}
	if err != nil {
		return err
	}
	defer namespace.Close()
	inside, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	link, err := inside.LinkByName(podDevice)
	if err != nil {
		return err
	}
	return inside.LinkSetMTU(link, mtu)
}

// setUpInside assigns the addresses to the pod's end, and routes everything to the gateways.
func setUpInside(namespace netns.NsHandle, mtu int, e endpoint, gateways []netip.Addr) error {
	inside, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("in the sandbox: %w", err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(podDevice)
	if err == nil {
		err = inside.LinkSetMTU(link, mtu)
	}
	for _, address := range e.Addresses {
		if err == nil {
			err = inside.AddrAdd(link, deviceAddress(address))
		}
	}
	if err == nil {
		err = settleIPv6(inside, link, e.Addresses)
	}
	if err == nil {
		err = inside.LinkSetUp(link)
	}
	for _, gateway := range gateways {
		if err == nil {
			err = inside.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(gateway), Scope: netlink.SCOPE_LINK})
		}
		if err == nil {
			err = inside.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everything(gateway), Gw: gateway.AsSlice()})
		}
	}
	if err != nil {
		return fmt.Errorf("in the sandbox: %w", err)
	}
	return nil
}

// everything returns the prefix of all addresses of the family.
func everything(like netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, like.BitLen()/8), Mask: net.CIDRMask(0, like.BitLen())}
}

// disconnect removes the sandbox's device. The kernel has removed it already if the namespace is gone.
func (p Plan) disconnect(sandbox string) error {
	link, err := netlink.LinkByName(p.link(sandbox))
	if err == nil && link.Attrs().Alias != p.alias(sandbox) && link.Attrs().Alias != "" {
		return fmt.Errorf("cannot use network device %s: it belongs to something else (%s)", link.Attrs().Name, link.Attrs().Alias)
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("cannot remove the pod's network device %s: %w", p.link(sandbox), err)
	}
	return nil
}

// removeLinks removes all devices of the node.
func (p Plan) removeLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list network devices: %w", err)
	}
	var problems []error
	for _, link := range links {
		if !strings.HasPrefix(link.Attrs().Name, p.LinkPrefix()) || !strings.HasPrefix(link.Attrs().Alias, p.alias("")) {
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
			problems = append(problems, fmt.Errorf("cannot remove network device %s: %w", link.Attrs().Name, err))
		}
	}
	return errors.Join(problems...)
}
