package match

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/k8sm/k8sm/offers"
)

// GPUResource is the resource name in pods for the gpus of Mesos.
const GPUResource v1.ResourceName = "nvidia.com/gpu"

// The indexes of the scalars of a Demand.
const (
	CPUs = iota
	Memory
	Disk
	GPUs
	NumScalars
)

// ScalarNames are the Mesos names of the scalars of a Demand, in the order in which they are checked.
var ScalarNames = [NumScalars]string{offers.CPUs, offers.Mem, offers.Disk, offers.GPUs}

// Demand is what a pod or an executor takes of an agent.
type Demand struct {
	Scalars [NumScalars]offers.Milli // by ScalarNames
	Ports   []uint64                 // host ports, each once, ascending
}

// DemandOf returns the effective requests of a pod, with init containers, sidecars and overhead as in Kubernetes
// (https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers). The defaults are for
// cpus and memory that no container requests. It computes in scratch unless that is nil.
func DemandOf(pod *v1.Pod, defaultCPUs, defaultMem offers.Milli, scratch v1.ResourceList) Demand {
	d, _ := demandOf(pod, defaultCPUs, defaultMem, scratch)
	return d
}

// demandOf also returns the requests without the defaults.
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

// kinds counts the resources in the demand, each port as one.
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

// mebibytes converts bytes to the unit of Mesos. It rounds up, so that a pod never gets more than is charged.
func mebibytes(q resource.Quantity) offers.Milli {
	const thousandth = (1 << 20) / 1000.0
	milli := offers.Milli(float64(q.Value()) / thousandth)
	if float64(milli)*thousandth < float64(q.Value()) {
		milli++
	}
	return milli
}

// checkResources checks that there is enough for the pod, and for the executor if it must be launched too.
func (v *View) checkResources(c *Class) refusal {
	for i, want := range c.demand.Scalars {
		if want <= v.have[i] {
			continue
		}
		short := refusal{reason: agentShort, index: i, free: v.have[i]}
		if len(v.Offers) > 0 && want <= v.Agent.Total.Scalars[i]-v.executor.Charge.Sum(ScalarNames[i]) {
			short.reason = offersShort
		}
		return short
	}
	if v.lacksForCompanion() {
		return refusal{reason: minionShort}
	}
	if c.asks != nil && c.asks.revocable > 0 {
		return v.checkRevocable(c)
	}
	return refusal{}
}

// checkRevocable checks that there are enough revocable cpus, and that the agent's executor may run a task with them.
func (v *View) checkRevocable(c *Class) refusal {
	if most := v.Free.Sum(offers.RevocableCPUs); most < c.asks.revocable {
		return refusal{reason: revocableShort, free: most}
	}
	if v.index.source.Mixes(v.Agent) {
		return refusal{reason: executorMixes}
	}
	return refusal{}
}
