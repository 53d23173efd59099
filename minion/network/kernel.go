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

// sysctls is where the kernel's network settings are.
const (
	sysctls        = "/proc/sys/net"
	sysctlForward  = sysctls + "/ipv4/ip_forward"
	sysctlForward6 = sysctls + "/ipv6/conf/all/forwarding"
)

// routeProtocol is who has made our routes, in the kernel's words (rtnetlink(7), /etc/iproute2/rt_protos); nobody else is
// known to use this number.
const routeProtocol = 75

// routeBase is the metric of the first of our routes: every route that knows better comes before it.
const routeBase = 4_000_000_000

// routeMetric tells the routes of the nodes of a machine apart.
func (p Plan) routeMetric() int { return routeBase + int(p.hash()%100_000_000) }

// enable sets a sysctl to 1 unless it is so already; what is not ours to write stays unwritten if it is right.
func enable(sysctl string) error {
	if value, err := os.ReadFile(sysctl); err == nil && strings.TrimSpace(string(value)) == "1" {
		return nil
	}
	if err := os.WriteFile(sysctl, []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot set %s to 1: %w", sysctl, err)
	}
	return nil
}

// forward has the kernel forward packets of the family.
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

// keepRouterAdvertisements lets devices go on hearing them that do so: a machine that forwards is a router itself, which hears
// them no more unless told to (https://docs.kernel.org/networking/ip-sysctl.html, accept_ra).
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
			return fmt.Errorf("cannot let a device hear router advertisements: %w", err)
		}
	}
	return nil
}

// unreachable are the routes for the addresses of pods that are not there: "no route to host" at once, and nothing that
// leaves the machine. Where routers know the way to other nodes' pods they are for those of this node only.
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

// addRoutes sets the unreachable routes, and leaves all others as they are.
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

// hopRoute is the hop as a route; tunnel is the index of the VXLAN device.
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

// routes lists those of this node, but the ones to its own pods.
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

// applyRoutes makes the node's routes these, and leaves alone those that are right.
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

// look asks the kernel for the way to an address, which sends nothing.
func look(address netip.Addr) (way, error) {
	routes, err := netlink.RouteGet(address.AsSlice())
	if err != nil || len(routes) == 0 {
		return way{}, fmt.Errorf("this machine has no route to %s: %w", address, err)
	}
	route := routes[0]
	if route.Type == unix.RTN_LOCAL {
		return way{local: true}, nil
	}
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return way{}, fmt.Errorf("cannot find the device to %s: %w", address, err)
	}
	to := way{device: link.Attrs().Name, index: route.LinkIndex}
	if gateway, ok := netip.AddrFromSlice(route.Gw); ok {
		to.gateway = gateway.Unmap()
	} else if route.Via != nil {
		to.gateway = netip.IPv6Unspecified()
	}
	return to, nil
}

// linkMTU is the MTU of the device that has the node's address, by which packets of pods leave; if there is no such one, of
// the device with the default route, else 1500.
func (p Plan) linkMTU() int {
	end, ok := p.tunnelEnd()
	links, err := netlink.LinkList()
	if !ok || err != nil {
		return outwardMTU()
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
	return outwardMTU()
}

// podMTU leaves room for the tunnel's headers if there is one.
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

// outwardMTU is the MTU of the device with the default route; 1500 if there is none.
func outwardMTU() int {
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
