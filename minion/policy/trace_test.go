package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"
)

// packet is the first one of a connection, as the forward hook sees it.
type packet struct {
	from, to netip.Addr
	protocol Protocol
	port     uint16 // of the destination; 0 with protocols that have none
	// dialed is where it was sent before the address of a service was translated, if it was.
	dialed netip.AddrPort
}

func (p packet) String() string {
	return fmt.Sprintf("%s -> %s protocol %d port %d", p.from, p.to, p.protocol, p.port)
}

// tracer sends packets through the rules of a table, as the kernel would: by the rules' text and the sets' elements. It
// knows the part of the language of nft that rules here are written in, and fails the test where they use more.
type tracer struct {
	t     *testing.T
	table *knftables.FakeTable
}

func (tr tracer) passes(p packet) bool {
	for name, chain := range tr.table.Chains {
		if chain.Hook != nil && tr.run(name, p) == "drop" {
			return false
		}
	}
	return true
}

// run returns the verdict of a chain, or "" if the packet comes to its end.
func (tr tracer) run(name string, p packet) string {
	chain, ok := tr.table.Chains[name]
	if !ok {
		tr.t.Fatalf("no chain %s", name)
	}
	for _, rule := range chain.Rules {
		verdict := tr.judge(p, rule.Rule)
		switch action, target, _ := strings.Cut(verdict, " "); action {
		case "":
		case "accept", "drop":
			return action
		case "jump":
			if verdict := tr.run(target, p); verdict != "" {
				return verdict
			}
		case "goto":
			return tr.run(target, p)
		default:
			tr.t.Fatalf("chain %s has a rule that no packet can be traced through: %s", name, rule.Rule)
		}
	}
	return ""
}

const field = `(?:ip6? (?:saddr|daddr)|meta l4proto|th dport)`

var (
	match  = regexp.MustCompile(`^(` + field + `(?: \. ` + field + `)*) (@\S+|\{ [^}]* \}) (.*)$`)
	dialed = regexp.MustCompile(`^meta l4proto (\d+) ct original ip6? daddr (\S+) ct original proto-dst (\d+) (.*)$`)
	vmap   = regexp.MustCompile(`^(` + field + `) vmap @(\S+)$`)
)

// judge returns the verdict of a rule, or "" if the packet does not match it.
func (tr tracer) judge(p packet, rule string) string {
	if strings.HasPrefix(rule, "ct state established,related ") {
		return ""
	}
	if m := vmap.FindStringSubmatch(rule); m != nil {
		key := p.key(m[1])
		set, ok := tr.table.Maps[m[2]]
		if !ok {
			tr.t.Fatalf("no map %s", m[2])
		}
		if element := set.FindElement(key...); key != nil && element != nil {
			return element.Value[0]
		}
		return ""
	}
	if m := dialed.FindStringSubmatch(rule); m != nil {
		if p.dialed.IsValid() && p.dialed.Addr().String() == m[2] && strconv.Itoa(int(p.dialed.Port())) == m[3] && strconv.Itoa(int(p.protocol)) == m[1] {
			return tr.judge(p, m[4])
		}
		return ""
	}
	m := match.FindStringSubmatch(rule)
	if m == nil {
		return rule
	}
	key := p.key(m[1])
	if key == nil || !tr.contains(m[2], key) {
		return ""
	}
	return tr.judge(p, m[3])
}

// key is what a packet has in the fields; nil if it lacks one of them.
func (p packet) key(fields string) []string {
	var key []string
	for _, name := range strings.Split(fields, " . ") {
		of, what, _ := strings.Cut(name, " ")
		switch {
		case of == "ip" && !p.from.Is4(), of == "ip6" && !p.from.Is6(), of == "th" && p.port == 0:
			return nil
		case what == "saddr":
			key = append(key, p.from.String())
		case what == "daddr":
			key = append(key, p.to.String())
		case what == "l4proto":
			key = append(key, strconv.Itoa(int(p.protocol)))
		case what == "dport":
			key = append(key, strconv.Itoa(int(p.port)))
		}
	}
	return key
}

func (tr tracer) contains(set string, key []string) bool {
	if name, ok := strings.CutPrefix(set, "@"); ok {
		named, ok := tr.table.Sets[name]
		if !ok {
			tr.t.Fatalf("no set %s", name)
		}
		return named.FindElement(key...) != nil
	}
	for _, element := range strings.Split(strings.Trim(set, "{ }"), ", ") {
		parts := strings.Split(element, " . ")
		if len(parts) != len(key) {
			tr.t.Fatalf("set %s has no elements like %s", set, key)
		}
		in := true
		for i, part := range parts {
			first, last, ok := strings.Cut(part, "-")
			if !ok {
				last = first
			}
			in = in && compare(first, key[i]) <= 0 && compare(key[i], last) <= 0
		}
		if in {
			return true
		}
	}
	return false
}

// compare compares two numbers or two addresses.
func compare(a, b string) int {
	if x, err := strconv.Atoi(a); err == nil {
		y, _ := strconv.Atoi(b)
		return cmp.Compare(x, y)
	}
	return netip.MustParseAddr(a).Compare(netip.MustParseAddr(b))
}
