package policy

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

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

// watch follows the objects that policies depend on. It watches pods and namespaces, which are many, only once there is a policy.
type watch struct {
	changed                    func() // called when the state may have changed
	group                      errgroup.Group
	policies, pods, namespaces cache.SharedIndexInformer
	following                  bool // pods and namespaces are watched
}

func newWatch(client kubernetes.Interface, changed func()) (*watch, error) {
	w := &watch{
		changed:    changed,
		policies:   networkinginformers.NewNetworkPolicyInformer(client, metav1.NamespaceAll, 0, nil),
		namespaces: coreinformers.NewNamespaceInformer(client, 0, nil),
		pods: coreinformers.NewFilteredPodInformer(client, metav1.NamespaceAll, 0, nil, func(options *metav1.ListOptions) {
			options.FieldSelector = fields.AndSelectors(
				fields.OneTermEqualSelector("spec.hostNetwork", "false"),
				fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
				fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed))).String()
		}),
	}
	for informer, trim := range map[cache.SharedIndexInformer]cache.TransformFunc{
		w.policies: trimPolicy, w.namespaces: trimNamespace, w.pods: trimPod,
	} {
		if err := informer.SetTransform(trim); err != nil {
			return nil, fmt.Errorf("cannot watch network policies: %w", err)
		}
		if _, err := informer.AddEventHandler(w.handler()); err != nil {
			return nil, fmt.Errorf("cannot watch network policies: %w", err)
		}
	}
	return w, nil
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
			w.changed() // even if there are no objects
		}
		return nil
	})
}

// state returns the current state, and false if it is not complete enough yet. Only one goroutine may call it.
func (w *watch) state(ctx context.Context) (State, bool) {
	if !w.policies.HasSynced() {
		return State{}, false
	}
	policies := w.policies.GetStore().List()
	if len(policies) == 0 {
		return State{}, true
	}
	if !w.following {
		w.following = true
		w.follow(ctx, w.namespaces)
		w.follow(ctx, w.pods)
	}
	if !w.namespaces.HasSynced() || !w.pods.HasSynced() {
		return State{}, false
	}
	state := State{Namespaces: map[string]map[string]string{}}
	for _, o := range policies {
		state.Policies = append(state.Policies, o.(*networkingv1.NetworkPolicy))
	}
	for _, o := range w.namespaces.GetStore().List() {
		namespace := o.(*corev1.Namespace)
		state.Namespaces[namespace.Name] = namespace.Labels
	}
	for _, o := range w.pods.GetStore().List() {
		state.Pods = append(state.Pods, podOf(o.(*corev1.Pod)))
	}
	return state, true
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
