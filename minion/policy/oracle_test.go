package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/knftables"
)

// oracle judges packets by the words of the API's documentation, without sets or chains, one policy after the other
// (https://kubernetes.io/docs/concepts/services-networking/network-policies/).
type oracle struct{ State }

func (o oracle) passes(p packet) bool {
	if p.from == p.to {
		return true // a pod cannot block access to itself
	}
	from, to := o.pod(p.from), o.pod(p.to)
	return o.allows(egress, from, p, p.to, to) && o.allows(ingress, to, p, p.from, to)
}

func (o oracle) pod(address netip.Addr) *Pod {
	for i := range o.Pods {
		if slices.Contains(o.Pods[i].Addresses, address) {
			return &o.Pods[i]
		}
	}
	return nil
}

// allows judges one direction: pod is the one that may be isolated, peer the other's address, target the pod that is
// connected to.
func (o oracle) allows(d direction, pod *Pod, p packet, peer netip.Addr, target *Pod) bool {
	if pod == nil || pod.Node != o.Node {
		return true
	}
	isolated := false
	for _, policy := range o.Policies {
		if policy.Namespace != pod.Namespace || !o.selects(&policy.Spec.PodSelector, pod.Labels) || !o.about(d, policy) {
			continue
		}
		isolated = true
		if d == ingress {
			for _, r := range policy.Spec.Ingress {
				if o.peers(policy.Namespace, r.From, peer) && o.ports(r.Ports, p, target) {
					return true
				}
			}
			continue
		}
		for _, r := range policy.Spec.Egress {
			if o.peers(policy.Namespace, r.To, peer) && o.ports(r.Ports, p, target) || o.dns(policy.Namespace, r, p) {
				return true
			}
		}
	}
	return !isolated
}

func (o oracle) about(d direction, p *networkingv1.NetworkPolicy) bool {
	types := p.Spec.PolicyTypes
	if types == nil {
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if p.Spec.Egress != nil {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	if d == ingress {
		return slices.Contains(types, networkingv1.PolicyTypeIngress)
	}
	return slices.Contains(types, networkingv1.PolicyTypeEgress)
}

// dns judges a packet that was sent to the service of the cluster's DNS as one to the pods that it has elsewhere.
func (o oracle) dns(namespace string, r networkingv1.NetworkPolicyEgressRule, p packet) bool {
	if !slices.Contains(o.DNS, p.dialed.Addr()) || p.dialed.Port() != 53 {
		return false
	}
	elsewhere := oracle{State{Namespaces: o.Namespaces, Pods: []Pod{{Namespace: "kube-system", Labels: map[string]string{"k8s-app": "kube-dns"},
		Addresses: []netip.Addr{p.to}, Ports: []Port{{"dns", UDP, 53}, {"dns-tcp", TCP, 53}}}}}}
	blocks := slices.DeleteFunc(slices.Clone(r.To), func(p networkingv1.NetworkPolicyPeer) bool { return p.IPBlock != nil })
	if len(r.To) > 0 && len(blocks) == 0 {
		return false // of what is behind the service
	}
	p.port = 53
	return elsewhere.peers(namespace, blocks, p.to) && elsewhere.ports(r.Ports, p, &elsewhere.Pods[0])
}

func (oracle) selects(s *metav1.LabelSelector, tags map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(tags))
}

func (o oracle) peers(namespace string, peers []networkingv1.NetworkPolicyPeer, address netip.Addr) bool {
	if len(peers) == 0 {
		return true
	}
	pod := o.pod(address)
	for _, p := range peers {
		if p.IPBlock != nil {
			within := netip.MustParsePrefix(p.IPBlock.CIDR).Contains(address)
			for _, except := range p.IPBlock.Except {
				within = within && !netip.MustParsePrefix(except).Contains(address)
			}
			if within {
				return true
			}
			continue
		}
		if pod == nil {
			continue
		}
		right := pod.Namespace == namespace
		if p.NamespaceSelector != nil {
			right = o.selects(p.NamespaceSelector, o.Namespaces[pod.Namespace])
		}
		if right && (p.PodSelector == nil || o.selects(p.PodSelector, pod.Labels)) {
			return true
		}
	}
	return false
}

func (o oracle) ports(ports []networkingv1.NetworkPolicyPort, p packet, target *Pod) bool {
	if len(ports) == 0 {
		return true
	}
	for _, port := range ports {
		protocol := TCP
		if port.Protocol != nil {
			protocol = map[corev1.Protocol]Protocol{corev1.ProtocolTCP: TCP, corev1.ProtocolUDP: UDP, corev1.ProtocolSCTP: SCTP}[*port.Protocol]
		}
		switch {
		case protocol != p.protocol:
		case port.Port == nil:
			return true
		case port.Port.Type == intstr.String:
			if target != nil && slices.Contains(target.Ports, Port{Name: port.Port.StrVal, Protocol: protocol, Number: p.port}) {
				return true
			}
		case port.EndPort != nil:
			if p.port >= uint16(port.Port.IntVal) && p.port <= uint16(*port.EndPort) {
				return true
			}
		case p.port == uint16(port.Port.IntVal):
			return true
		}
	}
	return false
}

// chance makes random clusters, small enough for things to meet.
type chance struct{ *rand.Rand }

func pick[T any](c chance, from ...T) T { return from[c.IntN(len(from))] }

func (c chance) cluster() State {
	s := State{Node: "one", Namespaces: map[string]map[string]string{}, DNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}}
	for _, ns := range []string{"x", "y", "z", "kube-system"} {
		s.Namespaces[ns] = map[string]string{"ns": ns, "team": pick(c, "red", "blue")}
	}
	for i := range 3 + c.IntN(8) {
		pod := Pod{Namespace: pick(c, "x", "y", "z"), UID: types.UID(fmt.Sprint(i)), Node: pick(c, "one", "one", "two"), Labels: c.tags()}
		pod.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(c.IntN(2)), byte(i + 1)})}
		if c.IntN(2) == 0 {
			pod.Addresses = append(pod.Addresses, netip.MustParseAddr(fmt.Sprintf("fd00::%d:%d", c.IntN(2), i+1)))
		}
		for _, name := range []string{"web", "dns"} {
			if c.IntN(2) == 0 {
				pod.Ports = append(pod.Ports, Port{name, pick(c, TCP, UDP), pick[uint16](c, 80, 81, 8080)})
			}
		}
		s.Pods = append(s.Pods, pod)
	}
	for i := range c.IntN(6) {
		s.Policies = append(s.Policies, c.policy(fmt.Sprint("p", i)))
	}
	return s
}

func (c chance) tags() map[string]string {
	return map[string]string{"app": pick(c, "a", "b", "c"), "tier": pick(c, "front", "back")}
}

func (c chance) selector() metav1.LabelSelector {
	switch c.IntN(5) {
	case 0, 1:
		return metav1.LabelSelector{}
	case 2:
		return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
			Key: "app", Operator: pick(c, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{"a", "b"},
		}}}
	case 3:
		return metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(c, "a", "b", "c"), "tier": "front"}}
	}
	return metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(c, "a", "b", "c")}}
}

func (c chance) policy(name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(c, "x", "y", "z"), Name: name}}
	p.Spec.PodSelector = c.selector()
	for range c.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: c.peers(), Ports: c.ports()})
	}
	for range c.IntN(3) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: c.peers(), Ports: c.ports()})
	}
	p.Spec.PolicyTypes = pick(c, nil, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		[]networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress})
	return p
}

func (c chance) peers() (peers []networkingv1.NetworkPolicyPeer) {
	for range c.IntN(4) {
		peers = append(peers, c.peer())
	}
	return peers
}

func (c chance) peer() networkingv1.NetworkPolicyPeer {
	pods := c.selector()
	namespaces := metav1.LabelSelector{MatchLabels: map[string]string{"team": pick(c, "red", "blue")}}
	switch c.IntN(7) {
	case 6:
		return networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"ns": "kube-system"}},
			PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}}}
	case 0:
		return networkingv1.NetworkPolicyPeer{PodSelector: &pods}
	case 1:
		return networkingv1.NetworkPolicyPeer{NamespaceSelector: &namespaces}
	case 2:
		return networkingv1.NetworkPolicyPeer{NamespaceSelector: pick(c, &namespaces, &metav1.LabelSelector{}), PodSelector: &pods}
	case 3:
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: pick(c, "fd00::/64", "::/0"), Except: pick(c, nil, []string{"fd00::1:0/112"})}}
	case 4:
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: pick(c, "10.0.0.0/24", "10.0.1.3/32", "192.0.2.0/25")}}
	}
	return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: pick(c, "10.0.0.0/8", "0.0.0.0/0"),
		Except: pick(c, nil, []string{"10.0.0.0/24"}, []string{"10.0.0.4/30", "10.0.1.0/24"}, []string{"10.0.0.0/30", "10.0.0.2/31", "255.255.255.0/24"})}}
}

func (c chance) ports() (ports []networkingv1.NetworkPolicyPort) {
	for range c.IntN(4) {
		p := networkingv1.NetworkPolicyPort{Protocol: pick(c, nil, new(corev1.ProtocolTCP), new(corev1.ProtocolUDP), new(corev1.ProtocolSCTP))}
		switch c.IntN(5) {
		case 0:
		case 1, 2:
			p.Port = new(intstr.FromString(pick(c, "web", "dns")))
		case 3:
			p.Port = new(intstr.FromInt32(pick[int32](c, 80, 81, 53)))
		case 4:
			p.Port, p.EndPort = new(intstr.FromInt32(pick[int32](c, 50, 79))), new(pick[int32](c, 79, 80, 8080))
		}
		ports = append(ports, p)
	}
	return ports
}

// packets are between all that have an address, and some that have none of the cluster.
func packets(s State) (all []packet) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("255.255.255.254"),
		netip.MustParseAddr("10.0.1.200"), netip.MustParseAddr("fd00::1:99"), netip.MustParseAddr("2001:db8::1")}
	for _, pod := range s.Pods {
		addresses = append(addresses, pod.Addresses...)
	}
	for _, from := range addresses {
		for _, to := range addresses {
			if from.BitLen() != to.BitLen() {
				continue
			}
			all = append(all, packet{from: from, to: to, protocol: 1})
			for _, protocol := range []Protocol{TCP, UDP, SCTP} {
				for _, port := range []uint16{79, 80, 81, 8080, 9000} {
					all = append(all, packet{from: from, to: to, protocol: protocol, port: port})
				}
			}
		}
	}
	for _, from := range addresses {
		for _, protocol := range []Protocol{TCP, UDP} {
			for _, dialed := range []string{"10.96.0.10:53", "10.96.0.10:54", "10.96.0.11:53"} {
				if to := netip.MustParseAddr("192.0.2.7"); from.Is4() && from != to {
					all = append(all, packet{from, to, protocol, 10053, netip.MustParseAddrPort(dialed)})
				}
			}
		}
	}
	return all
}

// watched leaves only the pods that a node watches.
func watched(s State) State {
	own := s
	own.Pods = slices.DeleteFunc(slices.Clone(s.Pods), func(p Pod) bool { return p.Node != s.Node })
	needed := scopeOf(s, own.local())
	s.Pods = slices.DeleteFunc(slices.Clone(s.Pods), func(p Pod) bool {
		return p.Node != s.Node && !needed.all && !slices.Contains(needed.namespaces, p.Namespace)
	})
	return s
}

// TestRulesJudgeAsThePoliciesSay holds the rules to the oracle, over random clusters that become one another: the table gets
// the differences only, and the rules know only the pods that are watched.
func TestRulesJudgeAsThePoliciesSay(t *testing.T) {
	passed, dropped := 0, 0
	for round := range 30 {
		seeds := []uint64{rand.Uint64(), rand.Uint64()}
		c := chance{rand.New(rand.NewPCG(seeds[0], seeds[1]))}
		fake := knftables.NewFake(knftables.InetFamily, "t")
		table := &Table{nft: fake}
		state := c.cluster()
		for step := range 4 {
			if err := table.apply(t.Context(), Compile(watched(state))); err != nil {
				t.Fatalf("seeds %d, step %d: %v", seeds, step, err)
			}
			trace, judge := tracer{t, fake.Table}, oracle{state}
			for _, p := range packets(state) {
				got, want := trace.passes(p), judge.passes(p)
				if got != want {
					t.Fatalf("round %d, seeds %d, step %d: %s passes: %t, want %t\n%s", round, seeds, step, p, got, want, Compile(state))
				}
				if got {
					passed++
				} else {
					dropped++
				}
			}
			state = c.evolve(state)
		}
	}
	if passed < 1000 || dropped < 1000 {
		t.Errorf("%d packets passed and %d were dropped: the clusters are no test", passed, dropped)
	}
}

// evolve changes a few things of a cluster.
func (c chance) evolve(s State) State {
	next := c.cluster()
	next.Namespaces = s.Namespaces
	if c.IntN(3) > 0 {
		next.Pods = slices.Clone(s.Pods)
		at := c.IntN(len(next.Pods))
		next.Pods[at].Labels = c.tags()
	}
	if c.IntN(3) > 0 {
		next.Policies = append(slices.Clone(s.Policies), c.policy(fmt.Sprint("late", c.Uint32())))
		next.Policies = slices.Delete(next.Policies, 0, 1)
	}
	return next
}
