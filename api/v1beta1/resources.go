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
	V1         schema.GroupVersionResource // what it is called today
	Namespaced bool                        // whether the objects are in namespaces
	New        func() Object               // makes an empty object
}

// Resources are the resources of the API, but for operations, which no one but the server writes.
func Resources() []Resource {
	named := func(name, kind, v1 string, empty func() Object) Resource {
		return Resource{
			Name: name, Kind: kind, Singular: strings.ToLower(kind[:1]) + kind[1:], ListKind: kind + "List",
			V1: schema.GroupVersionResource{Version: "v1", Resource: v1}, Namespaced: true, New: empty,
		}
	}
	minions := named("minions", "Minion", "nodes", func() Object { return &Minion{} })
	minions.Namespaced = false
	bindings := named("bindings", "Binding", "bindings", func() Object { return &Binding{} })
	bindings.ListKind = ""
	return []Resource{
		named("pods", "Pod", "pods", func() Object { return &Pod{} }),
		named("replicationControllers", "ReplicationController", "replicationcontrollers", func() Object { return &ReplicationController{} }),
		named("services", "Service", "services", func() Object { return &Service{} }),
		minions,
		named("endpoints", "Endpoints", "endpoints", func() Object { return &Endpoints{} }),
		named("events", "Event", "events", func() Object { return &Event{} }),
		bindings,
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
