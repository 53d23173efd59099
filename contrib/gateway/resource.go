package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// resource is a resource of the API, and where its objects are.
type resource struct {
	v1beta1.Resource
	open func(c *caller, namespace string) store
}

// places tells whether the resource's objects are somewhere in the network.
func (r resource) places() bool { return r.Kind == "Pod" || r.Kind == "Service" || r.Kind == "Minion" }

// store reads and writes the objects of a resource in a namespace, or in all of them for list and watch, in the name of a caller.
// Objects that come out have neither kind nor version.
type store interface {
	get(ctx context.Context, id string) (v1beta1.Object, error)
	list(ctx context.Context, options metav1.ListOptions) (v1beta1.Object, error)
	// watch begins at the options' version, or without one now. The events end with the context.
	watch(ctx context.Context, options metav1.ListOptions) (iter.Seq[v1beta1.WatchEvent], error)
	create(ctx context.Context, o v1beta1.Object) (v1beta1.Object, error)
	update(ctx context.Context, o v1beta1.Object) (v1beta1.Object, error)
	remove(ctx context.Context, id string) error
}

// resources are those of the API with their stores.
var resources = map[string]func(c *caller, namespace string) store{
	"Pod": func(c *caller, namespace string) store {
		return typed[*v1.Pod, *v1.PodList, *v1beta1.Pod]{
			client: c.core.Pods(namespace), from: v1beta1.FromV1Pod, to: (*v1beta1.Pod).ToV1, overlay: v1beta1.OverlayPod,
			lists: func(l *v1.PodList) v1beta1.Object {
				return &v1beta1.PodList{Items: convert(l.Items, v1beta1.FromV1Pod)}
			},
		}
	},
	"ReplicationController": func(c *caller, namespace string) store {
		return typed[*v1.ReplicationController, *v1.ReplicationControllerList, *v1beta1.ReplicationController]{
			client: c.core.ReplicationControllers(namespace), from: v1beta1.FromV1ReplicationController,
			to: (*v1beta1.ReplicationController).ToV1, overlay: v1beta1.OverlayReplicationController,
			lists: func(l *v1.ReplicationControllerList) v1beta1.Object {
				return &v1beta1.ReplicationControllerList{Items: convert(l.Items, v1beta1.FromV1ReplicationController)}
			},
			orphan: true, // in 2014, pods outlived their controller
		}
	},
	"Service": func(c *caller, namespace string) store {
		return typed[*v1.Service, *v1.ServiceList, *v1beta1.Service]{
			client: c.core.Services(namespace), from: v1beta1.FromV1Service, to: always((*v1beta1.Service).ToV1), overlay: v1beta1.OverlayService,
			lists: func(l *v1.ServiceList) v1beta1.Object {
				return &v1beta1.ServiceList{Items: convert(l.Items, v1beta1.FromV1Service)}
			},
		}
	},
	"Minion": func(c *caller, _ string) store {
		return typed[*v1.Node, *v1.NodeList, *v1beta1.Minion]{
			client: c.core.Nodes(), from: v1beta1.FromV1Node, to: always((*v1beta1.Minion).ToV1), overlay: unwritable[*v1.Node, *v1beta1.Minion],
			lists: func(l *v1.NodeList) v1beta1.Object {
				minions := convert(l.Items, v1beta1.FromV1Node)
				return &v1beta1.MinionList{Minions: minions, Items: minions}
			},
		}
	},
	"Event": func(c *caller, namespace string) store {
		return typed[*v1.Event, *v1.EventList, *v1beta1.Event]{
			client: c.core.Events(namespace), from: v1beta1.FromV1Event, to: always((*v1beta1.Event).ToV1), overlay: v1beta1.OverlayEvent,
			lists: func(l *v1.EventList) v1beta1.Object {
				return &v1beta1.EventList{Items: convert(l.Items, v1beta1.FromV1Event)}
			},
		}
	},
	"Endpoints": func(c *caller, namespace string) store { return endpoints{c, namespace} },
	"Binding":   func(c *caller, namespace string) store { return bindings{c, namespace} },
}

func resourceNamed(name string) (resource, bool) {
	r, ok := v1beta1.ResourceNamed(name)
	return resource{r, resources[r.Kind]}, ok
}

func convert[V, B any](items []V, from func(*V) *B) []B {
	list := make([]B, len(items))
	for i := range items {
		list[i] = *from(&items[i])
	}
	return list
}

// always is a conversion that cannot fail.
func always[B, T any](to func(B) T) func(B) (T, error) {
	return func(b B) (T, error) { return to(b), nil }
}

// unwritable refuses to overlay: minions were never updated.
func unwritable[T, B any](T, B) (stored T, err error) { return stored, errUnwritable }

// object is a pointer to an object of v1, and listed one to a list of them.
type (
	object interface {
		runtime.Object
		metav1.Object
	}
	listed interface {
		runtime.Object
		metav1.ListInterface
	}
)

// client is a typed client of client-go.
type client[T object, L listed] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
	Create(ctx context.Context, o T, options metav1.CreateOptions) (T, error)
	Update(ctx context.Context, o T, options metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
}

// typed is the store of a resource whose objects are objects of v1, one by one.
type typed[T object, L listed, B v1beta1.Object] struct {
	client  client[T, L]
	from    func(T) B
	to      func(B) (T, error)
	overlay func(T, B) (T, error)
	lists   func(L) v1beta1.Object
	orphan  bool // whether what an object owns outlives it
}

// errNotThere says that no object has the id.
var errNotThere = errors.New("not found")

// errUnwritable says that v1beta1 does not write the resource in this way.
var errUnwritable = errors.New("not allowed")

// find returns the object that an id means.
func (t typed[T, L, B]) find(ctx context.Context, id string) (o T, err error) {
	if id == "" || len(rest.IsValidPathSegmentName(id)) > 0 {
		return o, errNotThere
	}
	if o, err = t.client.Get(ctx, v1beta1.NameOf(id), metav1.GetOptions{}); err == nil && !v1beta1.Answers(o, id) {
		err = errNotThere
	}
	return o, err
}

func (t typed[T, L, B]) get(ctx context.Context, id string) (v1beta1.Object, error) {
	o, err := t.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return t.from(o), nil
}

func (t typed[T, L, B]) list(ctx context.Context, options metav1.ListOptions) (v1beta1.Object, error) {
	l, err := t.client.List(ctx, options)
	if err != nil {
		return nil, err
	}
	list := t.lists(l)
	list.Base().ResourceVersion = v1beta1.ResourceVersion(l.GetResourceVersion())
	return list, nil
}

func (t typed[T, L, B]) watch(ctx context.Context, options metav1.ListOptions) (iter.Seq[v1beta1.WatchEvent], error) {
	if options.ResourceVersion == "" {
		now := options
		now.Limit = 1
		soon, cancel := context.WithTimeout(ctx, defaultWait)
		l, err := t.client.List(soon, now)
		cancel()
		if err != nil {
			return nil, err
		}
		options.ResourceVersion = l.GetResourceVersion()
	}
	w, err := t.client.Watch(ctx, options)
	if err != nil {
		return nil, err
	}
	return func(yield func(v1beta1.WatchEvent) bool) {
		defer w.Stop()
		for e := range w.ResultChan() {
			if o, ok := e.Object.(T); ok && !yield(v1beta1.WatchEvent{Type: string(e.Type), Object: t.from(o)}) {
				return
			}
			if failed(e, yield) {
				return
			}
		}
	}, nil
}

// failed passes on why a watch ends, if the event says so.
func failed(e watch.Event, yield func(v1beta1.WatchEvent) bool) bool {
	s, ok := e.Object.(*metav1.Status)
	if ok {
		yield(v1beta1.WatchEvent{Type: string(watch.Error), Object: v1beta1.FromV1Status(s, v1beta1.Resource{}, "")})
	}
	return ok
}

func (t typed[T, L, B]) create(ctx context.Context, o v1beta1.Object) (v1beta1.Object, error) {
	next, err := t.to(o.(B))
	if err != nil {
		return nil, err
	}
	created, err := t.client.Create(ctx, next, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return t.from(created), nil
}

func (t typed[T, L, B]) update(ctx context.Context, o v1beta1.Object) (v1beta1.Object, error) {
	stored, err := t.find(ctx, o.Base().ID)
	if err != nil {
		return nil, err
	}
	next, err := t.overlay(stored, o.(B))
	if err != nil {
		return nil, err
	}
	updated, err := t.client.Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return t.from(updated), nil
}

func (t typed[T, L, B]) remove(ctx context.Context, id string) error {
	var options metav1.DeleteOptions
	if t.orphan {
		options.PropagationPolicy = new(metav1.DeletePropagationOrphan)
	}
	if id != v1beta1.NameOf(id) || len(rest.IsValidPathSegmentName(id)) > 0 { // else the name is an id of the object
		o, err := t.find(ctx, id)
		if err != nil {
			return err
		}
		options.Preconditions = metav1.NewUIDPreconditions(string(o.GetUID()))
	}
	return t.client.Delete(ctx, v1beta1.NameOf(id), options)
}

// bindings are written only.
type bindings struct {
	caller    *caller
	namespace string
}

func (b bindings) get(context.Context, string) (v1beta1.Object, error) { return nil, errNotThere }

func (b bindings) list(context.Context, metav1.ListOptions) (v1beta1.Object, error) {
	return nil, v1beta1.NotFound("binding", "list") // what it said in 2014
}

func (b bindings) watch(context.Context, metav1.ListOptions) (iter.Seq[v1beta1.WatchEvent], error) {
	return nil, errNotThere
}

func (b bindings) create(ctx context.Context, o v1beta1.Object) (v1beta1.Object, error) {
	binding := o.(*v1beta1.Binding).ToV1()
	invalid := func(what string) error {
		return v1beta1.NewStatus(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "binding is invalid: %s", what)
	}
	if binding.Name == "" || len(rest.IsValidPathSegmentName(binding.Name)) > 0 {
		return nil, invalid(fmt.Sprintf("podID: %q is no id of a pod", binding.Name))
	}
	if binding.Target.Name == "" {
		return nil, invalid("host: required value: give the id of a minion")
	}
	if err := b.caller.core.Pods(b.namespace).Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		pods, _ := v1beta1.ResourceNamed("pods")
		return nil, statusOf(err, pods, o.(*v1beta1.Binding).PodID)
	}
	return v1beta1.Succeeded(), nil
}

func (b bindings) update(context.Context, v1beta1.Object) (v1beta1.Object, error) {
	return nil, errNotThere
}

func (b bindings) remove(context.Context, string) error { return errNotThere }
