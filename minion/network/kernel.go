package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctls is where the kernel's network settings are.
const (
	sysctls       = "/proc/sys/net"
	sysctlForward = sysctls + "/ipv4/ip_forward"
)

// routeBase is the metric of the first of our unreachable routes: every route that knows better comes before it.
const routeBase = 4_000_000_000

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

// unreachable is the route for the addresses of pods that are not there: "no route to host" at once, and nothing that
// leaves the machine. Each node has one of its own, told apart by the metric.
func (p Plan) unreachable() (*netlink.Route, error) {
	cidr := p.ClusterCIDR
	if cidr == "" {
		cidr = p.PodCIDR
	}
	_, destination, err := net.ParseCIDR(cidr)
	if err != nil {
		return nil, fmt.Errorf("cannot read the pods' range: %w", err)
	}
	return &netlink.Route{
		Dst:      destination,
		Type:     unix.RTN_UNREACHABLE,
		Priority: routeBase + int(p.hash()%100_000_000),
	}, nil
}

func (p Plan) addRoute() error {
	route, err := p.unreachable()
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("cannot set the unreachable route for %s: %w", route.Dst, err)
	}
	return nil
}

func (p Plan) removeRoute() error {
	if p.ClusterCIDR == "" && p.PodCIDR == "" {
		return nil // it was for a range that is not known any more, and went with it
	}
	route, err := p.unreachable()
	if err != nil {
		return err
	}
	if err := netlink.RouteDel(route); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot remove the unreachable route for %s: %w", route.Dst, err)
	}
	return nil
}

// outwardMTU is the MTU of the interface with the default route, which packets of pods must fit through; 1500 if there
// is none.
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
