package network

import (
	"fmt"
	"net/netip"
)

// pool assigns the addresses of one pod CIDR. It reuses a released address as late as possible: others may still take it for the
// previous pod's.
type pool struct {
	prefix netip.Prefix
	used   map[netip.Addr]bool
	last   netip.Addr // assigned last
}

func newPool(prefix netip.Prefix) *pool {
	return &pool{prefix: prefix, used: map[netip.Addr]bool{}, last: gateway(prefix)}
}

// gateway is the machine's own address in the pod CIDR: the first after the network address.
func gateway(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr().Next() }

// take returns a free address. It fails if there is none.
func (p *pool) take() (netip.Addr, error) {
	for address := p.last.Next(); address != p.last; address = address.Next() {
		if !p.prefix.Contains(address) {
			address = gateway(p.prefix)
		} else if p.usable(address) && !p.used[address] {
			p.used[address], p.last = true, address
			return address, nil
		}
		if address == p.last {
			break
		}
	}
	return netip.Addr{}, fmt.Errorf("all %d addresses of the node's pod CIDR %s are in use", len(p.used), p.prefix)
}

// usable reports whether a pod may have the address: it is neither the gateway nor an IPv4 broadcast address.
func (p *pool) usable(address netip.Addr) bool {
	return address != gateway(p.prefix) && (address.Is6() || p.prefix.Contains(address.Next()))
}

// claim marks an address as used by a pod that has it already.
func (p *pool) claim(address netip.Addr) {
	if p.prefix.Contains(address) {
		p.used[address], p.last = true, address
	}
}

func (p *pool) giveBack(address netip.Addr) { delete(p.used, address) }
