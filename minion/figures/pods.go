package figures

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/minion/cri"
)

// Pods makes the metrics of pods. One goroutine uses it.
type Pods struct {
	// before are the containers of the last reading, by id: CPU usage is the difference to it.
	before map[string]cri.ContainerUsage
}

// Elements returns the metrics of pods that run, with the given usage, and of all pods on the node. CPUs is the number of the machine's
// processors. A container's CPU usage begins with its second reading.
func (p *Pods) Elements(running []cri.PodUsage, all []*corev1.Pod, cpus int) (elements []falcon.Element) {
	now := map[string]cri.ContainerUsage{}
	for _, pod := range running {
		for _, c := range pod.Containers {
			tags := falcon.Tags("namespace", pod.Namespace, "pod", pod.Name, "container", c.Name)
			elements = append(elements, containerElements(c, tags)...)
			if before, known := p.before[c.ID]; known {
				elements = append(elements, cpuElements(before, c, cpus, tags)...)
			}
			now[c.ID] = c
		}
		if pod.Network != nil {
			elements = append(elements, trafficElements(*pod.Network, falcon.Tags("namespace", pod.Namespace, "pod", pod.Name))...)
		}
	}
	p.before = now
	for _, pod := range all {
		elements = append(elements, stateElements(pod)...)
	}
	return elements
}

func containerElements(c cri.ContainerUsage, tags string) []falcon.Element {
	return []falcon.Element{
		falcon.Gauge("container.mem.limit", float64(c.MemoryLimit), tags),
		falcon.Gauge("container.mem.usage", float64(c.Memory), tags),
		falcon.Gauge("container.mem.usage.percent", percent(float64(c.Memory), float64(c.MemoryLimit)), tags),
		falcon.Gauge("container.mem.working_set", float64(c.WorkingSet), tags),
		falcon.Gauge("container.filesystem.limit", float64(c.DiskSize), tags),
		falcon.Gauge("container.filesystem.usage", float64(c.Disk), tags),
	}
}

// cpuElements returns the CPU usage between two readings in percent of the machine.
func cpuElements(before, now cri.ContainerUsage, cpus int, tags string) []falcon.Element {
	capacity := now.At.Sub(before.At) * time.Duration(cpus)
	if capacity <= 0 || now.CPU < before.CPU || now.User < before.User || now.System < before.System {
		return nil
	}
	return []falcon.Element{
		falcon.Gauge("container.cpu.usage.busy", percent(float64(now.CPU-before.CPU), float64(capacity)), tags),
		falcon.Gauge("container.cpu.usage.user", percent(float64(now.User-before.User), float64(capacity)), tags),
		falcon.Gauge("container.cpu.usage.system", percent(float64(now.System-before.System), float64(capacity)), tags),
	}
}

func trafficElements(traffic cri.Traffic, tags string) (elements []falcon.Element) {
	for direction, flow := range map[string]cri.Flow{"in": traffic.In, "out": traffic.Out} {
		prefix := "container.net.if." + direction
		elements = append(elements,
			falcon.Counter(prefix+".bytes", float64(flow.Bytes), tags),
			falcon.Counter(prefix+".packets", float64(flow.Packets), tags),
			falcon.Counter(prefix+".errors", float64(flow.Errors), tags),
			falcon.Counter(prefix+".dropped", float64(flow.Dropped), tags))
	}
	return elements
}

func stateElements(pod *corev1.Pod) []falcon.Element {
	tags := falcon.Tags("namespace", pod.Namespace, "pod", pod.Name)
	return []falcon.Element{
		falcon.Gauge("pod.phase.running", yes(pod.Status.Phase == corev1.PodRunning), tags),
		falcon.Gauge("pod.ready", yes(ready(pod)), tags),
		falcon.Gauge("pod.restarts", float64(restarts(pod)), tags),
	}
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// restarts counts those of all containers, the init containers included.
func restarts(pod *corev1.Pod) (sum int32) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, status := range list {
			sum += status.RestartCount
		}
	}
	return sum
}

func yes(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}

// percent returns how much of the whole the part is; 0 without a whole.
func percent(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return part / whole * 100
}
