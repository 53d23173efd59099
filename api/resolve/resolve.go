// Package resolve finds the addresses of servers that flags and other objects name. It must never import anything else of k8sm.
package resolve

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// lookupTimeout bounds the look-up of one name.
const lookupTimeout = 3 * time.Second

// Hosts returns the addresses of servers, sorted. Each is given as a URL, HOST:PORT or HOST, where HOST is an address or a name. A name
// that does not resolve has no address.
func Hosts(ctx context.Context, servers ...string) []netip.Addr {
	addresses := []netip.Addr{}
	for _, server := range servers {
		addresses = append(addresses, host(ctx, hostOf(server))...)
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}

func hostOf(server string) string {
	if u, err := url.Parse(server); strings.Contains(server, "://") && err == nil {
		return u.Hostname()
	}
	if host, _, err := net.SplitHostPort(server); err == nil {
		return host
	}
	return server
}

func host(ctx context.Context, name string) []netip.Addr {
	if address, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{address.Unmap().WithZone("")}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if name == "" || err != nil {
		return nil
	}
	for i, address := range found {
		found[i] = address.Unmap()
	}
	return found
}
