package match

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Extended are amounts of what Mesos knows nothing of and nodes have by themselves: devices and other extended resources, and
// huge pages (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources). For most
// pods it is nil.
type Extended map[v1.ResourceName]int64

// isExtended tells whether it is the node that has the resource. GPUResource is Mesos's.
func isExtended(name v1.ResourceName) bool {
	if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
		return true
	}
	domain, _, found := strings.Cut(string(name), "/")
	return found && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && name != GPUResource
}

// extendedOf returns what the pod requests.
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

// String is in the order of the names.
func (e Extended) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		parts = append(parts, fmt.Sprintf("%s:%d", name, e[name]))
	}
	return strings.Join(parts, ";")
}

// room is how much of the resource the node has left for pods beside those that stand there.
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

// checkExtended: does the node have enough of what Mesos knows nothing of?
func (v *View) checkExtended(s *Class) refusal {
	for _, name := range slices.Sorted(maps.Keys(s.extended)) {
		if want, room := s.extended[name], v.node.free(name); want > room {
			return refusal{reason: extendedShort, what: fmt.Sprintf("%s (requested %d, free %d)", name, want, room)}
		}
	}
	return refusal{}
}

// without returns the node as it will be when these pods have gone.
func (n *Node) without(pods []*Pod) *Node {
	if n == nil {
		return nil
	}
	rest := *n
	rest.extended = maps.Clone(n.extended)
	rest.pods = slices.DeleteFunc(slices.Clone(n.pods), func(o *occupant) bool {
		goes := slices.ContainsFunc(pods, func(p *Pod) bool { return o == &p.occupant })
		if goes {
			rest.take(o.extended, -1)
			rest.requested.add(o.requests, -1)
		}
		return goes
	})
	return &rest
}

// take counts what a pod has in (sign 1) or out (-1).
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

// takes tells whether a pod of the class finds room beside the pods that stand there and the others.
func (n *Node) fitsBeside(s *Class, others *Usage) bool {
	if n == nil {
		return true
	}
	if len(n.pods)+others.Pods >= n.limit {
		return false
	}
	for name, want := range s.extended {
		if want > n.free(name)-others.Extended[name] {
			return false
		}
	}
	return true
}
