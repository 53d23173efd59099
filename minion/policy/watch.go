package policy

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// watch follows the objects that policies depend on. Namespaces and this node's pods it watches once there is a policy, and pods of
// other nodes only where the policies of this node's pods name peers: what all nodes watch costs the API server the square of their
// number.
type watch struct {
	client  kubernetes.Interface
	node    string
	changed func() // called when the state may have changed
	arrived func() // called when all of something has been read for the first time: somebody may wait for that
	group   errgroup.Group

	policies, namespaces, own cache.SharedIndexInformer
	following                 bool                  // namespaces and own are watched
	peers                     map[string]*peerWatch // pods of other nodes, by namespace
}

// peerWatch follows the pods of a namespace.
type peerWatch struct {
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
	needed   time.Time // last
}

// lingers is how long pods are watched that are needed no more: they may be again, when the node's next pod comes.
const lingers = 10 * time.Minute

func newWatch(client kubernetes.Interface, node string, changed, arrived func()) (*watch, error) {
	w := &watch{
		client: client, node: node, changed: changed, arrived: arrived, peers: map[string]*peerWatch{},
		policies:   networkinginformers.NewNetworkPolicyInformer(client, metav1.NamespaceAll, 0, nil),
		namespaces: coreinformers.NewNamespaceInformer(client, 0, nil),
		own:        podInformer(client, metav1.NamespaceAll, fields.OneTermEqualSelector(nodeNameField, node)),
	}
	for informer, trim := range map[cache.SharedIndexInformer]cache.TransformFunc{
		w.policies: trimPolicy, w.namespaces: trimNamespace, w.own: trimPod,
	} {
		if err := w.prepare(informer, trim); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *watch) prepare(informer cache.SharedIndexInformer, trim cache.TransformFunc) error {
	err := informer.SetTransform(trim)
	if err == nil {
		_, err = informer.AddEventHandler(w.handler())
	}
	if err != nil {
		return fmt.Errorf("cannot watch network policies: %w", err)
	}
	return nil
}

const nodeNameField = "spec.nodeName"

// podInformer follows pods that have a network of their own and have not ended.
func podInformer(client kubernetes.Interface, namespace string, which fields.Selector) cache.SharedIndexInformer {
	return coreinformers.NewFilteredPodInformer(client, namespace, 0, nil, func(options *metav1.ListOptions) {
		options.FieldSelector = fields.AndSelectors(which,
			fields.OneTermEqualSelector("spec.hostNetwork", "false"),
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed))).String()
	})
}

// handler ignores updates that only change trimmed fields.
func (w *watch) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.changed() },
		UpdateFunc: func(was, is any) {
			if !reflect.DeepEqual(relevantFields(was), relevantFields(is)) {
				w.changed()
			}
		},
		DeleteFunc: func(any) { w.changed() },
	}
}

// relevantFields returns the parts of an object that policies depend on.
func relevantFields(object any) any {
	switch o := object.(type) {
	case *corev1.Pod:
		return podOf(o)
	case *corev1.Namespace:
		return o.Labels
	case *networkingv1.NetworkPolicy:
		return o.Spec
	}
	return object
}

// wait returns when all goroutines that follow started have ended.
func (w *watch) wait() { _ = w.group.Wait() }

func (w *watch) follow(ctx context.Context, informer cache.SharedIndexInformer) {
	w.group.Go(func() error { informer.RunWithContext(ctx); return nil })
	w.group.Go(func() error {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			w.arrived() // even if there are no objects
		}
		return nil
	})
}

// state returns the current state for these sandboxes, and false if it is not complete enough yet. Only one goroutine may call it.
func (w *watch) state(ctx context.Context, sandboxes []Sandbox) (State, bool, error) {
	if !w.policies.HasSynced() {
		return State{}, false, nil
	}
	policies := w.policies.GetStore().List()
	if len(policies) == 0 {
		return State{Sandboxes: sandboxes}, true, nil
	}
	if !w.following {
		w.following = true
		w.follow(ctx, w.namespaces)
		w.follow(ctx, w.own)
	}
	if !w.namespaces.HasSynced() || !w.own.HasSynced() {
		return State{}, false, nil
	}
	state := State{Sandboxes: sandboxes, Namespaces: map[string]map[string]string{}}
	for _, o := range policies {
		state.Policies = append(state.Policies, o.(*networkingv1.NetworkPolicy))
	}
	for _, o := range w.namespaces.GetStore().List() {
		namespace := o.(*corev1.Namespace)
		state.Namespaces[namespace.Name] = namespace.Labels
	}
	state.Pods = podsIn(w.own)
	if complete, err := w.cover(ctx, scopeOf(state, state.local()), time.Now()); err != nil || !complete {
		return State{}, false, err
	}
	seen := map[types.UID]bool{}
	for _, pod := range state.Pods {
		seen[pod.UID] = true
	}
	for _, namespace := range w.peers {
		for _, pod := range podsIn(namespace.informer) {
			if !seen[pod.UID] {
				seen[pod.UID] = true
				state.Pods = append(state.Pods, pod)
			}
		}
	}
	return state, true, nil
}

func podsIn(informer cache.SharedIndexInformer) (pods []Pod) {
	for _, o := range informer.GetStore().List() {
		pods = append(pods, podOf(o.(*corev1.Pod)))
	}
	return pods
}

// local returns the namespaces that this node has pods of.
func (s State) local() map[string]bool {
	namespaces := map[string]bool{}
	for _, sandbox := range s.Sandboxes {
		namespaces[sandbox.Namespace] = true
	}
	for _, pod := range s.Pods {
		namespaces[pod.Namespace] = true
	}
	return namespaces
}

// cover watches the pods of the scope, and reports whether all are known. It ends the watches that have not been needed for long.
func (w *watch) cover(ctx context.Context, needed scope, now time.Time) (complete bool, err error) {
	namespaces := needed.namespaces
	if needed.all {
		namespaces = []string{metav1.NamespaceAll}
	}
	complete = true
	for _, namespace := range namespaces {
		watched := w.peers[namespace]
		if watched == nil {
			if watched, err = w.followPeers(ctx, namespace); err != nil {
				return false, err
			}
			w.peers[namespace] = watched
		}
		watched.needed = now
		complete = complete && watched.informer.HasSynced()
	}
	if !complete {
		return false, nil // those of before are still in the rules
	}
	for namespace, watched := range w.peers {
		if now.Sub(watched.needed) > lingers {
			watched.stop()
			delete(w.peers, namespace)
		}
	}
	return true, nil
}

// followPeers watches the pods of a namespace that are on other nodes. The API server leaves out those without an address.
func (w *watch) followPeers(ctx context.Context, namespace string) (*peerWatch, error) {
	informer := podInformer(w.client, namespace, fields.AndSelectors(
		fields.OneTermNotEqualSelector(nodeNameField, w.node), fields.OneTermNotEqualSelector("status.podIP", "")))
	if err := w.prepare(informer, trimPod); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	w.follow(ctx, informer)
	return &peerWatch{informer: informer, stop: stop}, nil
}

// podOf converts a pod. A pod that has ended, or that uses the host network, has no addresses.
func podOf(p *corev1.Pod) Pod {
	pod := Pod{Namespace: p.Namespace, UID: p.UID, Node: p.Spec.NodeName, Labels: p.Labels, Created: p.CreationTimestamp.Time}
	if mirrored, ok := p.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		pod.UID = types.UID(mirrored)
	}
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return pod
	}
	for _, ip := range p.Status.PodIPs {
		if address, err := netip.ParseAddr(ip.IP); err == nil {
			pod.Addresses = append(pod.Addresses, address.Unmap())
		}
	}
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if protocol, ok := protocolOf(&port.Protocol); ok {
				pod.Ports = append(pod.Ports, Port{Name: port.Name, Protocol: protocol, Number: uint16(port.ContainerPort)})
			}
		}
	}
	return pod
}

// identity returns the metadata that an informer needs.
func identity(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		Labels: m.Labels, CreationTimestamp: m.CreationTimestamp,
	}
}

func trimPolicy(object any) (any, error) {
	if p, ok := object.(*networkingv1.NetworkPolicy); ok {
		return &networkingv1.NetworkPolicy{ObjectMeta: identity(p.ObjectMeta), Spec: p.Spec}, nil
	}
	return object, nil
}

func trimNamespace(object any) (any, error) {
	if n, ok := object.(*corev1.Namespace); ok {
		return &corev1.Namespace{ObjectMeta: identity(n.ObjectMeta)}, nil
	}
	return object, nil
}

// trimPod keeps only what podOf reads. The named ports of all containers and sidecars become those of one container.
func trimPod(object any) (any, error) {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Pod{
		ObjectMeta: identity(p.ObjectMeta),
		Spec:       corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork},
		Status:     corev1.PodStatus{Phase: p.Status.Phase, PodIPs: p.Status.PodIPs},
	}
	if mirrored, ok := p.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		trimmed.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: mirrored}
	}
	var named []corev1.ContainerPort
	for i, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if i >= len(p.Spec.Containers) && !sidecar {
			continue
		}
		for _, port := range c.Ports {
			if port.Name != "" {
				named = append(named, port)
			}
		}
	}
	if len(named) > 0 {
		trimmed.Spec.Containers = []corev1.Container{{Ports: named}}
	}
	return trimmed, nil
}
