package policy

import (
	"maps"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// scope says of which namespaces a node has to know the pods of other nodes.
type scope struct {
	all        bool // of all, also those to come
	namespaces []string
}

// mostNamespaces is how many namespaces are watched one by one. A watch of all pods costs the API server less than many watches.
const mostNamespaces = 20

// scopeOf returns the scope of the rules for pods in the namespaces that local has. The rules depend on no pods but this node's and the
// peers that policies in these namespaces select.
func scopeOf(s State, local map[string]bool) scope {
	c := compiler{state: s}
	needed := map[string]bool{}
	for _, p := range s.Policies {
		if !local[p.Namespace] {
			continue
		}
		peers, everywhere := peersIn(p)
		if everywhere {
			return scope{all: true}
		}
		for _, selected := range peers {
			if selected.namespaces == nil {
				needed[selected.namespace] = true
				continue
			}
			if selected.namespaces.Empty() {
				return scope{all: true}
			}
			for namespace := range s.Namespaces {
				if c.covers(selected, namespace) {
					needed[namespace] = true
				}
			}
		}
	}
	if len(needed) > mostNamespaces {
		return scope{all: true}
	}
	return scope{namespaces: slices.Sorted(maps.Keys(needed))}
}

// peersIn returns the pods that a policy selects as peers; everywhere is true if it is about pods of any namespace.
func peersIn(p *networkingv1.NetworkPolicy) (peers []peer, everywhere bool) {
	add := func(list []networkingv1.NetworkPolicyPeer) {
		for _, from := range list {
			if from.IPBlock == nil {
				peers = append(peers, newPeer(p.Namespace, from))
			}
		}
	}
	for _, rule := range p.Spec.Ingress {
		add(rule.From)
	}
	for _, rule := range p.Spec.Egress {
		add(rule.To)
		everywhere = everywhere || portsAnywhere(rule)
	}
	return peers, everywhere
}

// portsAnywhere tells whether a rule allows a port by its name to addresses, and so that port of whatever pods have them.
func portsAnywhere(rule networkingv1.NetworkPolicyEgressRule) bool {
	byAddress := len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(to networkingv1.NetworkPolicyPeer) bool { return to.IPBlock != nil })
	return byAddress && slices.ContainsFunc(rule.Ports, func(port networkingv1.NetworkPolicyPort) bool {
		return port.Port != nil && port.Port.Type == intstr.String
	})
}
