package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// State is what the rules of a node follow from.
type State struct {
	// Node is the name of the node whose pods are to be isolated.
	Node string
	// DNS are the addresses at which pods are told to ask the cluster's DNS.
	DNS []netip.Addr
	// Policies are those of all namespaces.
	Policies []*networkingv1.NetworkPolicy
	// Namespaces are the labels of each.
	Namespaces map[string]map[string]string
	// Pods are those of all nodes that have an address of their own and have not ended.
	Pods []Pod
	// Sandboxes are the pods' networks on this node, of which the API server may not know yet.
	Sandboxes []Sandbox
}

// Pod is what of a pod policies go by.
type Pod struct {
	Namespace string
	// UID is the pod's; that of a static pod is the one that its kubelet goes by.
	UID       types.UID
	Node      string
	Labels    map[string]string
	Addresses []netip.Addr
	Ports     []Port // those with a name
	Created   time.Time
}

// Port is a named port of a pod's container.
type Port struct {
	Name     string
	Protocol Protocol
	Number   uint16
}

// Sandbox is a pod's network on this node.
type Sandbox struct {
	ID        string // that of the pod's sandbox in the runtime
	Namespace string
	UID       types.UID
	Labels    map[string]string // as the kubelet knew them; those in State.Pods win
	Addresses []netip.Addr
}

// endpoint is a pod with all the addresses that are its.
type endpoint struct {
	Pod
	local bool
}

// endpoints gives each address to one pod. An address that was used again is the new pod's: this node's sandboxes know best
// whose its addresses are, and of other pods that claim one the youngest has it.
func (s State) endpoints() []endpoint {
	pods := slices.SortedFunc(slices.Values(s.Pods), func(a, b Pod) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.UID, b.UID))
	})
	known := map[types.UID]int{}
	list := make([]endpoint, 0, len(pods)+len(s.Sandboxes))
	for _, pod := range pods {
		known[pod.UID] = len(list)
		claimed := pod.Addresses
		pod.Addresses = nil
		list = append(list, endpoint{Pod: pod, local: pod.Node == s.Node})
		list[len(list)-1].Addresses = claimed
	}
	taken := map[netip.Addr]types.UID{}
	for _, sandbox := range s.Sandboxes {
		at, ok := known[sandbox.UID]
		if !ok {
			at = len(list)
			known[sandbox.UID] = at
			list = append(list, endpoint{Pod: Pod{
				Namespace: sandbox.Namespace, UID: sandbox.UID, Node: s.Node, Labels: sandbox.Labels,
			}, local: true})
		}
		list[at].Addresses = slices.Concat(list[at].Addresses, sandbox.Addresses)
		for _, address := range sandbox.Addresses {
			taken[address] = sandbox.UID
		}
	}
	for i := range list {
		list[i].Addresses = claim(taken, list[i].UID, list[i].Addresses)
	}
	return list
}

// claim takes for the pod those of the addresses that are not another's, each once.
func claim(taken map[netip.Addr]types.UID, pod types.UID, addresses []netip.Addr) []netip.Addr {
	mine := map[netip.Addr]bool{}
	for _, address := range addresses {
		if owner, ok := taken[address]; !ok || owner == pod {
			taken[address] = pod
			mine[address] = true
		}
	}
	return slices.SortedFunc(maps.Keys(mine), netip.Addr.Compare)
}
