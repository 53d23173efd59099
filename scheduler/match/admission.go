package match

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Requests are the requests of a pod as the kubelet and kube-scheduler count them: cpus in thousandths, memory and ephemeral
// storage in bytes
// (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#how-pods-with-resource-requests-are-scheduled).
// Mesos may charge more for the pod: see Config.
type Requests [3]int64

// RequestNames names the resources of Requests, in their order.
var RequestNames = [len(Requests{})]v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage}

// requestsIn reads the requests out of a list.
func requestsIn(list v1.ResourceList) Requests {
	return Requests{list.Cpu().MilliValue(), list.Memory().Value(), list.StorageEphemeral().Value()}
}

// requestsOf returns the effective requests of a pod, computed in scratch unless that is nil. While a pod is resized, the larger
// of its old and new requests count.
func requestsOf(pod *v1.Pod, scratch v1.ResourceList) Requests {
	return requestsIn(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{Reuse: scratch, UseStatusResources: true}))
}

// add adds o (sign 1) or subtracts it (-1).
func (q *Requests) add(o Requests, sign int64) {
	for i := range q {
		q[i] += sign * o[i]
	}
}

// admission is the amount of requests that the kubelet of a node admits.
type admission struct {
	known       bool // false until a kubelet has reported what the machine has
	allocatable Requests
	capacity    Requests
}

func admissionOf(node *v1.Node) admission {
	if node.Status.NodeInfo.KubeletVersion == "" {
		return admission{}
	}
	return admission{known: true, allocatable: requestsIn(node.Status.Allocatable), capacity: requestsIn(node.Status.Capacity)}
}

// admissionKnown tells whether a kubelet has reported what it admits.
func (n *Node) admissionKnown() bool { return n != nil && n.admits.known }

// spare returns how much of resource i the kubelet still admits. If no minion runs, the kubelet of the next one will reserve
// what the agent does not offer.
func (v *View) spare(i int) int64 {
	admits := &v.node.admits
	bound := admits.allocatable[i]
	if !v.runs {
		bound = max(bound, min(admits.capacity[i], v.nextMinion[i]))
	}
	return max(0, bound-v.node.requested[i])
}

// admitsBeside tells whether the kubelet would admit a pod of the class together with the others.
func (v *View) admitsBeside(c *Class, others *Usage) bool {
	if !v.node.admissionKnown() {
		return true
	}
	for i, want := range c.requests {
		if want > 0 && want > v.spare(i)-others.Requests[i] {
			return false
		}
	}
	return true
}

// checkAdmission checks that the kubelet will admit the pod. An agent may be configured with more than its machine has.
func (v *View) checkAdmission(c *Class) refusal {
	for i, want := range c.requests {
		if want == 0 {
			continue
		}
		if spare := v.spare(i); want > spare {
			v.node.refusedPod = true
			return refusal{reason: kubeletShort, index: i, spare: spare}
		}
	}
	return refusal{}
}

// Amount formats an amount of resource i of Requests.
func Amount(i int, amount int64) string {
	if RequestNames[i] == v1.ResourceCPU {
		return resource.NewMilliQuantity(amount, resource.DecimalSI).String()
	}
	return resource.NewQuantity(amount, resource.BinarySI).String()
}

// Admits returns the requests that the kubelet of the agent's node admits; ok is false if that is not known.
func (x *Index) Admits(a *Agent) (allocatable Requests, ok bool) {
	n := x.nodes[a.Node]
	if !n.admissionKnown() {
		return Requests{}, false
	}
	return n.admits.allocatable, true
}
