package match

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/k8sm/k8sm/offers"
)

// GPUResource is the name under which pods ask for what Mesos calls gpus.
const GPUResource v1.ResourceName = "nvidia.com/gpu"

// The scalars of a Demand.
const (
	CPUs = iota
	Memory
	Disk
	GPUs
	NumScalars
)

// ScalarNames are the scalars of a Demand, in the order in which they are checked.
var ScalarNames = [NumScalars]string{offers.CPUs, offers.Mem, offers.Disk, offers.GPUs}

// Demand is what a pod or an executor takes of an agent.
type Demand struct {
	Scalars [NumScalars]offers.Milli // by ScalarNames
	Ports   []uint64                 // host ports, each once, ascending
}

// DemandOf returns the effective requests of a pod, as Kubernetes itself counts init containers, sidecars and overhead
// (https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers), with the
// given defaults for cpus and memory that no container requests. It computes in scratch unless that is nil.
func DemandOf(pod *v1.Pod, defaultCPUs, defaultMem offers.Milli, scratch v1.ResourceList) Demand {
	d, _ := demandOf(pod, defaultCPUs, defaultMem, scratch)
	return d
}

// demandOf returns what the pod requested as it is, too.
func demandOf(pod *v1.Pod, defaultCPUs, defaultMem offers.Milli, scratch v1.ResourceList) (Demand, Requests) {
	list := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{Reuse: scratch})
	d := Demand{Ports: hostPorts(pod)}
	d.Scalars = [NumScalars]offers.Milli{
		offers.Milli(list.Cpu().MilliValue()),
		mebibytes(*list.Memory()),
		mebibytes(*list.StorageEphemeral()),
		offers.Milli(1000 * quantity(list, GPUResource)),
	}
	if d.Scalars[CPUs] == 0 {
		d.Scalars[CPUs] = defaultCPUs
	}
	if d.Scalars[Memory] == 0 {
		d.Scalars[Memory] = defaultMem
	}
	return d, requestsIn(list)
}

// kinds counts the resources that the demand is for, each port as one.
func (d *Demand) kinds() int {
	count := len(d.Ports)
	for _, amount := range d.Scalars {
		if amount > 0 {
			count++
		}
	}
	return count
}

func quantity(list v1.ResourceList, name v1.ResourceName) int64 {
	q := list[name]
	return q.Value()
}

// mebibytes returns bytes in the unit of Mesos, rounded up so that a pod is never promised more than is charged.
func mebibytes(q resource.Quantity) offers.Milli {
	const thousandth = (1 << 20) / 1000.0
	milli := offers.Milli(float64(q.Value()) / thousandth)
	if float64(milli)*thousandth < float64(q.Value()) {
		milli++
	}
	return milli
}

// checkResources: is there enough for the pod, and for the executor if it has to be launched with it?
func (v *View) checkResources(s *Class) refusal {
	for i, want := range s.demand.Scalars {
		if want <= v.have[i] {
			continue
		}
		short := refusal{reason: agentShort, scalar: i, most: v.have[i]}
		if len(v.Offers) > 0 && want <= v.Agent.Total.Scalars[i]-v.executor.Charge.Sum(ScalarNames[i]) {
			short.reason = offersShort
		}
		return short
	}
	if v.lacksForCompanion() {
		return refusal{reason: minionShort}
	}
	if s.asks != nil && s.asks.revocable > 0 {
		return v.checkRevocable(s)
	}
	return refusal{}
}

// checkRevocable: are there enough revocable cpus, and may a task of the agent's executor have them?
func (v *View) checkRevocable(s *Class) refusal {
	if most := v.Free.Sum(offers.RevocableCPUs); most < s.asks.revocable {
		return refusal{reason: revocableShort, most: most}
	}
	if v.index.source.Mixes(v.Agent) {
		return refusal{reason: executorMixes}
	}
	return refusal{}
}
