package scheduler

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// requests are what a kubelet counts of a pod when it admits it, and kube-scheduler when it places it: cpus in thousandths,
// memory and ephemeral storage in bytes
// (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#how-pods-with-resource-requests-are-scheduled).
// What a pod is charged in Mesos may be more: see Config.DefaultPodCPUs.
type requests [3]int64

var requestNames = [len(requests{})]v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage}

// requestsIn reads the requests out of a list.
func requestsIn(list v1.ResourceList) requests {
	return requests{list.Cpu().MilliValue(), list.Memory().Value(), list.StorageEphemeral().Value()}
}

// requestsOf returns the effective requests of a pod, computed in scratch unless that is nil. While a pod is being resized they
// are the larger ones.
func requestsOf(pod *v1.Pod, scratch v1.ResourceList) requests {
	return requestsIn(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{Reuse: scratch, UseStatusResources: true}))
}

// add counts the other ones in (sign 1) or out (-1).
func (q *requests) add(o requests, sign int64) {
	for i := range q {
		q[i] += sign * o[i]
	}
}

// admission is how much the kubelet of a node admits pods with.
type admission struct {
	known       bool // a kubelet has reported it; until one runs nobody knows what the machine has
	allocatable requests
	capacity    requests
}

func admissionOf(node *v1.Node) admission {
	if node.Status.NodeInfo.KubeletVersion == "" {
		return admission{}
	}
	return admission{known: true, allocatable: requestsIn(node.Status.Allocatable), capacity: requestsIn(node.Status.Capacity)}
}

// bounded tells whether it is known what the node's kubelet admits.
func (pl *place) bounded() bool { return pl != nil && pl.admits.known }

// forPods returns what an agent has for pods in the units of requests.
func (a *agent) forPods(executor Demand) requests {
	var q requests
	for i := range q {
		q[i] = int64(max(0, a.total.scalars[i]-executor.Scalars[i]))
		if i > 0 { // MiB
			q[i] = q[i] << 20 / 1000
		}
	}
	return q
}

// spare is how much of a resource the kubelet admits beside the pods that stand there. The kubelet of the next minion will
// reserve anew what the agent does not have by then.
func (v *view) spare(i int) int64 {
	admits := &v.place.admits
	bound := admits.allocatable[i]
	if !v.agent.hasExecutor {
		bound = max(bound, min(admits.capacity[i], v.next[i]))
	}
	return max(0, bound-v.place.requested[i])
}

// admitsBeside tells whether the kubelet would admit a pod of the shape beside the others, too.
func (v *view) admitsBeside(s *shape, others *holding) bool {
	if !v.place.bounded() {
		return true
	}
	for i, want := range s.requests {
		if want > 0 && want > v.spare(i)-others.requests[i] {
			return false
		}
	}
	return true
}

// checkAdmission: will the kubelet admit the pod? An agent may well have more than its machine.
func (v *view) checkAdmission(s *shape) refused {
	for i, want := range s.requests {
		if want == 0 {
			continue
		}
		if spare := v.spare(i); want > spare {
			v.place.short = true
			return refused{reason: insufficient, scalar: i, spare: spare}
		}
	}
	return refused{}
}

// amountOf formats an amount of a request.
func amountOf(i int, amount int64) string {
	if requestNames[i] == v1.ResourceCPU {
		return resource.NewMilliQuantity(amount, resource.DecimalSI).String()
	}
	return resource.NewQuantity(amount, resource.BinarySI).String()
}

// tellOvercommitted tells, once, that the agent has more than its machine.
func (c *Core) tellOvercommitted(a *agent) []Action {
	pl := c.standing.places[a.node]
	if a.overcommitted || !pl.bounded() || !a.hasExecutor {
		return nil
	}
	var parts []string
	has := a.forPods(c.minionOf(a))
	for i, admits := range pl.admits.allocatable {
		if unit := int64(1) << (20 * min(i, 1)); has[i]-admits > unit { // less comes from rounding
			parts = append(parts, fmt.Sprintf("%s %s, of which its kubelet admits %s", requestNames[i], amountOf(i, has[i]), amountOf(i, admits)))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	a.overcommitted = true
	return c.tellNode(a, v1.EventTypeWarning, "AgentOvercommitted", fmt.Sprintf("the Mesos agent has more than this machine has for pods: %s. "+
		"Pods are placed by what the kubelet admits; give the agent what its machine has (--resources) to let other frameworks know, too", strings.Join(parts, "; ")))
}
