package network

import (
	"fmt"
	"hash/fnv"
)

// Plan is all that a node's network is derived from.
type Plan struct {
	Cluster, Node string
	// PodCIDR is the range of this node's pods, ClusterCIDR that of all pods, or empty if it is not known.
	PodCIDR, ClusterCIDR string
	// BridgeFilter says that the kernel shows bridged packets to iptables (br_netfilter).
	BridgeFilter bool
}

// Chain is an iptables chain of ours: it is filled with Rules, and one rule of a built-in chain, Parent, jumps to it.
type Chain struct {
	Table, Name, Parent string
	Rules               [][]string
}

// mark is a short name for the node that fits into the names of chains (28 bytes) and interfaces (15 bytes). Two nodes on
// one machine have different ones.
func (p Plan) mark() string { return fmt.Sprintf("%08x", p.hash()) }

func (p Plan) hash() uint32 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s", p.Cluster, p.Node)
	return h.Sum32()
}

// Bridge is the name of the bridge interface.
func (p Plan) Bridge() string { return "k8sm-" + p.mark() }

// Network is the name of the Docker network.
func (p Plan) Network() string { return "k8sm-" + p.Cluster + "-" + p.Node }

// comment says whose a rule is; the kernel takes 255 bytes.
func (p Plan) comment(text string) []string {
	return []string{"-m", "comment", "--comment", fmt.Sprintf("k8sm node %.150s: %s", p.Node, text)}
}

// Rules renders the chains of a node:
//
//   - packets of pods that leave for elsewhere than a pod take the machine's address, because nobody outside knows the
//     way back (https://kubernetes.io/docs/concepts/cluster-administration/networking/);
//   - packets from and to pods are forwarded whatever the machine's policy is: Docker Engines set it to DROP;
//   - without br_netfilter, the answer of a pod to another one of this bridge would go past the translation that the
//     service's address needs; such connections take the bridge's address so that the answer comes back through it.
func (p Plan) Rules() []Chain {
	rule := func(comment string, spec ...string) []string { return append(p.comment(comment), spec...) }
	nat := Chain{Table: "nat", Name: "K8SM-POSTROUTING-" + p.mark(), Parent: "POSTROUTING"}
	if !p.BridgeFilter {
		nat.Rules = append(nat.Rules, rule("a pod reaches its own node's pods by a service",
			"-s", p.PodCIDR, "-d", p.PodCIDR, "-m", "conntrack", "--ctstate", "DNAT", "-j", "MASQUERADE"))
	}
	pods := p.PodCIDR
	if p.ClusterCIDR != "" {
		pods = p.ClusterCIDR
	}
	nat.Rules = append(nat.Rules,
		rule("pods see each other's own addresses", "-s", p.PodCIDR, "-d", pods, "-j", "RETURN"),
		rule("multicast stays as it is", "-s", p.PodCIDR, "-d", "224.0.0.0/4", "-j", "RETURN"),
		rule("pods leave by this machine's address", "-s", p.PodCIDR, "!", "-o", p.Bridge(), "-j", "MASQUERADE"))
	forward := Chain{Table: "filter", Name: "K8SM-FORWARD-" + p.mark(), Parent: "FORWARD", Rules: [][]string{
		rule("from pods", "-i", p.Bridge(), "-j", "ACCEPT"),
		rule("to pods", "-o", p.Bridge(), "-j", "ACCEPT"),
	}}
	return []Chain{nat, forward}
}

// jump is the rule in the parent chain.
func (p Plan) jump(c Chain) []string { return append(p.comment("pods"), "-j", c.Name) }
