package match

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// checkPorts checks that all host ports are free, and enough other ports for the wildcards.
func (v *View) checkPorts(c *Class) refusal {
	var missing []uint64
	for _, port := range c.demand.Ports {
		if !v.Free.HasPort(port) {
			missing = append(missing, port)
		}
	}
	if len(missing) > 0 {
		return refusal{reason: portsMissing, ports: missing}
	}
	if c.asks == nil {
		return refusal{}
	}
	if free := v.Free.PortCount() - len(c.demand.Ports); free < len(c.asks.wildcards) {
		return refusal{reason: portsShort, free: offers.Milli(free)}
	}
	return refusal{}
}

// takePorts takes revocable cpus and ports for the wildcards.
func (v *View) takePorts(p *Pod, taken offers.Resources) (offers.Resources, []api.PortMapping) {
	taken, _ = v.Free.Draw(offers.RevocableCPUs, p.Asks.revocable, taken)
	mapped := slices.Concat(p.Asks.mapped, p.Asks.wildcards)
	for i := len(p.Asks.mapped); i < len(mapped); i++ {
		port, _ := v.Free.FirstPort()
		part, _ := v.Free.DrawPort(port)
		taken = append(taken, part)
		mapped[i].HostPort = int32(port)
	}
	return taken, mapped
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
