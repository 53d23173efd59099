package v1beta1

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resource is a row of Resources.
type Resource struct {
	Name       string                      // as in paths: "replicationControllers"
	Kind       string                      // "ReplicationController"
	Singular   string                      // as in StatusDetails: "replicationController"
	ListKind   string                      // "ReplicationControllerList"; "" for bindings, which cannot be read
	V1         schema.GroupVersionResource // where the objects are today; for endpoints, which are read from EndpointSlices, where they are written
	Namespaced bool                        // whether the objects are in namespaces
	New        func() Object               // makes an empty object
	NewList    func() Object               // makes an empty list; nil for bindings
}

// Resources are the resources of the API, but for operations, which no one but the server writes.
func Resources() []Resource {
	core := func(resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Version: "v1", Resource: resource}
	}
	return []Resource{
		{"pods", "Pod", "pod", "PodList", core("pods"), true, func() Object { return &Pod{} }, func() Object { return &PodList{} }},
		{
			"replicationControllers", "ReplicationController", "replicationController", "ReplicationControllerList", core("replicationcontrollers"), true,
			func() Object { return &ReplicationController{} }, func() Object { return &ReplicationControllerList{} },
		},
		{"services", "Service", "service", "ServiceList", core("services"), true, func() Object { return &Service{} }, func() Object { return &ServiceList{} }},
		{"minions", "Minion", "minion", "MinionList", core("nodes"), false, func() Object { return &Minion{} }, func() Object { return &MinionList{} }},
		{"endpoints", "Endpoints", "endpoints", "EndpointsList", core("endpoints"), true, func() Object { return &Endpoints{} }, func() Object { return &EndpointsList{} }},
		{"events", "Event", "event", "EventList", core("events"), true, func() Object { return &Event{} }, func() Object { return &EventList{} }},
		{"bindings", "Binding", "binding", "", core("bindings"), true, func() Object { return &Binding{} }, nil},
	}
}

// ResourceNamed finds a resource by its name in paths. Capitals count as they do there, except that the name in small letters is
// good, too.
func ResourceNamed(name string) (Resource, bool) {
	for _, r := range Resources() {
		if name == r.Name || name == strings.ToLower(r.Name) {
			return r, true
		}
	}
	return Resource{}, false
}
