package gateway

import (
	"context"
	"iter"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// endpoints is the store of Endpoints, which are made of two resources: services and their EndpointSlices.
type endpoints struct {
	caller    *caller
	namespace string
}

// services finds services.
func (e endpoints) services() typed[*v1.Service, *v1.ServiceList, *v1beta1.Service] {
	return typed[*v1.Service, *v1.ServiceList, *v1beta1.Service]{client: e.caller.core.Services(e.namespace)}
}

func (e endpoints) get(ctx context.Context, id string) (v1beta1.Object, error) {
	s, err := e.services().find(ctx, id)
	if apierrors.IsNotFound(err) {
		return nil, errNotThere // and not: no such service
	}
	if err != nil {
		return nil, err
	}
	list, err := e.slices(ctx, metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + s.Name})
	if err != nil {
		return nil, err
	}
	view := newView(&v1.ServiceList{Items: []v1.Service{*s}}, list)
	return view.of(nameOf(s)), nil
}

func (e endpoints) slices(ctx context.Context, options metav1.ListOptions) (*discovery.EndpointSliceList, error) {
	client, err := e.caller.endpointSlices(e.namespace)
	if err != nil {
		return nil, err
	}
	return client.List(ctx, options)
}

func (e endpoints) list(ctx context.Context, options metav1.ListOptions) (v1beta1.Object, error) {
	view, services, slices, err := e.view(ctx, options)
	if err != nil {
		return nil, err
	}
	list := &v1beta1.EndpointsList{Items: []v1beta1.Endpoints{}}
	for i := range services.Items {
		list.Items = append(list.Items, *view.of(nameOf(&services.Items[i])))
	}
	// A watch that begins here must miss no change of either.
	list.ResourceVersion = min(v1beta1.ResourceVersion(services.ResourceVersion), v1beta1.ResourceVersion(slices.ResourceVersion))
	return list, nil
}

// view reads all that the selected endpoints are made of.
func (e endpoints) view(ctx context.Context, options metav1.ListOptions) (*view, *v1.ServiceList, *discovery.EndpointSliceList, error) {
	services, err := e.caller.core.Services(e.namespace).List(ctx, options)
	if err != nil {
		return nil, nil, nil, err
	}
	list, err := e.slices(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, nil, err
	}
	return newView(services, list), services, list, nil
}

// watch follows services and slices. If it begins at a version in the past, it takes what there is now and goes through the changes
// since then again, which ends where it began.
func (e endpoints) watch(ctx context.Context, options metav1.ListOptions) (iter.Seq[v1beta1.WatchEvent], error) {
	selected := options
	selected.ResourceVersion = ""
	soon, cancel := context.WithTimeout(ctx, defaultWait)
	view, services, list, err := e.view(soon, selected)
	cancel()
	if err != nil {
		return nil, err
	}
	client, err := e.caller.endpointSlices(e.namespace)
	if err != nil {
		return nil, err
	}
	since := metav1.ListOptions{ResourceVersion: options.ResourceVersion}
	if since.ResourceVersion == "" {
		options.ResourceVersion, since.ResourceVersion = services.ResourceVersion, list.ResourceVersion
	} else {
		view.forgetSent()
	}
	ctx, cancel = context.WithCancel(ctx)
	ofServices, err := e.caller.core.Services(e.namespace).Watch(ctx, options)
	if err != nil {
		cancel()
		return nil, err
	}
	ofSlices, err := client.Watch(ctx, since)
	if err != nil {
		cancel()
		ofServices.Stop()
		return nil, err
	}
	return func(yield func(v1beta1.WatchEvent) bool) {
		defer cancel()
		defer ofServices.Stop()
		defer ofSlices.Stop()
		view.follow(ofServices.ResultChan(), ofSlices.ResultChan(), yield)
	}, nil
}

// Endpoints are not written: they follow the pods that a service selects.
func (endpoints) create(context.Context, v1beta1.Object) (v1beta1.Object, error) {
	return nil, errUnwritable
}

func (endpoints) update(context.Context, v1beta1.Object) (v1beta1.Object, error) {
	return nil, errUnwritable
}

func (endpoints) remove(context.Context, string) error { return errUnwritable }

// view has what endpoints are made of.
type view struct {
	services map[string]*v1.Service
	slices   map[string]map[string]*discovery.EndpointSlice // by service, then by name
	sent     map[string][]string                            // the endpoints that the client knows
}

func nameOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// ownerOf is the service of a slice.
func ownerOf(s *discovery.EndpointSlice) string {
	return s.Namespace + "/" + s.Labels[discovery.LabelServiceName]
}

func newView(services *v1.ServiceList, list *discovery.EndpointSliceList) *view {
	v := &view{services: map[string]*v1.Service{}, slices: map[string]map[string]*discovery.EndpointSlice{}, sent: map[string][]string{}}
	for i := range services.Items {
		v.services[nameOf(&services.Items[i])] = &services.Items[i]
	}
	for i := range list.Items {
		v.put(&list.Items[i])
	}
	for name := range v.services {
		v.sent[name] = v.of(name).Endpoints
	}
	return v
}

func (v *view) put(s *discovery.EndpointSlice) {
	owner := ownerOf(s)
	if v.slices[owner] == nil {
		v.slices[owner] = map[string]*discovery.EndpointSlice{}
	}
	v.slices[owner][s.Name] = s
}

func (v *view) drop(s *discovery.EndpointSlice) {
	owner := ownerOf(s)
	if delete(v.slices[owner], s.Name); len(v.slices[owner]) == 0 {
		delete(v.slices, owner)
	}
}

// forgetSent says that the client knows other endpoints of these services, or may.
func (v *view) forgetSent() {
	for name := range v.sent {
		v.sent[name] = []string{"unknown"}
	}
}

// of are the endpoints of a service that is there.
func (v *view) of(name string) *v1beta1.Endpoints {
	var list []*discovery.EndpointSlice
	for _, s := range v.slices[name] {
		list = append(list, s)
	}
	return v1beta1.FromV1Endpoints(v.services[name], list)
}

// follow passes changes on until one of the watches ends or nobody wants more.
func (v *view) follow(services, slices <-chan watch.Event, yield func(v1beta1.WatchEvent) bool) {
	for {
		var e watch.Event
		var open bool
		select {
		case e, open = <-services:
		case e, open = <-slices:
		}
		if !open || failed(e, yield) || !v.take(e, yield) {
			return
		}
	}
}

// take takes an event in and passes on what it changes. It reports whether more is wanted.
func (v *view) take(e watch.Event, yield func(v1beta1.WatchEvent) bool) bool {
	switch o := e.Object.(type) {
	case *v1.Service:
		name := nameOf(o)
		v.services[name] = o
		if e.Type != watch.Modified {
			delete(v.sent, name)
		}
		if e.Type != watch.Deleted {
			return v.tell(name, yield)
		}
		gone := v.of(name)
		delete(v.services, name)
		return yield(v1beta1.WatchEvent{Type: string(watch.Deleted), Object: gone})
	case *discovery.EndpointSlice:
		if v.put(o); e.Type == watch.Deleted {
			v.drop(o)
		}
		return v.services[ownerOf(o)] == nil || v.tell(ownerOf(o), yield)
	}
	return true
}

// tell passes the endpoints of a service on, if they are not those that the client knows.
func (v *view) tell(name string, yield func(v1beta1.WatchEvent) bool) bool {
	now := v.of(name)
	known, there := v.sent[name]
	if there && slices.Equal(known, now.Endpoints) {
		return true
	}
	v.sent[name] = now.Endpoints
	if !there {
		return yield(v1beta1.WatchEvent{Type: string(watch.Added), Object: now})
	}
	return yield(v1beta1.WatchEvent{Type: string(watch.Modified), Object: now})
}
