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

// Protocol is a transport protocol by its number, which nft knows also where there is no /etc/protocols
// (https://www.iana.org/assignments/protocol-numbers/).
type Protocol uint8

// The protocols that policies know.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// Ruleset is what an nftables table holds, as text that nft reads. The base chains stand at the forward hook.
type Ruleset struct {
	Chains map[string][]string
	Sets   map[string]Set
}

// Set is a set of nftables, or a map to verdicts.
type Set struct {
	Type string // of the keys
	// Verdicts says that it is a map: the elements' values are verdicts. Those of a set are empty.
	Verdicts bool
	Elements map[string]string
}

// family is an IP family, in the words of nft.
type family struct {
	digit   string // ends the names of its sets
	address string // begins the names of its fields
	kind    string // is its type of addresses
	bits    int
}

var families = []family{
	{digit: "4", address: "ip", kind: "ipv4_addr", bits: 32},
	{digit: "6", address: "ip6", kind: "ipv6_addr", bits: 128},
}

func (f family) has(address netip.Addr) bool { return address.BitLen() == f.bits }

// direction is one of the two that pods are isolated in.
type direction struct {
	name string // of the base chain, as in policyTypes
	pod  string // field of the packet that has the address of the pod that is isolated
	peer string
}

var (
	egress  = direction{name: "egress", pod: "saddr", peer: "daddr"}
	ingress = direction{name: "ingress", pod: "daddr", peer: "saddr"}
)

// directions are in the order in which a packet passes them.
var directions = []direction{egress, ingress}

// emptyRuleset isolates no pod.
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

// isolated is the map from the address of each isolated pod to its chain.
func (f family) isolated(d direction) string { return d.name + f.digit }

// self is the set of the isolated pods' addresses, each with itself: no policy keeps a pod from reaching itself by a service.
func (f family) self() string { return "self" + f.digit }

// nameLimit is how long the names of chains and sets may be. The kernel takes 255 bytes.
const nameLimit = 200

// fit shortens a name that would be too long, and keeps it apart from others.
func fit(name string) string {
	if len(name) <= nameLimit {
		return name
	}
	return name[:nameLimit-21] + "-" + digest(name)
}

// digest is a short name for something long. Whoever writes policies must not be able to find two things with the same one.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:10])
}

// String shows the ruleset as nft would list it, with everything in the order of its name.
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
