package network

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api"
)

// Plan is all that a node's rules are derived from.
type Plan struct {
	Cluster, Node string
	// PodCIDRs are the ranges of this node's pods, at most one of each family; none if they are not known.
	PodCIDRs []netip.Prefix
	// ClusterCIDR is the range of all pods, or one of each family with a comma between; empty if it is not known.
	ClusterCIDR string
	// Network is how other nodes' pods are reached, and Addresses are the machine's own, at most one of each family.
	Network   api.PodNetwork
	Addresses []netip.Addr
	// Beyond are ranges that pods of other nodes have outside ClusterCIDR.
	Beyond []netip.Prefix
}

// Family is an IP family, in the kernel's numbers.
type Family int

// The families.
const (
	IPv4 Family = unix.AF_INET
	IPv6 Family = unix.AF_INET6
)

func familyOf(address netip.Addr) Family {
	if address.Is4() {
		return IPv4
	}
	return IPv6
}

// podCIDR returns the range of this node's pods of the family.
func (p Plan) podCIDR(f Family) (netip.Prefix, bool) {
	for _, prefix := range p.PodCIDRs {
		if familyOf(prefix.Addr()) == f {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

// clusterCIDR returns the range of all pods of the family, or the node's own if that is not known.
func (p Plan) clusterCIDR(f Family) (netip.Prefix, bool) {
	ranges, _ := api.ParseRanges(p.ClusterCIDR) // the control plane has checked it
	for _, prefix := range ranges {
		if familyOf(prefix.Addr()) == f {
			return prefix, true
		}
	}
	return p.podCIDR(f)
}

// gateways are the machine's addresses in the pods' ranges.
func (p Plan) gateways() (list []netip.Addr) {
	for _, prefix := range p.PodCIDRs {
		list = append(list, gateway(prefix))
	}
	return list
}

// Chain is an iptables chain of ours: it is filled with Rules, and a rule of each of the built-in chains Parents, which may
// match only some packets, jumps to it.
type Chain struct {
	Table, Name string
	Parents     []string
	Match       []string
	Rules       [][]string
}

// mark is a short name for the node that fits into the names of chains (28 bytes). Two nodes on one machine have different
// ones.
func (p Plan) mark() string { return fmt.Sprintf("%08x", p.hash()) }

func (p Plan) hash() uint32 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s", p.Cluster, p.Node)
	return h.Sum32()
}

// LinkPrefix is how the names of all the node's devices begin.
func (p Plan) LinkPrefix() string { return DevicePrefix + p.mark()[:5] }

// DevicePrefix is how the names of all pods' devices begin, whichever node of a machine they are on.
const DevicePrefix = "km"

// link is the name of a sandbox's device on the machine; 15 bytes are allowed.
func (p Plan) link(sandbox string) string {
	h := fnv.New32a()
	h.Write([]byte(sandbox))
	return fmt.Sprintf("%s%08x", p.LinkPrefix(), h.Sum32())
}

// alias says whose a device is; names could be alike by chance.
func (p Plan) alias(sandbox string) string {
	return fmt.Sprintf("k8sm %s/%s %.64s", p.Cluster, p.Node, sandbox)
}

// comment says whose a rule is; the kernel takes 255 bytes.
func (p Plan) comment(text string) []string {
	return []string{"-m", "comment", "--comment", fmt.Sprintf("k8sm node %.150s: %s", p.Node, text)}
}

func (p Plan) rule(comment string, spec ...string) []string {
	return append(p.comment(comment), spec...)
}

// Rules renders the chains of a node for a family, without what single pods have in them:
//
//   - packets of pods that leave for elsewhere than a pod take the machine's address, because nobody outside knows the
//     way back (https://kubernetes.io/docs/concepts/cluster-administration/networking/); which do so is decided in a chain of
//     its own, because pods with addresses outside the pod CIDR have rules of theirs that lead there;
//   - packets from and to pods are forwarded whatever the machine's policy is: Docker Engines set it to DROP;
//   - host ports lead to pods, also from the machine's own loopback, for which the pods' devices let 127.0.0.0/8 through;
//     so no pod may talk to that. IPv6 has no such thing: the kernel lets nothing with ::1 out;
//   - no pod may send to machines what these would take for a packet from another machine's pods;
//   - no pod may send by an address that is not its own: network policies know pods by their addresses.
func (p Plan) Rules(f Family) []Chain {
	devices := p.LinkPrefix() + "+"
	chains := []Chain{
		{Table: "nat", Name: p.leavingChain(), Rules: p.leaving(f)},
		{Table: "nat", Name: p.masqueradeChain(), Parents: []string{"POSTROUTING"}, Rules: p.masquerade(f)},
		{Table: "nat", Name: p.portsChain(), Parents: []string{"PREROUTING", "OUTPUT"},
			Match: []string{"-m", "addrtype", "--dst-type", "LOCAL"}},
		{Table: "filter", Name: "K8SM-FORWARD-" + p.mark(), Parents: []string{"FORWARD"}, Rules: append(p.noTunnelling(f, "-i", devices, "!", "-d"),
			p.rule("from pods", "-i", devices, "-j", "ACCEPT"),
			p.rule("to pods", "-o", devices, "-j", "ACCEPT"),
		)},
	}
	input := append(p.noTunnelling(f, "-s"), p.noTunnelling(f, "-i", devices, "!", "-s")...)
	if f == IPv4 {
		input = append(input, p.rule("loopback is not for pods", "-i", devices, "-d", "127.0.0.0/8",
			"-m", "conntrack", "!", "--ctstate", "RELATED,ESTABLISHED", "-j", "DROP"))
	}
	if f == IPv6 { // for IPv4 the devices have a setting that says so; see confine
		chains = append(chains, Chain{Table: "raw", Name: "K8SM-SOURCE-" + p.mark(), Parents: []string{"PREROUTING"}, Rules: [][]string{
			p.rule("pods send by their own addresses only", "-i", devices, "-m", "rpfilter", "--invert", "-j", "DROP"),
		}})
	}
	if len(input) > 0 {
		chains = append(chains, Chain{Table: "filter", Name: "K8SM-INPUT-" + p.mark(), Parents: []string{"INPUT"}, Rules: input})
	}
	return chains
}

// noTunnelling keeps pods from sending VXLAN to machines, which would forward what is in it past the policies of other pods: what
// from pods goes to no pod, and what comes from pods, of other machines too, to this machine. match comes before the range of
// pods' addresses.
func (p Plan) noTunnelling(f Family, match ...string) [][]string {
	pods, ok := p.clusterCIDR(f)
	if !ok || p.Network.Mode != api.NetworkAuto && p.Network.Mode != api.NetworkVXLAN {
		return nil
	}
	return [][]string{p.rule("only machines send VXLAN to machines", slices.Concat(match, []string{pods.String(),
		"-p", "udp", "--dport", strconv.Itoa(p.Network.VXLANPort), "-j", "DROP"})...)}
}

// leaving are the rules for what pods send.
func (p Plan) leaving(f Family) (rules [][]string) {
	pods, ok := p.clusterCIDR(f)
	if !ok {
		return nil
	}
	multicast := "224.0.0.0/4"
	if f == IPv6 {
		multicast = "ff00::/8"
	}
	for _, prefix := range p.beyond(f) {
		rules = append(rules, p.beyondRule(prefix).rule)
	}
	return append(rules,
		p.rule("pods see each other's own addresses", "-d", pods.String(), "-j", "RETURN"),
		p.rule("multicast stays as it is", "-d", multicast, "-j", "RETURN"),
		p.rule("pods leave by this machine's address", "!", "-o", p.LinkPrefix()+"+", "-j", "MASQUERADE"))
}

// beyond returns the Beyond of a family, none if pods have no addresses of it.
func (p Plan) beyond(f Family) (prefixes []netip.Prefix) {
	if _, ok := p.clusterCIDR(f); !ok {
		return nil
	}
	for _, prefix := range p.Beyond {
		if familyOf(prefix.Addr()) == f {
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes
}

// beyondRule lets pods be seen by their own addresses in a range that pods of another node have.
func (p Plan) beyondRule(prefix netip.Prefix) chainRule {
	return chainRule{"nat", p.leavingChain(), p.rule("pods of another node have "+prefix.String(), "-d", prefix.String(), "-j", "RETURN")}
}

func (p Plan) masquerade(f Family) (rules [][]string) {
	if own, ok := p.podCIDR(f); ok {
		rules = append(rules, p.rule("from pods", "-s", own.String(), "-j", p.leavingChain()))
	}
	if f == IPv4 {
		rules = append(rules, p.rule("pods can answer to loopback", "-s", "127.0.0.0/8", "-o", p.LinkPrefix()+"+", "-j", "MASQUERADE"))
	}
	return rules
}

func (p Plan) masqueradeChain() string { return "K8SM-POSTROUTING-" + p.mark() }
func (p Plan) leavingChain() string    { return "K8SM-LEAVING-" + p.mark() }
func (p Plan) portsChain() string      { return "K8SM-PORTS-" + p.mark() }

// chainRule is a rule and where it stands.
type chainRule struct {
	table, chain string
	rule         []string
}

// podRules renders what one pod needs: the way to it from its host ports, and for a pod that comes back to itself that way
// the machine's address, since it would take its own for a stranger's; and what holds for the pod CIDR, for an address that
// is not in it.
func (p Plan) podRules(f Family, e endpoint) (rules []chainRule) {
	address, ok := e.address(f)
	if !ok {
		return nil
	}
	for _, port := range e.Sandbox.Ports {
		spec := []string{"-p", strings.ToLower(port.Protocol)}
		if port.HostIP.IsValid() && !port.HostIP.IsUnspecified() {
			if familyOf(port.HostIP) != f {
				continue
			}
			spec = append(spec, "-d", port.HostIP.String())
		}
		spec = append(spec, "--dport", strconv.Itoa(int(port.HostPort)),
			"-j", "DNAT", "--to-destination", netip.AddrPortFrom(address, port.ContainerPort).String())
		rules = append(rules, chainRule{"nat", p.portsChain(), p.rule("host port of "+e.Sandbox.Pod, spec...)})
	}
	if len(rules) > 0 {
		rules = append(rules, chainRule{"nat", p.masqueradeChain(), p.rule("by a host port to itself: "+e.Sandbox.Pod,
			"-s", address.String(), "-d", address.String(), "-j", "MASQUERADE")})
	}
	if address == e.Sandbox.Address {
		rules = append(rules, chainRule{"nat", p.masqueradeChain(), p.rule("from pod "+e.Sandbox.Pod, "-s", address.String(), "-j", p.leavingChain())})
	}
	return rules
}

// jump is the rule in the parent chains.
func (p Plan) jump(c Chain) []string {
	return append(p.comment("pods"), append(c.Match[:len(c.Match):len(c.Match)], "-j", c.Name)...)
}
