package policy

import (
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/api"
)

// dnsPod stands for the cluster's DNS in policies: a pod with the labels and ports that DNS pods have in most clusters.
var dnsPod = Pod{
	Namespace: api.DNSServiceNamespace, Labels: map[string]string{"k8s-app": api.DNSServiceName},
	Ports: []Port{{api.DNSPortName, UDP, 53}, {api.DNSTCPPortName, TCP, 53}},
}

// allowDNS lets pods query the cluster's DNS address if a rule would let them reach dnsPod. Here the DNS servers are not pods, and
// listen on another port than 53, which is all that rules can see once the service's address has been translated.
func (c *compiler) allowDNS(namespace string, r networkingv1.NetworkPolicyEgressRule) (rules []string) {
	meant := func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			return false
		}
		dns := newPeer(namespace, p)
		return c.covers(dns, dnsPod.Namespace) && dns.pods.Matches(labels.Set(dnsPod.Labels))
	}
	if len(r.To) > 0 && !slices.ContainsFunc(r.To, meant) {
		return nil
	}
	for _, port := range dnsPod.Ports {
		if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool { return port.matches(p) }) {
			continue
		}
		for _, address := range c.state.DNS {
			rules = append(rules, fmt.Sprintf("meta l4proto %d ct original %s daddr %s ct original proto-dst %d accept",
				port.Protocol, familyOf(address).address, address, port.Number))
		}
	}
	return rules
}

// matches reports whether the port matches the port of a policy.
func (p Port) matches(by networkingv1.NetworkPolicyPort) bool {
	protocol, ok := protocolOf(by.Protocol)
	switch {
	case !ok || protocol != p.Protocol:
		return false
	case by.Port == nil:
		return true
	case by.Port.Type == intstr.String:
		return by.Port.StrVal == p.Name
	case by.EndPort != nil:
		return by.Port.IntVal <= int32(p.Number) && int32(p.Number) <= *by.EndPort
	}
	return by.Port.IntVal == int32(p.Number)
}
