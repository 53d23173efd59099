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

// State is the input for a node's rules.
type State struct {
	// Node is the name of the node whose pods are isolated.
	Node string
	// DNS are the addresses of the cluster's DNS, as pods know them.
	DNS []netip.Addr
	// Policies are the policies of all namespaces.
	Policies []*networkingv1.NetworkPolicy
	// Namespaces maps each namespace to its labels.
	Namespaces map[string]map[string]string
	// Pods are the pods of all nodes that have an address of their own and have not ended.
	Pods []Pod
	// Sandboxes are the pod networks on this node. The API server may not know them yet.
	Sandboxes []Sandbox
}

// Pod has the fields of a pod that policies depend on.
type Pod struct {
	Namespace string
	// UID is the pod's UID; for a static pod, the one that its kubelet uses.
	UID       types.UID
	Node      string
	Labels    map[string]string
	Addresses []netip.Addr
	Ports     []Port // named ports only
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
	ID        string // id of the pod's sandbox in the container runtime
	Namespace string
	UID       types.UID
	Labels    map[string]string // from the kubelet; those in State.Pods override them
	Addresses []netip.Addr
}

// endpoint is a pod with all its addresses.
type endpoint struct {
	Pod
	local bool
}

// endpoints assigns each address to one pod. An address that was reused belongs to the new pod: this node's sandboxes take
// precedence, then the youngest pod.
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

// claim takes those of the addresses for the pod that no other pod has, each once.
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
