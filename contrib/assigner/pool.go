package assigner

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// Pool is a named set of addresses for pods, all IPv4 or all IPv6.
type Pool struct {
	Name string `json:"name"`
	// Addresses are CIDRs, ranges FIRST-LAST and single addresses. The network and broadcast addresses of an IPv4 CIDR are left out,
	// unless it is a /31 or /32; a range is used as it is.
	Addresses []string `json:"addresses"`
	// Exclude are addresses that no pod may have, in the same notation.
	Exclude []string `json:"exclude,omitempty"`
	// Namespaces are those whose pods may have its addresses; nil for all.
	Namespaces []string `json:"namespaces,omitempty"`
}

// admits reports whether pods of the namespace may have addresses of the pool.
func (p Pool) admits(namespace string) bool {
	return p.Namespaces == nil || slices.Contains(p.Namespaces, namespace)
}

// maxPool is the largest number of addresses in a pool.
const maxPool = 1 << 24

// pool is a parsed Pool.
type pool struct {
	Pool
	set  *netipx.IPSet
	size int
}

func (p pool) ipv6() bool { return p.set.Ranges()[0].From().Is6() }

// find returns the first free address of the pool.
func (p pool) find(free func(netip.Addr) bool) (netip.Addr, bool) {
	for _, r := range p.set.Ranges() {
		for address := r.From(); r.Contains(address); address = address.Next() {
			if free(address) {
				return address, true
			}
		}
	}
	return netip.Addr{}, false
}

// ParsePools parses the file for `km assigner import`, YAML with a list of Pool under the key pools, and checks it as far as
// possible without a cluster. The list may be empty; a missing key is an error.
func ParsePools(data []byte) ([]Pool, error) {
	var file struct {
		Pools *[]Pool `json:"pools"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("it is not a list of pools: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	if file.Pools == nil {
		return nil, errors.New("it has no list under the key pools; to remove all pools, write pools: []")
	}
	_, err := compile(*file.Pools)
	return *file.Pools, err
}

// compile computes the pools' addresses. No two pools may share one.
func compile(pools []Pool) ([]pool, error) {
	compiled := make([]pool, 0, len(pools))
	for i, p := range pools {
		if problems := validation.IsDNS1123Label(p.Name); len(problems) > 0 {
			return nil, fmt.Errorf("pool %d has the name %q: %s", i+1, p.Name, problems[0])
		}
		set, size, err := p.compile()
		if err == nil {
			err = p.checkNamespaces()
		}
		if err != nil {
			return nil, fmt.Errorf("pool %s: %w", p.Name, err)
		}
		for _, other := range compiled {
			if other.Name == p.Name {
				return nil, fmt.Errorf("pool %s is there twice", p.Name)
			}
			if shared, ok := overlap(set, other.set); ok {
				return nil, fmt.Errorf("pools %s and %s both have %s", other.Name, p.Name, shared)
			}
		}
		compiled = append(compiled, pool{p, set, size})
	}
	return compiled, nil
}

func (p Pool) compile() (set *netipx.IPSet, size int, err error) {
	var all netipx.IPSetBuilder
	for _, text := range p.Addresses {
		r, err := parseRange(text, true)
		if err != nil {
			return nil, 0, err
		}
		all.AddRange(r)
	}
	for _, text := range p.Exclude {
		r, err := parseRange(text, false)
		if err != nil {
			return nil, 0, err
		}
		all.RemoveRange(r)
	}
	if set, err = all.IPSet(); err != nil {
		return nil, 0, err
	}
	ranges := set.Ranges()
	if len(ranges) == 0 {
		return nil, 0, errors.New("it has no address")
	}
	if ranges[0].From().Is4() != ranges[len(ranges)-1].From().Is4() {
		return nil, 0, errors.New("it has both IPv4 and IPv6 addresses: make two pools of it")
	}
	if no, what := unfit(set); what != "" {
		return nil, 0, fmt.Errorf("no pod can have %s: it is %s", no, what)
	}
	size, err = count(ranges)
	return set, size, err
}

func (p Pool) checkNamespaces() error {
	if p.Namespaces != nil && len(p.Namespaces) == 0 {
		return errors.New("its list of namespaces is empty: leave it out to let pods of all namespaces have its addresses")
	}
	for i, namespace := range p.Namespaces {
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			return fmt.Errorf("%q is not the name of a namespace: %s", namespace, problems[0])
		}
		if slices.Contains(p.Namespaces[:i], namespace) {
			return fmt.Errorf("it has namespace %s twice", namespace)
		}
	}
	return nil
}

// parseRange parses a CIDR, a range or an address. With fit, it leaves out network and broadcast addresses of an IPv4 CIDR.
func parseRange(text string, fit bool) (netipx.IPRange, error) {
	if strings.Contains(text, "/") {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return netipx.IPRange{}, fmt.Errorf("%q is no CIDR: %w", text, err)
		}
		if prefix != prefix.Masked() {
			return netipx.IPRange{}, fmt.Errorf("%q has bits set behind its mask: write %s, or the address without a mask", text, prefix.Masked())
		}
		r := netipx.RangeOfPrefix(prefix)
		if fit && prefix.Addr().Is4() && prefix.Bits() < 31 {
			r = netipx.IPRangeFrom(r.From().Next(), r.To().Prev())
		}
		return r, checkRange(r, text)
	}
	first, last, several := strings.Cut(text, "-")
	if !several {
		last = first
	}
	from, err := netip.ParseAddr(strings.TrimSpace(first))
	to, lastErr := netip.ParseAddr(strings.TrimSpace(last))
	if err != nil || lastErr != nil {
		return netipx.IPRange{}, fmt.Errorf("%q is neither an address nor a range FIRST-LAST nor a CIDR", text)
	}
	if from.Zone()+to.Zone() != "" {
		return netipx.IPRange{}, fmt.Errorf("%q: addresses of pools have no zones", text)
	}
	r := netipx.IPRangeFrom(from, to)
	return r, checkRange(r, text)
}

func checkRange(r netipx.IPRange, text string) error {
	switch {
	case r.From().Is4In6() || r.To().Is4In6():
		return fmt.Errorf("%q: write IPv4 addresses as such", text)
	case !r.IsValid():
		return fmt.Errorf("%q is no range: its last address comes before its first, or is of another family", text)
	}
	return nil
}

// unfit finds addresses that no host can have on any network, and says what they are.
func unfit(set *netipx.IPSet) (prefix netip.Prefix, what string) {
	for _, special := range []struct{ prefix, what string }{
		{"0.0.0.0/8", "\"this network\""}, {"127.0.0.0/8", "loopback"}, {"169.254.0.0/16", "link-local"},
		{"224.0.0.0/4", "multicast"}, {"240.0.0.0/4", "reserved"},
		{"::/127", "loopback or unspecified"}, {"fe80::/10", "link-local"}, {"ff00::/8", "multicast"},
	} {
		if prefix := netip.MustParsePrefix(special.prefix); set.OverlapsPrefix(prefix) {
			return prefix, special.what
		}
	}
	return netip.Prefix{}, ""
}

// count returns the number of addresses in the ranges.
func count(ranges []netipx.IPRange) (int, error) {
	size := 0
	for _, r := range ranges {
		for _, prefix := range r.Prefixes() {
			bits := prefix.Addr().BitLen() - prefix.Bits()
			if bits > 24 || size+1<<bits > maxPool {
				return 0, fmt.Errorf("it has more than %d addresses", maxPool)
			}
			size += 1 << bits
		}
	}
	return size, nil
}

// overlap returns an address or range in both sets.
func overlap(a, b *netipx.IPSet) (netipx.IPRange, bool) {
	var both netipx.IPSetBuilder
	both.AddSet(a)
	both.Intersect(b)
	set, err := both.IPSet()
	if err != nil || len(set.Ranges()) == 0 {
		return netipx.IPRange{}, false
	}
	return set.Ranges()[0], true
}
