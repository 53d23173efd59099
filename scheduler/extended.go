package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// extended are amounts of what Mesos knows nothing of and nodes have by themselves: devices and other extended resources, and
// huge pages (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources). For most
// pods it is nil.
type extended map[v1.ResourceName]int64

// isExtended tells whether it is the node that has the resource. gpuResource is Mesos's.
func isExtended(name v1.ResourceName) bool {
	if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
		return true
	}
	domain, _, found := strings.Cut(string(name), "/")
	return found && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && name != gpuResource
}

// extendedOf returns what the pod requests.
func extendedOf(pod *v1.Pod) extended {
	if !wantsExtended(pod.Spec.Containers) && !wantsExtended(pod.Spec.InitContainers) && pod.Spec.Resources == nil {
		return nil
	}
	var wanted extended
	for name, amount := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if isExtended(name) && amount.Value() > 0 {
			if wanted == nil {
				wanted = extended{}
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
func (e extended) and(o extended) extended {
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
func (e extended) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		parts = append(parts, fmt.Sprintf("%s:%d", name, e[name]))
	}
	return strings.Join(parts, ";")
}

// room is how much of the resource the node has left for pods beside those that stand there.
func (pl *place) room(name v1.ResourceName) int64 {
	if pl == nil || pl.node == nil {
		return 0
	}
	left := -pl.extended[name]
	if has, found := pl.node.Status.Allocatable[name]; found {
		left += has.Value()
	}
	return max(0, left)
}

// checkExtended: does the node have enough of what Mesos knows nothing of?
func (v *view) checkExtended(s *shape) refused {
	for _, name := range slices.Sorted(maps.Keys(s.extended)) {
		if want, room := s.extended[name], v.place.room(name); want > room {
			return refused{reason: deviceShort, what: fmt.Sprintf("%s (want %d, free %d)", name, want, room)}
		}
	}
	return refused{}
}

// without returns the place as it will be when these pods have gone.
func (pl *place) without(pods []*pod) *place {
	if pl == nil {
		return nil
	}
	rest := *pl
	rest.extended = maps.Clone(pl.extended)
	rest.pods = slices.DeleteFunc(slices.Clone(pl.pods), func(st *stander) bool {
		goes := slices.ContainsFunc(pods, func(p *pod) bool { return st == &p.standing })
		if goes {
			rest.take(st.extended, -1)
			rest.requested.add(st.requests, -1)
		}
		return goes
	})
	return &rest
}

// take counts what a pod has in (sign 1) or out (-1).
func (pl *place) take(e extended, sign int64) {
	for name, amount := range e {
		if pl.extended == nil {
			pl.extended = extended{}
		}
		if pl.extended[name] += sign * amount; pl.extended[name] == 0 {
			delete(pl.extended, name)
		}
	}
}

// takes tells whether a pod of the shape finds room beside the pods that stand there and the others.
func (pl *place) takes(s *shape, others *holding) bool {
	if pl == nil {
		return true
	}
	if len(pl.pods)+others.pods >= pl.limit {
		return false
	}
	for name, want := range s.extended {
		if want > pl.room(name)-others.extended[name] {
			return false
		}
	}
	return true
}
