package network

import (
	"fmt"
	"net/netip"
)

// pool gives out the addresses of one pod CIDR, each to one pod at a time and the one that was given back last as late as
// it can: others may still know it as the pod's that had it.
type pool struct {
	prefix netip.Prefix
	used   map[netip.Addr]bool
	last   netip.Addr // given out last
}

func newPool(prefix netip.Prefix) *pool {
	return &pool{prefix: prefix, used: map[netip.Addr]bool{}, last: gateway(prefix)}
}

// gateway is the machine's own address in the pods' range: the first after the range's name.
func gateway(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr().Next() }

// take returns a free address. It fails if there is none.
func (p *pool) take() (netip.Addr, error) {
	for address := p.last.Next(); address != p.last; address = address.Next() {
		if !p.prefix.Contains(address) {
			address = gateway(p.prefix)
		} else if p.fit(address) && !p.used[address] {
			p.used[address], p.last = true, address
			return address, nil
		}
		if address == p.last {
			break
		}
	}
	return netip.Addr{}, fmt.Errorf("all %d addresses of the node's pod CIDR %s are in use", len(p.used), p.prefix)
}

// fit tells whether pods may have the address: neither the gateway nor the broadcast address of an IPv4 range.
func (p *pool) fit(address netip.Addr) bool {
	return address != gateway(p.prefix) && (address.Is6() || p.prefix.Contains(address.Next()))
}

// claim marks an address as used, by a pod that has it already.
func (p *pool) claim(address netip.Addr) {
	if p.prefix.Contains(address) {
		p.used[address], p.last = true, address
	}
}

func (p *pool) giveBack(address netip.Addr) { delete(p.used, address) }
