package api

import "k8s.io/apimachinery/pkg/types"

// Annotations by which a pod has an address of a pool, instead of one of its node's pod CIDR.
const (
	// AnnotationIPPool names the pool; AnnotationIP may name the address in it, else it is any that is free.
	AnnotationIPPool = "k8sm.io/ip-pool"
	AnnotationIP     = "k8sm.io/ip"
	// AnnotationIPAssigned is the answer, which the binding writes. The node gives the pod what it says, so it is the
	// scheduler's alone to write.
	AnnotationIPAssigned = "k8sm.io/ip-assigned"
)

// AddressClaim is a pod's wish for an address of a pool.
type AddressClaim struct {
	Pod  PodKey
	UID  types.UID
	Pool string
	IP   string // the only one that will do; "" for any
}

// AddressAnswer is what became of the AddressClaim of the pod with this UID.
type AddressAnswer struct {
	UID     types.UID
	IP      string // the pod's, until it is released; "" if it has none
	Problem string // why it has none
}
