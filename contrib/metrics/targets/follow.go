package targets

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// lookAround is how often the finder reads what it does not watch.
	lookAround = 15 * time.Second
	// settle is the pause between two looks at what it watches: pods often come in bursts.
	settle = 500 * time.Millisecond
)

// Finder finds targets.
type Finder struct {
	// Kube has the rights of api.MetricsUser.
	Kube kubernetes.Interface
	// Fixed are the World's.
	Fixed map[string][]string
	// Leader returns the address of the leading scheduler's status; "" if there is none.
	Leader func(ctx context.Context) (string, error)
}

// Follow calls found with the targets of all jobs, at first and whenever they change, until ctx ends.
func (f Finder) Follow(ctx context.Context, found func(map[string][]*targetgroup.Group)) error {
	w, err := f.watch(ctx)
	if err != nil {
		return err
	}
	var before map[string][]*targetgroup.Group
	var said []string
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for supervise.Sleep(ctx, settle) == nil {
		world := w.world()
		world.Fixed, world.Scheduler = f.Fixed, w.scheduler
		targets, left := world.Targets()
		if !reflect.DeepEqual(targets, before) {
			found(targets)
			before = targets
		}
		if !slices.Equal(left, said) && len(left) > 0 {
			logrus.Warnf("cannot read the metrics of all pods that ask for it: %s", strings.Join(left[:min(len(left), 10)], "; "))
		}
		said = left
		select {
		case <-ctx.Done():
		case <-w.changed:
		case <-tick.C:
			w.look(ctx, f)
		}
	}
	return nil
}

// watched is what the finder knows. One goroutine uses it.
type watched struct {
	nodes, pods, servers cache.Store
	changed              chan struct{}

	idle      map[string]bool // nodes without a kubelet
	scheduler string
	problem   string // what could not be read, to say it once
}

// watch starts to watch, and returns when all has been read once.
func (f Finder) watch(ctx context.Context) (*watched, error) {
	w := &watched{changed: make(chan struct{}, 1)}
	all := informers.NewSharedInformerFactoryWithOptions(f.Kube, 0, informers.WithTransform(essence))
	servers := informers.NewSharedInformerFactoryWithOptions(f.Kube, 0, informers.WithNamespace(metav1.NamespaceDefault),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = labels.Set{discoveryv1.LabelServiceName: "kubernetes"}.String()
		}))
	watches := []cache.SharedIndexInformer{
		all.Core().V1().Nodes().Informer(), all.Core().V1().Pods().Informer(), servers.Discovery().V1().EndpointSlices().Informer(),
	}
	var synced []cache.InformerSynced
	for _, informer := range watches {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { w.tell() }, UpdateFunc: func(_, _ any) { w.tell() }, DeleteFunc: func(any) { w.tell() },
		}); err != nil {
			return nil, fmt.Errorf("cannot follow what metrics are read from: %w", err)
		}
		synced = append(synced, informer.HasSynced)
	}
	w.nodes, w.pods, w.servers = watches[0].GetStore(), watches[1].GetStore(), watches[2].GetStore()
	all.Start(ctx.Done())
	servers.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil, ctx.Err()
	}
	w.look(ctx, f)
	return w, nil
}

// tell says that there is something new. Bursts coalesce.
func (w *watched) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// look reads which nodes have a kubelet, and which scheduler leads. What it cannot read stays as it was.
func (w *watched) look(ctx context.Context, f Finder) {
	ctx, cancel := context.WithTimeout(ctx, lookAround)
	defer cancel()
	var problems []string
	// The API server's cache is good enough, and spares etcd.
	leases, err := f.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		problems = append(problems, "cannot read which nodes have a kubelet: "+err.Error())
	} else {
		w.idle = map[string]bool{}
		for i := range leases.Items {
			if !api.KubeletRenewed(&leases.Items[i]) {
				w.idle[leases.Items[i].Name] = true
			}
		}
	}
	if scheduler, err := f.Leader(ctx); err != nil {
		problems = append(problems, "cannot find the scheduler: "+err.Error())
	} else {
		w.scheduler = scheduler
	}
	problem := strings.Join(problems, "; ")
	if problem != w.problem && problem != "" && ctx.Err() == nil {
		logrus.Warn(problem)
	}
	w.problem = problem
}

// world is the part of the World that is watched.
func (w *watched) world() World {
	var world World
	for _, object := range w.nodes.List() {
		if node, ok := nodeOf(object.(*corev1.Node)); ok && !w.idle[node.Name] {
			world.Nodes = append(world.Nodes, node)
		}
	}
	for _, object := range w.pods.List() {
		if pod, ok := podOf(object.(*corev1.Pod)); ok {
			world.Pods = append(world.Pods, pod)
		}
	}
	for _, object := range w.servers.List() {
		slice := object.(*discoveryv1.EndpointSlice)
		for _, port := range slice.Ports {
			for _, endpoint := range slice.Endpoints {
				if port.Port != nil && len(endpoint.Addresses) > 0 {
					world.APIServers = append(world.APIServers, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	world.sort()
	return world
}

// sort makes worlds comparable: stores have no order.
func (w *World) sort() {
	slices.Sort(w.APIServers)
	slices.SortFunc(w.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(w.Pods, func(a, b Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
}

// essence keeps what targets depend on, because a cluster may have many nodes and pods. Of a pod that does not ask to be read it keeps
// the name.
func essence(object any) (any, error) {
	meta := func(m metav1.ObjectMeta) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion}
	}
	switch o := object.(type) {
	case *corev1.Node:
		node := &corev1.Node{ObjectMeta: meta(o.ObjectMeta), Status: corev1.NodeStatus{Addresses: o.Status.Addresses, DaemonEndpoints: o.Status.DaemonEndpoints}}
		node.Annotations = map[string]string{api.AnnotationStatusPort: o.Annotations[api.AnnotationStatusPort]}
		return node, nil
	case *corev1.Pod:
		pod := &corev1.Pod{ObjectMeta: meta(o.ObjectMeta)}
		if _, asks := podOf(o); !asks {
			return pod, nil
		}
		pod.Annotations, pod.Labels = o.Annotations, o.Labels
		pod.Spec.NodeName = o.Spec.NodeName
		for _, c := range o.Spec.Containers {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Ports: c.Ports})
		}
		pod.Status = corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP}
		return pod, nil
	}
	return object, nil
}
