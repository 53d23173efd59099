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

// Plan is the input for a node's rules.
type Plan struct {
	Cluster, Node string
	// PodCIDRs are the ranges of this node's pods, at most one per family; none if unknown.
	PodCIDRs []netip.Prefix
	// ClusterCIDR is the range of all pods, or one per family separated by a comma; empty if unknown.
	ClusterCIDR string
	// Network says how pods on other nodes are reached. Addresses are the machine's own, at most one per family.
	Network   api.PodNetwork
	Addresses []netip.Addr
	// Beyond are prefixes of pods on other nodes that are outside ClusterCIDR.
	Beyond []netip.Prefix
}

// Family is an IP family, in the kernel's numbers.
type Family int

// The IP families.
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

// podCIDR returns this node's pod CIDR of the family.
func (p Plan) podCIDR(f Family) (netip.Prefix, bool) {
	for _, prefix := range p.PodCIDRs {
		if familyOf(prefix.Addr()) == f {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

// clusterCIDR returns the range of all pods of the family, or this node's pod CIDR if that is unknown.
func (p Plan) clusterCIDR(f Family) (netip.Prefix, bool) {
	ranges, _ := api.ParseRanges(p.ClusterCIDR) // the control plane has validated it
	for _, prefix := range ranges {
		if familyOf(prefix.Addr()) == f {
			return prefix, true
		}
	}
	return p.podCIDR(f)
}

// gateways returns the machine's addresses in the pod CIDRs.
func (p Plan) gateways() (list []netip.Addr) {
	for _, prefix := range p.PodCIDRs {
		list = append(list, gateway(prefix))
	}
	return list
}

// Chain is an iptables chain of ours with its Rules. In each built-in chain of Parents, a rule jumps to it, maybe for some packets
// only.
type Chain struct {
	Table, Name string
	Parents     []string
	Match       []string
	Rules       [][]string
}

// mark is a short name of the node that fits into the names of chains (28 bytes). It differs between the nodes of one machine.
func (p Plan) mark() string { return fmt.Sprintf("%08x", p.hash()) }

func (p Plan) hash() uint32 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s", p.Cluster, p.Node)
	return h.Sum32()
}

// LinkPrefix is the prefix of the names of all devices of the node.
func (p Plan) LinkPrefix() string { return DevicePrefix + p.mark()[:5] }

// DevicePrefix is the prefix of the names of all pods' devices, on any node of the machine.
const DevicePrefix = "km"

// link is the name of a sandbox's device on the machine. The kernel allows 15 bytes.
func (p Plan) link(sandbox string) string {
	h := fnv.New32a()
	h.Write([]byte(sandbox))
	return fmt.Sprintf("%s%08x", p.LinkPrefix(), h.Sum32())
}

// alias says which sandbox the device belongs to, because short names can collide.
func (p Plan) alias(sandbox string) string {
	return fmt.Sprintf("k8sm %s/%s %.64s", p.Cluster, p.Node, sandbox)
}

// comment returns the comment that marks a rule as this node's. The kernel allows 255 bytes.
func (p Plan) comment(text string) []string {
	return []string{"-m", "comment", "--comment", fmt.Sprintf("k8sm node %.150s: %s", p.Node, text)}
}

func (p Plan) rule(comment string, spec ...string) []string {
	return append(p.comment(comment), spec...)
}

// Rules renders the chains of a node for a family, without the rules of single pods:
//
//   - Packets from pods to anything but pods are masqueraded, because the network outside has no route back
//     (https://kubernetes.io/docs/concepts/cluster-administration/networking/). A chain of its own decides which; pods with
//     addresses outside the pod CIDR have own rules that jump to it.
//   - Packets from and to pods are forwarded whatever the policy of the forward chain is: Docker Engine sets it to DROP.
//   - Host ports are redirected to pods, also from the machine's loopback. For that the pods' devices accept 127.0.0.0/8, so
//     pods are kept from sending there. IPv6 has no such setting: the kernel lets no packet with ::1 leave.
//   - Pods must not send packets to machines that these would take for packets from another machine's pods.
//   - Pods must not send from addresses that are not their own: network policies identify pods by address.
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
	// IPv4 has a sysctl for this, too, but the kernel lets that of all devices loosen it (net.ipv4.conf.all.rp_filter=2, as on Ubuntu).
	chains = append(chains, Chain{Table: "raw", Name: p.sourceChain(), Parents: []string{"PREROUTING"}, Rules: [][]string{
		p.rule("pods send by their own addresses only", "-i", devices, "-m", "rpfilter", "--invert", "-j", "DROP"),
	}})
	if len(input) > 0 {
		chains = append(chains, Chain{Table: "filter", Name: "K8SM-INPUT-" + p.mark(), Parents: []string{"INPUT"}, Rules: input})
	}
	return chains
}

// noTunnelling keeps pods from sending VXLAN packets to machines, which would forward their content past the policies of other pods.
// It drops packets from this node's pods unless they go to pods, and packets from pods anywhere to this machine. match comes before
// the range of pod addresses.
func (p Plan) noTunnelling(f Family, match ...string) [][]string {
	pods, ok := p.clusterCIDR(f)
	if !ok || p.Network.Mode != api.NetworkAuto && p.Network.Mode != api.NetworkVXLAN {
		return nil
	}
	return [][]string{p.rule("only machines send VXLAN to machines", slices.Concat(match, []string{pods.String(),
		"-p", "udp", "--dport", strconv.Itoa(p.Network.VXLANPort), "-j", "DROP"})...)}
}

// leaving returns the rules for packets that pods send.
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

// beyond returns Beyond of a family, or none if pods have no addresses of that family.
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

// beyondRule exempts packets to a prefix of another node's pods from masquerade.
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
func (p Plan) sourceChain() string     { return "K8SM-SOURCE-" + p.mark() }

// chainRule is a rule and its chain.
type chainRule struct {
	table, chain string
	rule         []string
}

// podRules renders the rules of one pod, each of which is put before the one above it: the redirection from its host ports;
// masquerade for a pod that reaches itself through a host port, which would otherwise see its own address as the source; for an
// address outside the pod CIDR, the pod CIDR's rules; and for IPv6, no link-local address but the pod's own. The kernel takes any of
// them for a neighbor, and all devices share one table of neighbors.
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
	if f == IPv6 && e.LinkLocal.IsValid() {
		device := p.link(e.Sandbox.ID)
		rules = append(rules,
			chainRule{"raw", p.sourceChain(), p.rule("no other link-local address: "+e.Sandbox.Pod, "-i", device, "-s", "fe80::/10", "-j", "DROP")},
			chainRule{"raw", p.sourceChain(), p.rule("link-local address of "+e.Sandbox.Pod, "-i", device, "-s", e.LinkLocal.String(), "-j", "RETURN")})
	}
	return rules
}

// jump is the rule that jumps to the chain from its parents.
func (p Plan) jump(c Chain) []string {
	return append(p.comment("pods"), append(c.Match[:len(c.Match):len(c.Match)], "-j", c.Name)...)
}
