package match

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Requests are what a kubelet counts of a pod when it admits it, and kube-scheduler when it places it: cpus in thousandths,
// memory and ephemeral storage in bytes
// (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#how-pods-with-resource-requests-are-scheduled).
// What a pod is charged in Mesos may be more: see Config.
type Requests [3]int64

// RequestNames are the resources of Requests.
var RequestNames = [len(Requests{})]v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage}

// requestsIn reads the requests out of a list.
func requestsIn(list v1.ResourceList) Requests {
	return Requests{list.Cpu().MilliValue(), list.Memory().Value(), list.StorageEphemeral().Value()}
}

// requestsOf returns the effective requests of a pod, computed in scratch unless that is nil. While a pod is being resized they
// are the larger ones.
func requestsOf(pod *v1.Pod, scratch v1.ResourceList) Requests {
	return requestsIn(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{Reuse: scratch, UseStatusResources: true}))
}

// add counts the other ones in (sign 1) or out (-1).
func (q *Requests) add(o Requests, sign int64) {
	for i := range q {
		q[i] += sign * o[i]
	}
}

// admission is how much the kubelet of a node admits pods with.
type admission struct {
	known       bool // a kubelet has reported it; until one runs nobody knows what the machine has
	allocatable Requests
	capacity    Requests
}

func admissionOf(node *v1.Node) admission {
	if node.Status.NodeInfo.KubeletVersion == "" {
		return admission{}
	}
	return admission{known: true, allocatable: requestsIn(node.Status.Allocatable), capacity: requestsIn(node.Status.Capacity)}
}

// bounded tells whether it is known what the node's kubelet admits.
func (n *Node) admissionKnown() bool { return n != nil && n.admits.known }

// spare is how much of a resource the kubelet admits beside the pods that occupy it. The kubelet of the next minion will
// reserve anew what the agent does not have by then.
func (v *View) spare(i int) int64 {
	admits := &v.node.admits
	bound := admits.allocatable[i]
	if !v.runs {
		bound = max(bound, min(admits.capacity[i], v.nextMinion[i]))
	}
	return max(0, bound-v.node.requested[i])
}

// admitsBeside tells whether the kubelet would admit a pod of the class beside the others, too.
func (v *View) admitsBeside(s *Class, others *Usage) bool {
	if !v.node.admissionKnown() {
		return true
	}
	for i, want := range s.requests {
		if want > 0 && want > v.spare(i)-others.Requests[i] {
			return false
		}
	}
	return true
}

// checkAdmission: will the kubelet admit the pod? An agent may well have more than its machine.
func (v *View) checkAdmission(s *Class) refusal {
	for i, want := range s.requests {
		if want == 0 {
			continue
		}
		if spare := v.spare(i); want > spare {
			v.node.refusedPod = true
			return refusal{reason: kubeletShort, scalar: i, spare: spare}
		}
	}
	return refusal{}
}

// Amount formats an amount of a request.
func Amount(i int, amount int64) string {
	if RequestNames[i] == v1.ResourceCPU {
		return resource.NewMilliQuantity(amount, resource.DecimalSI).String()
	}
	return resource.NewQuantity(amount, resource.BinarySI).String()
}

// Admits returns what the kubelet of the agent's node admits pods with; ok is false if that is not known.
func (x *Index) Admits(a *Agent) (allocatable Requests, ok bool) {
	n := x.nodes[a.Node]
	if !n.admissionKnown() {
		return Requests{}, false
	}
	return n.admits.allocatable, true
}
