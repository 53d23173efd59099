package policy

import (
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/api"
)

// dnsPod is what a policy means that lets pods ask the cluster's DNS: the pods that it has in most clusters, by their usual
// labels and ports.
var dnsPod = Pod{
	Namespace: api.DNSServiceNamespace, Labels: map[string]string{"k8s-app": api.DNSServiceName},
	Ports: []Port{{api.DNSPortName, UDP, 53}, {api.DNSTCPPortName, TCP, 53}},
}

// allowDNS lets pods ask the cluster's DNS by the address that they are told, if a rule would let them reach dnsPod: its servers
// are no pods here and listen at another port than 53, which is all that can be seen once the service's address is translated.
func (c *compiler) allowDNS(namespace string, r networkingv1.NetworkPolicyEgressRule) (rules []string) {
	meant := func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			return false
		}
		dns := newPeer(namespace, p)
		return c.means(dns, dnsPod.Namespace) && dns.pods.Matches(labels.Set(dnsPod.Labels))
	}
	if len(r.To) > 0 && !slices.ContainsFunc(r.To, meant) {
		return nil
	}
	for _, port := range dnsPod.Ports {
		if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool { return port.isMeant(p) }) {
			continue
		}
		for _, address := range c.state.DNS {
			rules = append(rules, fmt.Sprintf("meta l4proto %d ct original %s daddr %s ct original proto-dst %d accept",
				port.Protocol, familyOf(address).address, address, port.Number))
		}
	}
	return rules
}

// isMeant tells whether the port of a policy is this one, or one of them.
func (p Port) isMeant(by networkingv1.NetworkPolicyPort) bool {
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
