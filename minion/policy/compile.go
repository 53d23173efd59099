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

// compiler builds one Ruleset. It builds chains and sets that are needed twice only once.
type compiler struct {
	state    State
	pods     map[string][]endpoint     // by namespace
	policies map[string][]parsedPolicy // by namespace
	rules    Ruleset
}

// parsedPolicy is a policy with its parsed pod selector.
type parsedPolicy struct {
	*networkingv1.NetworkPolicy
	selects labels.Selector
}

// Compile renders the rules that isolate a node's pods. An invalid part of a policy, which the API server would reject, allows
// nothing.
func Compile(s State) Ruleset {
	c := compiler{state: s, pods: map[string][]endpoint{}, policies: map[string][]parsedPolicy{}, rules: emptyRuleset()}
	for _, p := range slices.SortedFunc(slices.Values(s.Policies), func(a, b *networkingv1.NetworkPolicy) int {
		return cmp.Compare(a.Name, b.Name)
	}) {
		selects, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			selects = labels.Everything()
		}
		c.policies[p.Namespace] = append(c.policies[p.Namespace], parsedPolicy{p, selects})
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

// isolate sends the pod's packets to the chain of the policies that select it, in the directions that they cover.
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

// isolates applies the defaults of policyTypes.
func (p parsedPolicy) isolates(d direction) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return d == ingress || len(p.Spec.Egress) > 0
	}
	return slices.ContainsFunc(p.Spec.PolicyTypes, func(t networkingv1.PolicyType) bool {
		return strings.EqualFold(string(t), d.name)
	})
}

// podChain returns the chain for all pods that the same policies select. It drops what none of them accepts.
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

// policyChain returns the chain of a policy. It accepts what the policy allows.
func (c *compiler) policyChain(d direction, p *networkingv1.NetworkPolicy) string {
	chain := shorten(fmt.Sprintf("%s/%s/%s", d.name, p.Namespace, p.Name))
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

// allow renders a rule of a policy. A packet must match one of the peers and one of the ports.
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
				rules = append(rules, joinWords(match, numbers, "accept"))
			}
			if len(names) > 0 {
				rules = append(rules, joinWords(match, c.namedMatch(f, names), "accept"))
			}
		}
	}
	return rules
}

func joinWords(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), " ")
}

// peerMatches returns the matches for packets of a family from or to one of the peers.
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

// peerSet returns the set of addresses of all pods that match one of the peers.
func (c *compiler) peerSet(f family, name string, peers []peer) string {
	set := "peers" + f.digit + "/" + name
	if _, ok := c.rules.Sets[set]; ok {
		return set
	}
	elements := map[string]string{}
	c.rules.Sets[set] = Set{Type: f.kind, Elements: elements}
	for namespace, pods := range c.pods {
		who := slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return !c.covers(p, namespace) })
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

// covers reports whether a peer covers the namespace. A namespace whose labels are not known yet matches no selector.
func (c *compiler) covers(p peer, namespace string) bool {
	if p.namespaces == nil {
		return namespace == p.namespace
	}
	tags, ok := c.state.Namespaces[namespace]
	return ok && p.namespaces.Matches(labels.Set(tags))
}

// peer selects pods for a peer of a policy.
type peer struct {
	namespace  string          // pods in this namespace
	namespaces labels.Selector // else, pods in these namespaces
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

// String is equal for peers that select the same pods, and differs for others.
func (p peer) String() string {
	if p.namespaces == nil {
		return fmt.Sprintf("%s/%q", p.namespace, p.pods)
	}
	return fmt.Sprintf("(%q)/%q", p.namespaces, p.pods)
}

// readPorts returns a match for the ports given by number, or by protocol alone, and the ports given by name.
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

// namedMatch matches packets to a pod's port with one of the names, whatever its number is in that pod.
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
