package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// span is a range of addresses of one family, both ends included.
type span struct{ first, last netip.Addr }

// parseSpan reads a range in CIDR notation.
func parseSpan(cidr string) (span, error) {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return span{}, err
	}
	prefix = prefix.Masked()
	last := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return span{prefix.Addr(), end}, nil
}

// blockSpans returns the addresses of an IP block: its range less the exceptions.
func blockSpans(block *networkingv1.IPBlock) ([]span, error) {
	whole, err := parseSpan(block.CIDR)
	if err != nil {
		return nil, fmt.Errorf("cannot read an IP block: %w", err)
	}
	spans := []span{whole}
	for _, cidr := range block.Except {
		except, err := parseSpan(cidr)
		if err != nil {
			return nil, fmt.Errorf("cannot read an exception of IP block %s: %w", block.CIDR, err)
		}
		spans = subtract(spans, except)
	}
	return spans, nil
}

func subtract(spans []span, except span) []span {
	var left []span
	for _, s := range spans {
		if except.last.Less(s.first) || s.last.Less(except.first) || s.first.BitLen() != except.first.BitLen() {
			left = append(left, s)
			continue
		}
		if s.first.Less(except.first) {
			left = append(left, span{s.first, except.first.Prev()})
		}
		if except.last.Less(s.last) {
			left = append(left, span{except.last.Next(), s.last})
		}
	}
	return left
}

// union sorts ranges and merges those that overlap or touch.
func union(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	var joined []span
	for _, s := range spans {
		if len(joined) > 0 {
			end := &joined[len(joined)-1].last
			if next := end.Next(); !next.IsValid() && end.BitLen() == s.first.BitLen() || next.IsValid() && !next.Less(s.first) {
				if end.Less(s.last) {
					*end = s.last
				}
				continue
			}
		}
		joined = append(joined, s)
	}
	return joined
}

// of returns the ranges of one family as the elements of an anonymous set of nftables; "" if there are none.
func (f family) of(spans []span) string {
	var elements []string
	for _, s := range spans {
		switch {
		case !f.has(s.first):
		case s.first == s.last:
			elements = append(elements, s.first.String())
		default:
			elements = append(elements, s.first.String()+"-"+s.last.String())
		}
	}
	return strings.Join(elements, ", ")
}

// portRange is a range of ports, both ends included.
type portRange struct{ first, last int32 }

func (r portRange) String() string {
	if r.first == r.last {
		return strconv.Itoa(int(r.first))
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

// joinPorts sorts ranges and merges those that overlap or touch: nftables sets reject overlaps.
func joinPorts(ranges []portRange) []portRange {
	slices.SortFunc(ranges, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	var joined []portRange
	for _, r := range ranges {
		if n := len(joined); n > 0 && r.first <= joined[n-1].last+1 {
			joined[n-1].last = max(joined[n-1].last, r.last)
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}
