package api

import "k8s.io/apimachinery/pkg/types"

// Annotations for a pod that has an address from a pool instead of its node's pod CIDR.
const (
	// AnnotationIPPool names the pool. AnnotationIP may name an address in it; without it, any free address will do.
	AnnotationIPPool = "k8sm.io/ip-pool"
	AnnotationIP     = "k8sm.io/ip"
	// AnnotationIPAssigned is the answer, written by the binding. Only the scheduler may write it, because the node assigns whatever
	// it says.
	AnnotationIPAssigned = "k8sm.io/ip-assigned"
)

// AddressClaim is a pod's request for an address from a pool.
type AddressClaim struct {
	Pod  PodKey
	UID  types.UID
	Pool string
	IP   string // the wanted address; "" for any
}

// AddressAnswer answers the AddressClaim of the pod with this UID.
type AddressAnswer struct {
	UID     types.UID
	IP      string // the pod's address until it is released; "" if it has none
	Problem string // why the pod has no address
}
