package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Protocol is the number of a transport protocol, which nft understands even without /etc/protocols
// (https://www.iana.org/assignments/protocol-numbers/).
type Protocol uint8

// The protocols of network policies.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// Ruleset is the content of an nftables table, in nft's syntax. Its base chains are at the forward hook.
type Ruleset struct {
	Chains map[string][]string
	Sets   map[string]Set
}

// Set is an nftables set or verdict map.
type Set struct {
	Type string // of the keys
	// Verdicts says that it is a map: the elements' values are verdicts. In a set they are empty.
	Verdicts bool
	Elements map[string]string
}

// family is an IP family, in nft's words.
type family struct {
	digit   string // suffix of the names of its sets
	address string // prefix of the names of its fields
	kind    string // type of its addresses
	bits    int
}

var families = []family{
	{digit: "4", address: "ip", kind: "ipv4_addr", bits: 32},
	{digit: "6", address: "ip6", kind: "ipv6_addr", bits: 128},
}

func (f family) has(address netip.Addr) bool { return address.BitLen() == f.bits }

// direction is one of the two directions in which pods are isolated.
type direction struct {
	name string // of the base chain, as in policyTypes
	pod  string // packet field with the isolated pod's address
	peer string
}

var (
	egress  = direction{name: "egress", pod: "saddr", peer: "daddr"}
	ingress = direction{name: "ingress", pod: "daddr", peer: "saddr"}
)

// directions are in the order in which a packet passes them.
var directions = []direction{egress, ingress}

// emptyRuleset isolates no pods.
func emptyRuleset() Ruleset {
	r := Ruleset{Chains: map[string][]string{}, Sets: map[string]Set{}}
	for _, d := range directions {
		rules := []string{"ct state established,related accept"}
		for _, f := range families {
			rules = append(rules, fmt.Sprintf("%s saddr . %[1]s daddr @%s accept", f.address, f.self()))
		}
		for _, f := range families {
			rules = append(rules, fmt.Sprintf("%s %s vmap @%s", f.address, d.pod, f.isolated(d)))
			r.Sets[f.isolated(d)] = Set{Type: f.kind, Verdicts: true, Elements: map[string]string{}}
		}
		r.Chains[d.name] = rules
	}
	for _, f := range families {
		r.Sets[f.self()] = Set{Type: f.kind + " . " + f.kind, Elements: map[string]string{}}
	}
	return r
}

// isolated is the name of the map from an isolated pod's address to its chain.
func (f family) isolated(d direction) string { return d.name + f.digit }

// self is the name of the set that pairs each isolated pod's address with itself: a policy never keeps a pod from reaching itself
// through a service.
func (f family) self() string { return "self" + f.digit }

// nameLimit bounds the names of chains and sets. The kernel allows 255 bytes.
const nameLimit = 200

// shorten shortens a long name and keeps it unique.
func shorten(name string) string {
	if len(name) <= nameLimit {
		return name
	}
	return name[:nameLimit-21] + "-" + digest(name)
}

// digest shortens text. It is collision resistant: authors of policies must not find two things with the same digest.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:10])
}

// String formats the ruleset like nft list, sorted by name.
func (r Ruleset) String() string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Sets)) {
		set := r.Sets[name]
		kind := "set"
		if set.Verdicts {
			kind = "map"
		}
		fmt.Fprintf(&out, "%s %s { type %s }\n", kind, name, set.typeText())
		for _, key := range slices.Sorted(maps.Keys(set.Elements)) {
			fmt.Fprintf(&out, "\t%s\n", strings.TrimSuffix(key+" : "+set.Elements[key], " : "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Chains)) {
		fmt.Fprintf(&out, "chain %s\n", name)
		for _, rule := range r.Chains[name] {
			fmt.Fprintf(&out, "\t%s\n", rule)
		}
	}
	return out.String()
}

func (s Set) typeText() string {
	if s.Verdicts {
		return s.Type + " : verdict"
	}
	return s.Type
}
