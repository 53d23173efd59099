package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api"
)

// sysctls is the directory of the kernel's network settings.
const (
	sysctls        = "/proc/sys/net"
	sysctlForward  = sysctls + "/ipv4/ip_forward"
	sysctlForward6 = sysctls + "/ipv6/conf/all/forwarding"
)

// routeProtocol marks our routes (rtnetlink(7), /etc/iproute2/rt_protos). No other program is known to use this number.
const routeProtocol = 75

// routeBase is the lowest metric of our routes. It is high, so that every other route takes precedence.
const routeBase = 4_000_000_000

// routeMetric differs between the nodes of one machine.
func (p Plan) routeMetric() int { return routeBase + int(p.hash()%100_000_000) }

// enable sets a sysctl to 1. It does not write if it is 1 already, because the file may be read-only.
func enable(sysctl string) error {
	if value, err := os.ReadFile(sysctl); err == nil && strings.TrimSpace(string(value)) == "1" {
		return nil
	}
	if err := os.WriteFile(sysctl, []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot set %s to 1: %w", sysctl, err)
	}
	return nil
}

// forward enables forwarding for the family.
func forward(f Family) error {
	if f == IPv4 {
		return enable(sysctlForward)
	}
	if !exists(sysctlForward6) {
		return errors.New("the node has an IPv6 pod CIDR, but this machine's kernel has no IPv6: start it without ipv6.disable=1")
	}
	if err := keepRouterAdvertisements(); err != nil {
		return err
	}
	return enable(sysctlForward6)
}

// keepRouterAdvertisements lets devices that accept router advertisements go on doing so: the kernel ignores them on a machine that
// forwards, unless accept_ra is 2 (https://docs.kernel.org/networking/ip-sysctl.html).
func keepRouterAdvertisements() error {
	settings, err := filepath.Glob(sysctls + "/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range settings {
		if value, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(value)) != "1" || strings.Contains(path, "/all/") || strings.Contains(path, "/default/") {
			continue
		}
		if err := os.WriteFile(path, []byte("2"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot let a device accept router advertisements: %w", err)
		}
	}
	return nil
}

// unreachable returns the routes for addresses without a pod: connections fail at once with "no route to host", and no packet leaves
// the machine. With routers that route pod CIDRs, they cover this node's range only.
func (p Plan) unreachable() (routes []netlink.Route) {
	for _, own := range p.PodCIDRs {
		nowhere, _ := p.clusterCIDR(familyOf(own.Addr()))
		if p.Network.Mode == api.NetworkNone {
			nowhere = own
		}
		routes = append(routes, netlink.Route{Dst: network(nowhere), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol, Priority: p.routeMetric()})
	}
	return routes
}

// addRoutes adds the unreachable routes and leaves all other routes alone.
func (p Plan) addRoutes() error {
	var problems []error
	for _, route := range p.unreachable() {
		problems = append(problems, setRoute(route))
	}
	return errors.Join(problems...)
}

func setRoute(route netlink.Route) error {
	if err := netlink.RouteReplace(&route); err != nil {
		return fmt.Errorf("cannot set the route to %s: %w", route.Dst, err)
	}
	return nil
}

// hopRoute converts a hop to a route; tunnel is the index of the VXLAN device.
func (p Plan) hopRoute(h hop, tunnel int) netlink.Route {
	route := netlink.Route{
		Dst: network(h.prefix), Gw: h.via.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Type: unix.RTN_UNICAST,
		LinkIndex: h.index, Protocol: routeProtocol, Priority: p.routeMetric(),
	}
	if h.device == "" {
		route.LinkIndex = tunnel
	}
	if h.source.IsValid() {
		route.Src = h.source.AsSlice()
	}
	return route
}

func network(prefix netip.Prefix) *net.IPNet {
	address := prefix.Masked().Addr()
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(prefix.Bits(), address.BitLen())}
}

// routes lists this node's routes except those to its own pods.
func (p Plan) routes() ([]netlink.Route, error) {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	var own []netlink.Route
	for _, route := range list {
		if route.Priority == p.routeMetric() {
			own = append(own, route)
		}
	}
	return own, nil
}

// applyRoutes replaces the node's routes by these, and leaves equal ones alone.
func (p Plan) applyRoutes(want []netlink.Route) error {
	have, err := p.routes()
	if err != nil {
		return err
	}
	missing := map[string]netlink.Route{}
	for _, route := range want {
		missing[routeKey(route)] = route
	}
	var problems []error
	for _, route := range have {
		if _, ok := missing[routeKey(route)]; ok {
			delete(missing, routeKey(route))
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, syscall.ESRCH) {
			problems = append(problems, fmt.Errorf("cannot remove the route to %s: %w", route.Dst, err))
		}
	}
	for _, route := range missing {
		problems = append(problems, setRoute(route))
	}
	return errors.Join(problems...)
}

func routeKey(route netlink.Route) string {
	if route.Type == unix.RTN_UNREACHABLE {
		return fmt.Sprint("unreachable ", route.Dst)
	}
	return fmt.Sprint(route.Dst, route.Gw, route.LinkIndex, route.Src)
}

// lookUpRoute asks the kernel for its route to an address. It sends no packet.
func lookUpRoute(address netip.Addr) (kernelRoute, error) {
	routes, err := netlink.RouteGet(address.AsSlice())
	if err != nil || len(routes) == 0 {
		return kernelRoute{}, fmt.Errorf("this machine has no route to %s: %w", address, err)
	}
	route := routes[0]
	if route.Type == unix.RTN_LOCAL {
		return kernelRoute{local: true}, nil
	}
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return kernelRoute{}, fmt.Errorf("cannot find the device to %s: %w", address, err)
	}
	to := kernelRoute{device: link.Attrs().Name, index: route.LinkIndex}
	if gateway, ok := netip.AddrFromSlice(route.Gw); ok {
		to.gateway = gateway.Unmap()
	} else if route.Via != nil {
		to.gateway = netip.IPv6Unspecified()
	}
	return to, nil
}

// linkMTU returns the MTU of the device with the node's address, which pods' packets leave by. Without one it falls back to the
// device of the default route, then to 1500.
func (p Plan) linkMTU() int {
	end, ok := p.tunnelEnd()
	links, err := netlink.LinkList()
	if !ok || err != nil {
		return defaultRouteMTU()
	}
	for _, link := range links {
		addresses, err := netlink.AddrList(link, int(familyOf(end)))
		if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 || link.Attrs().MTU <= 0 {
			continue
		}
		for _, address := range addresses {
			if address.IP.Equal(end.AsSlice()) {
				return link.Attrs().MTU
			}
		}
	}
	return defaultRouteMTU()
}

// podMTU is linkMTU less the tunnel's overhead, if there is a tunnel.
func (p Plan) podMTU() int {
	mtu, tunnel := p.linkMTU(), p.Network.Mode == api.NetworkVXLAN
	if p.Network.Mode == api.NetworkAuto {
		link, err := p.findTunnel()
		tunnel = err == nil && link != nil
	}
	if end, ok := p.tunnelEnd(); ok && tunnel {
		mtu -= overhead(end)
	}
	return mtu
}

// defaultRouteMTU returns the MTU of the device of the default route; 1500 if there is none.
func defaultRouteMTU() int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 1500
	}
	for _, route := range routes {
		if route.Dst != nil && !route.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil && link.Attrs().MTU > 0 {
			return link.Attrs().MTU
		}
	}
	return 1500
}
