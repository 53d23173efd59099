package match

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Extended are amounts of resources that nodes have and Mesos does not know: extended resources such as devices, and huge pages
// (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources). It is nil for most pods.
type Extended map[v1.ResourceName]int64

// isExtended tells whether nodes have the resource, not Mesos. Mesos offers GPUResource.
func isExtended(name v1.ResourceName) bool {
	if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
		return true
	}
	domain, _, found := strings.Cut(string(name), "/")
	return found && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && name != GPUResource
}

// extendedOf returns the extended resources that the pod requests.
func extendedOf(pod *v1.Pod) Extended {
	if !wantsExtended(pod.Spec.Containers) && !wantsExtended(pod.Spec.InitContainers) && pod.Spec.Resources == nil {
		return nil
	}
	var wanted Extended
	for name, amount := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if isExtended(name) && amount.Value() > 0 {
			if wanted == nil {
				wanted = Extended{}
			}
			wanted[name] = amount.Value()
		}
	}
	return wanted
}

func wantsExtended(containers []v1.Container) bool {
	for i := range containers {
		for name := range containers[i].Resources.Requests {
			if isExtended(name) {
				return true
			}
		}
	}
	return false
}

// and returns the sum of both.
func (e Extended) and(o Extended) Extended {
	if len(o) == 0 {
		return e
	}
	sum := maps.Clone(o)
	for name, amount := range e {
		sum[name] += amount
	}
	return sum
}

// String lists the amounts, sorted by name.
func (e Extended) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		parts = append(parts, fmt.Sprintf("%s:%d", name, e[name]))
	}
	return strings.Join(parts, ";")
}

// free returns how much of the resource the pods on the node leave.
func (n *Node) free(name v1.ResourceName) int64 {
	if n == nil || n.obj == nil {
		return 0
	}
	left := -n.extended[name]
	if has, found := n.obj.Status.Allocatable[name]; found {
		left += has.Value()
	}
	return max(0, left)
}

// checkExtended checks that the node has enough of the extended resources.
func (v *View) checkExtended(c *Class) refusal {
	for _, name := range slices.Sorted(maps.Keys(c.extended)) {
		if want, free := c.extended[name], v.node.free(name); want > free {
			return refusal{reason: extendedShort, what: fmt.Sprintf("%s (requested %d, free %d)", name, want, free)}
		}
	}
	return refusal{}
}

// without returns a copy of the node without these pods.
func (n *Node) without(pods []*Pod) *Node {
	if n == nil {
		return nil
	}
	rest := *n
	rest.extended = maps.Clone(n.extended)
	rest.pods = slices.DeleteFunc(slices.Clone(n.pods), func(o *occupant) bool {
		leaves := slices.ContainsFunc(pods, func(p *Pod) bool { return o == &p.occupant })
		if leaves {
			rest.take(o.extended, -1)
			rest.requested.add(o.requests, -1)
		}
		return leaves
	})
	return &rest
}

// take adds a pod's extended resources to those in use (sign 1), or subtracts them (-1).
func (n *Node) take(e Extended, sign int64) {
	for name, amount := range e {
		if n.extended == nil {
			n.extended = Extended{}
		}
		if n.extended[name] += sign * amount; n.extended[name] == 0 {
			delete(n.extended, name)
		}
	}
}

// fitsBeside tells whether a pod of the class fits beside the pods on the node and the others.
func (n *Node) fitsBeside(c *Class, others *Usage) bool {
	if n == nil {
		return true
	}
	if len(n.pods)+others.Pods >= n.limit {
		return false
	}
	for name, want := range c.extended {
		if want > n.free(name)-others.Extended[name] {
			return false
		}
	}
	return true
}
