package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// compiler makes one Ruleset. What it is asked for twice it makes once.
type compiler struct {
	state    State
	pods     map[string][]endpoint  // by namespace
	policies map[string][]selecting // by namespace
	rules    Ruleset
}

// selecting is a policy whose selector has been read.
type selecting struct {
	*networkingv1.NetworkPolicy
	selects labels.Selector
}

// Compile renders the rules by which a node isolates its pods. What a policy says that cannot be read, which the API server
// accepts of none, allows nothing.
func Compile(s State) Ruleset {
	c := compiler{state: s, pods: map[string][]endpoint{}, policies: map[string][]selecting{}, rules: emptyRuleset()}
	for _, p := range slices.SortedFunc(slices.Values(s.Policies), func(a, b *networkingv1.NetworkPolicy) int {
		return cmp.Compare(a.Name, b.Name)
	}) {
		selects, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			selects = labels.Everything()
		}
		c.policies[p.Namespace] = append(c.policies[p.Namespace], selecting{p, selects})
	}
	all := s.endpoints()
	for _, e := range all {
		c.pods[e.Namespace] = append(c.pods[e.Namespace], e)
	}
	for _, e := range all {
		if e.local {
			c.isolate(e)
		}
	}
	return c.rules
}

// isolate leads the pod's packets to the chain of the policies that select it, in the directions that they are about.
func (c *compiler) isolate(e endpoint) {
	for _, d := range directions {
		var selecting []*networkingv1.NetworkPolicy
		for _, p := range c.policies[e.Namespace] {
			if p.isolates(d) && p.selects.Matches(labels.Set(e.Labels)) {
				selecting = append(selecting, p.NetworkPolicy)
			}
		}
		if len(selecting) == 0 {
			continue
		}
		chain := c.podChain(d, selecting)
		for _, address := range e.Addresses {
			f := familyOf(address)
			c.rules.Sets[f.isolated(d)].Elements[address.String()] = "goto " + chain
			c.rules.Sets[f.self()].Elements[address.String()+" . "+address.String()] = ""
		}
	}
}

func familyOf(address netip.Addr) family {
	return families[slices.IndexFunc(families, func(f family) bool { return f.has(address) })]
}

// isolates follows the defaults of policyTypes.
func (p selecting) isolates(d direction) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return d == ingress || len(p.Spec.Egress) > 0
	}
	return slices.ContainsFunc(p.Spec.PolicyTypes, func(t networkingv1.PolicyType) bool {
		return strings.EqualFold(string(t), d.name)
	})
}

// podChain is the chain of all pods that the same policies select: it drops what none of them accepts.
func (c *compiler) podChain(d direction, policies []*networkingv1.NetworkPolicy) string {
	var names, rules []string
	for _, p := range policies {
		names = append(names, p.Name)
	}
	chain := fmt.Sprintf("%s-pods/%s/%s", d.name, policies[0].Namespace, digest(strings.Join(names, "/")))
	if _, ok := c.rules.Chains[chain]; ok {
		return chain
	}
	for _, p := range policies {
		rules = append(rules, "jump "+c.policyChain(d, p))
	}
	c.rules.Chains[chain] = append(rules, "drop")
	return chain
}

// policyChain is the chain of a policy: it accepts what the policy allows.
func (c *compiler) policyChain(d direction, p *networkingv1.NetworkPolicy) string {
	chain := fit(fmt.Sprintf("%s/%s/%s", d.name, p.Namespace, p.Name))
	if _, ok := c.rules.Chains[chain]; ok {
		return chain
	}
	rules := []string{}
	if d == ingress {
		for _, r := range p.Spec.Ingress {
			rules = append(rules, c.allow(d, p.Namespace, r.From, r.Ports)...)
		}
	} else {
		for _, r := range p.Spec.Egress {
			rules = append(rules, c.allow(d, p.Namespace, r.To, r.Ports)...)
			rules = append(rules, c.allowDNS(p.Namespace, r)...)
		}
	}
	c.rules.Chains[chain] = rules
	return chain
}

// allow renders a rule of a policy. A packet has to match one of the peers and one of the ports.
func (c *compiler) allow(d direction, namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) []string {
	if len(peers) == 0 && len(ports) == 0 {
		return []string{"accept"}
	}
	numbers, names := readPorts(ports)
	var rules []string
	if len(peers) == 0 && numbers != "" {
		rules = append(rules, numbers+" accept")
	}
	for _, f := range families {
		from := []string{""}
		if len(peers) > 0 {
			from = c.peerMatches(f, d, namespace, peers)
		}
		for _, match := range from {
			if len(ports) == 0 || len(peers) > 0 && numbers != "" {
				rules = append(rules, sentence(match, numbers, "accept"))
			}
			if len(names) > 0 {
				rules = append(rules, sentence(match, c.namedMatch(f, names), "accept"))
			}
		}
	}
	return rules
}

func sentence(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), " ")
}

// peerMatches match packets of a family from or to one of the peers.
func (c *compiler) peerMatches(f family, d direction, namespace string, peers []networkingv1.NetworkPolicyPeer) []string {
	var matches, names []string
	var selectors []peer
	var spans []span
	for _, p := range peers {
		if p.IPBlock != nil {
			if block, err := blockSpans(p.IPBlock); err == nil {
				spans = append(spans, block...)
			}
			continue
		}
		selector := newPeer(namespace, p)
		selectors, names = append(selectors, selector), append(names, selector.String())
	}
	field := f.address + " " + d.peer
	if len(selectors) > 0 {
		slices.Sort(names)
		matches = append(matches, field+" @"+c.peerSet(f, digest(strings.Join(names, "\n")), selectors))
	}
	if elements := f.of(union(spans)); elements != "" {
		matches = append(matches, field+" { "+elements+" }")
	}
	return matches
}

// peerSet is the set of the addresses of all pods that one of the peers means.
func (c *compiler) peerSet(f family, name string, peers []peer) string {
	set := "peers" + f.digit + "/" + name
	if _, ok := c.rules.Sets[set]; ok {
		return set
	}
	elements := map[string]string{}
	c.rules.Sets[set] = Set{Type: f.kind, Elements: elements}
	for namespace, pods := range c.pods {
		who := slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return !c.means(p, namespace) })
		for _, e := range pods {
			if !slices.ContainsFunc(who, func(p peer) bool { return p.pods.Matches(labels.Set(e.Labels)) }) {
				continue
			}
			for _, address := range e.Addresses {
				if f.has(address) {
					elements[address.String()] = ""
				}
			}
		}
	}
	return set
}

// means tells whether a peer is in the namespace. One whose labels are not known yet has none that could be asked for.
func (c *compiler) means(p peer, namespace string) bool {
	if p.namespaces == nil {
		return namespace == p.namespace
	}
	tags, ok := c.state.Namespaces[namespace]
	return ok && p.namespaces.Matches(labels.Set(tags))
}

// peer are pods that are meant by a peer of a policy.
type peer struct {
	namespace  string          // if it is in this one
	namespaces labels.Selector // else, in these
	pods       labels.Selector
}

func newPeer(namespace string, p networkingv1.NetworkPolicyPeer) peer {
	selector := func(s *metav1.LabelSelector) labels.Selector {
		read, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			return labels.Nothing()
		}
		return read
	}
	made := peer{namespace: namespace, pods: labels.Everything()}
	if p.NamespaceSelector != nil {
		made.namespace, made.namespaces = "", selector(p.NamespaceSelector)
	}
	if p.PodSelector != nil {
		made.pods = selector(p.PodSelector)
	}
	return made
}

// String is the same for peers that mean the same, and for no others.
func (p peer) String() string {
	if p.namespaces == nil {
		return fmt.Sprintf("%s/%q", p.namespace, p.pods)
	}
	return fmt.Sprintf("(%q)/%q", p.namespaces, p.pods)
}

// readPorts returns the match of the ports that are given by number, or by protocol alone, and those given by name.
func readPorts(ports []networkingv1.NetworkPolicyPort) (numbers string, names []Port) {
	ranges := map[Protocol][]portRange{}
	for _, p := range ports {
		protocol, ok := protocolOf(p.Protocol)
		switch {
		case !ok:
		case p.Port == nil:
			ranges[protocol] = append(ranges[protocol], portRange{0, 65535})
		case p.Port.Type == intstr.String:
			names = append(names, Port{Name: p.Port.StrVal, Protocol: protocol})
		case p.EndPort != nil:
			ranges[protocol] = append(ranges[protocol], portRange{p.Port.IntVal, max(p.Port.IntVal, *p.EndPort)})
		default:
			ranges[protocol] = append(ranges[protocol], portRange{p.Port.IntVal, p.Port.IntVal})
		}
	}
	var elements []string
	for _, protocol := range slices.Sorted(maps.Keys(ranges)) {
		for _, r := range joinPorts(ranges[protocol]) {
			elements = append(elements, fmt.Sprintf("%d . %s", protocol, r))
		}
	}
	if len(elements) > 0 {
		numbers = "meta l4proto . th dport { " + strings.Join(elements, ", ") + " }"
	}
	return numbers, names
}

func protocolOf(p *corev1.Protocol) (Protocol, bool) {
	if p == nil {
		return TCP, true
	}
	number, ok := map[corev1.Protocol]Protocol{corev1.ProtocolTCP: TCP, corev1.ProtocolUDP: UDP, corev1.ProtocolSCTP: SCTP}[*p]
	return number, ok
}

// namedMatch matches packets to a port of a pod that has one of the names, whatever its number is there.
func (c *compiler) namedMatch(f family, names []Port) string {
	slices.SortFunc(names, func(a, b Port) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol)) })
	set := "ports" + f.digit + "/" + digest(fmt.Sprint(names))
	match := fmt.Sprintf("%s daddr . meta l4proto . th dport @%s", f.address, set)
	if _, ok := c.rules.Sets[set]; ok {
		return match
	}
	elements := map[string]string{}
	c.rules.Sets[set] = Set{Type: f.kind + " . inet_proto . inet_service", Elements: elements}
	for _, pods := range c.pods {
		for _, e := range pods {
			for _, port := range e.Ports {
				if slices.Contains(names, Port{Name: port.Name, Protocol: port.Protocol}) {
					f.addPort(elements, e, port)
				}
			}
		}
	}
	return match
}

func (f family) addPort(elements map[string]string, e endpoint, port Port) {
	for _, address := range e.Addresses {
		if f.has(address) {
			elements[fmt.Sprintf("%s . %d . %d", address, port.Protocol, port.Number)] = ""
		}
	}
}
