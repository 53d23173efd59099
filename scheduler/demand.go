package scheduler

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/k8sm/k8sm/offers"
)

// gpuResource is the name under which pods ask for what Mesos calls gpus.
const gpuResource v1.ResourceName = "nvidia.com/gpu"

const numScalars = 4

// memory and disk are the places of mem and disk among the scalars.
const (
	memory = 1
	disk   = 2
)

// scalarNames are the scalars of a Demand, in the order in which they are checked.
var scalarNames = [numScalars]string{offers.CPUs, offers.Mem, offers.Disk, offers.GPUs}

// Demand is what a pod or an executor takes of an agent.
type Demand struct {
	Scalars [numScalars]offers.Milli // by scalarNames
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
func demandOf(pod *v1.Pod, defaultCPUs, defaultMem offers.Milli, scratch v1.ResourceList) (Demand, requests) {
	list := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{Reuse: scratch})
	d := Demand{Ports: hostPorts(pod)}
	d.Scalars = [numScalars]offers.Milli{
		offers.Milli(list.Cpu().MilliValue()),
		mebibytes(*list.Memory()),
		mebibytes(*list.StorageEphemeral()),
		offers.Milli(1000 * quantity(list, gpuResource)),
	}
	if d.Scalars[0] == 0 {
		d.Scalars[0] = defaultCPUs
	}
	if d.Scalars[1] == 0 {
		d.Scalars[1] = defaultMem
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

func hostPorts(pod *v1.Pod) []uint64 {
	var ports []uint64
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range containers {
			for _, port := range container.Ports {
				if port.HostPort > 0 {
					ports = append(ports, uint64(port.HostPort))
				}
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
