package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Neighborhood returns the addresses of this machine, and those of the routers that it sends packets to. Routes to pods are no such
// routes.
func Neighborhood() (own, routers []netip.Addr, err error) {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list this machine's addresses: %w", err)
	}
	for _, address := range addresses {
		own = appendIP(own, address.IP)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list routes: %w", err)
	}
	for _, route := range routes {
		if route.Protocol == routeProtocol {
			continue
		}
		routers = appendIP(routers, route.Gw)
		if via, ok := route.Via.(*netlink.Via); ok {
			routers = appendIP(routers, via.Addr)
		}
		for _, hop := range route.MultiPath {
			routers = appendIP(routers, hop.Gw)
		}
	}
	return own, routers, nil
}

func appendIP(list []netip.Addr, ip net.IP) []netip.Addr {
	if address, ok := netip.AddrFromSlice(ip); ok && !address.IsUnspecified() {
		list = append(list, address.Unmap())
	}
	return list
}
