//nolint:staticcheck // the API of 2014 has Endpoints, and nothing else can write those without a selector
package gateway

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/http"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// endpoints is the store of Endpoints, which are made of services, of the Endpoints that somebody wrote for those without a selector,
// and of EndpointSlices.
type endpoints struct {
	caller    *caller
	namespace string
}

// services finds services.
func (e endpoints) services() typed[*v1.Service, *v1.ServiceList, *v1beta1.Service] {
	return typed[*v1.Service, *v1.ServiceList, *v1beta1.Service]{client: e.caller.core.Services(e.namespace)}
}

func (e endpoints) written() corev1.EndpointsInterface { return e.caller.core.Endpoints(e.namespace) }

func (e endpoints) slices() (discoveryv1.EndpointSliceInterface, error) {
	return e.caller.endpointSlices(e.namespace)
}

func (e endpoints) get(ctx context.Context, id string) (v1beta1.Object, error) {
	v, name, err := e.one(ctx, id)
	if err != nil {
		return nil, err
	}
	return v.of(name), nil
}

// one reads what the endpoints with an id are made of. The view has the service by the name.
func (e endpoints) one(ctx context.Context, id string) (v *view, name string, err error) {
	s, err := e.services().find(ctx, id)
	if apierrors.IsNotFound(err) {
		return nil, "", errNotThere // and not: no such service
	}
	if err != nil {
		return nil, "", err
	}
	of := parts{services: &v1.ServiceList{Items: []v1.Service{*s}}, written: &v1.EndpointsList{}}
	written, err := e.written().Get(ctx, s.Name, metav1.GetOptions{})
	if err == nil {
		of.written.Items = []v1.Endpoints{*written}
	} else if !apierrors.IsNotFound(err) {
		return nil, "", err
	}
	client, err := e.slices()
	if err != nil {
		return nil, "", err
	}
	of.slices, err = client.List(ctx, metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + s.Name})
	if err != nil {
		return nil, "", err
	}
	return newView(of), nameOf(s), nil
}

// parts are what endpoints are made of.
type parts struct {
	services *v1.ServiceList
	written  *v1.EndpointsList
	slices   *discovery.EndpointSliceList
}

// parts reads all that the selected endpoints are made of.
func (e endpoints) parts(ctx context.Context, options metav1.ListOptions) (p parts, err error) {
	client, err := e.slices()
	if err != nil {
		return p, err
	}
	if p.services, err = e.caller.core.Services(e.namespace).List(ctx, options); err != nil {
		return p, err
	}
	if p.written, err = e.written().List(ctx, metav1.ListOptions{LabelSelector: v1beta1.WrittenEndpoints}); err != nil {
		return p, err
	}
	p.slices, err = client.List(ctx, metav1.ListOptions{})
	return p, err
}

func (e endpoints) list(ctx context.Context, options metav1.ListOptions) (v1beta1.Object, error) {
	p, err := e.parts(ctx, options)
	if err != nil {
		return nil, err
	}
	v := newView(p)
	list := &v1beta1.EndpointsList{Items: []v1beta1.Endpoints{}}
	for i := range p.services.Items {
		list.Items = append(list.Items, *v.of(nameOf(&p.services.Items[i])))
	}
	// A watch that begins here must miss no change of any.
	version := v1beta1.ResourceVersion
	list.ResourceVersion = min(version(p.services.ResourceVersion), version(p.written.ResourceVersion), version(p.slices.ResourceVersion))
	return list, nil
}

// watch follows all parts. If it begins at a version in the past, it takes what there is now and goes through the changes since then
// again, which ends where it began.
func (e endpoints) watch(ctx context.Context, options metav1.ListOptions) (iter.Seq[v1beta1.WatchEvent], error) {
	selected := options
	selected.ResourceVersion = ""
	soon, cancel := context.WithTimeout(ctx, defaultWait)
	p, err := e.parts(soon, selected)
	cancel()
	if err != nil {
		return nil, err
	}
	v := newView(p)
	if version := options.ResourceVersion; version != "" {
		p.services.ResourceVersion, p.written.ResourceVersion, p.slices.ResourceVersion = version, version, version
		v.forgetSent()
	}
	changes, err := e.changes(ctx, options, p)
	if err != nil {
		return nil, err
	}
	return func(yield func(v1beta1.WatchEvent) bool) {
		defer changes.stop()
		v.follow(changes, yield)
	}, nil
}

// changes are watches of parts.
type changes struct{ services, written, slices watch.Interface }

// changes begins at the parts' versions. The caller must call stop.
func (e endpoints) changes(ctx context.Context, options metav1.ListOptions, since parts) (c changes, err error) {
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	client, err := e.slices()
	if err != nil {
		return c, err
	}
	options.ResourceVersion = since.services.ResourceVersion
	if c.services, err = e.caller.core.Services(e.namespace).Watch(ctx, options); err != nil {
		return c, err
	}
	options = metav1.ListOptions{LabelSelector: v1beta1.WrittenEndpoints, ResourceVersion: since.written.ResourceVersion}
	if c.written, err = e.written().Watch(ctx, options); err != nil {
		return c, err
	}
	c.slices, err = client.Watch(ctx, metav1.ListOptions{ResourceVersion: since.slices.ResourceVersion})
	return c, err
}

func (c changes) stop() {
	for _, w := range []watch.Interface{c.services, c.written, c.slices} {
		if w != nil {
			w.Stop()
		}
	}
}

func (e endpoints) create(ctx context.Context, o v1beta1.Object) (v1beta1.Object, error) {
	id := o.Base().ID
	if id == "" {
		return nil, v1beta1.NewStatus(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "endpoints is invalid: id: required value: give that of a service without a selector")
	}
	v, name, err := e.writable(ctx, id)
	if errors.Is(err, errNotThere) {
		missing := v1beta1.NotFound("service", id)
		missing.Message += ": create it, without a selector, before its endpoints"
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	return e.write(ctx, v, name, &v1.Endpoints{}, o)
}

// update writes over the Endpoints that there are. A service that has none yet gets them.
func (e endpoints) update(ctx context.Context, o v1beta1.Object) (v1beta1.Object, error) {
	id, version := o.Base().ID, o.Base().ResourceVersion
	v, name, err := e.writable(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := v1beta1.Conflict("endpoints", id, version, v.of(name).ResourceVersion); err != nil {
		return nil, err
	}
	stored := v.written[name]
	if stored == nil {
		stored = &v1.Endpoints{}
	}
	return e.write(ctx, v, name, stored, o)
}

func (e endpoints) write(ctx context.Context, v *view, name string, stored *v1.Endpoints, o v1beta1.Object) (v1beta1.Object, error) {
	next, err := v1beta1.OverlayEndpoints(stored, v.services[name], o.(*v1beta1.Endpoints))
	if err != nil {
		return nil, err
	}
	if next.ResourceVersion == "" {
		next, err = e.written().Create(ctx, next, metav1.CreateOptions{})
	} else {
		next, err = e.written().Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		return nil, err
	}
	v.written[name] = next
	return v.of(name), nil
}

func (e endpoints) remove(ctx context.Context, id string) error {
	v, name, err := e.writable(ctx, id)
	if err != nil {
		return err
	}
	if v.written[name] == nil {
		return errNotThere
	}
	return e.written().Delete(ctx, v.written[name].Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(v.written[name].UID))})
}

// writable is one for what may be written: a controller would soon write over the endpoints of a service with a selector, and proxies
// do not look at them.
func (e endpoints) writable(ctx context.Context, id string) (v *view, name string, err error) {
	if v, name, err = e.one(ctx, id); err == nil && len(v.services[name].Spec.Selector) > 0 {
		err = v1beta1.NewStatus(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed,
			"cannot write endpoints %q: they are the pods that the service selects; those of a service without a selector can be written", id)
	}
	return v, name, err
}

// view has what endpoints are made of, by namespace and name of the service.
type view struct {
	services map[string]*v1.Service
	written  map[string]*v1.Endpoints
	slices   map[string]map[string]*discovery.EndpointSlice // by service, then by name
	sent     map[string][]string                            // the endpoints that the client knows
}

func nameOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// ownerOf is the service of a slice.
func ownerOf(s *discovery.EndpointSlice) string {
	return s.Namespace + "/" + s.Labels[discovery.LabelServiceName]
}

func newView(p parts) *view {
	v := &view{
		services: map[string]*v1.Service{}, written: map[string]*v1.Endpoints{}, slices: map[string]map[string]*discovery.EndpointSlice{},
		sent: map[string][]string{},
	}
	for i := range p.services.Items {
		v.services[nameOf(&p.services.Items[i])] = &p.services.Items[i]
	}
	for i := range p.written.Items {
		v.written[nameOf(&p.written.Items[i])] = &p.written.Items[i]
	}
	for i := range p.slices.Items {
		v.put(&p.slices.Items[i])
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
	return v1beta1.FromV1Endpoints(v.services[name], v.written[name], slices.Collect(maps.Values(v.slices[name])))
}

// follow passes changes on until one of the watches ends or nobody wants more.
func (v *view) follow(c changes, yield func(v1beta1.WatchEvent) bool) {
	for {
		var e watch.Event
		var open bool
		select {
		case e, open = <-c.services.ResultChan():
		case e, open = <-c.written.ResultChan():
		case e, open = <-c.slices.ResultChan():
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
		return v.takeService(e.Type, o, yield)
	case *v1.Endpoints:
		if v.written[nameOf(o)] = o; e.Type == watch.Deleted {
			delete(v.written, nameOf(o))
		}
		return v.tell(nameOf(o), yield)
	case *discovery.EndpointSlice:
		if v.put(o); e.Type == watch.Deleted {
			v.drop(o)
		}
		return v.tell(ownerOf(o), yield)
	}
	return true
}

func (v *view) takeService(how watch.EventType, s *v1.Service, yield func(v1beta1.WatchEvent) bool) bool {
	name := nameOf(s)
	v.services[name] = s
	if how != watch.Modified {
		delete(v.sent, name)
	}
	if how != watch.Deleted {
		return v.tell(name, yield)
	}
	gone := v.of(name)
	delete(v.services, name)
	return yield(v1beta1.WatchEvent{Type: string(watch.Deleted), Object: gone})
}

// tell passes the endpoints of a service on, if it is there and they are not those that the client knows.
func (v *view) tell(name string, yield func(v1beta1.WatchEvent) bool) bool {
	if v.services[name] == nil {
		return true
	}
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
