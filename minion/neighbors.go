package minion

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/minion/status"
)

const (
	// slicePatience is how long slices are believed without a renewal, and sliceSpread how much longer some minions believe them: all
	// would list all nodes at once.
	slicePatience = 4 * nodeslices.RenewEvery
	sliceSpread   = nodeslices.RenewEvery
	// overdueEvery is how often a minion looks whether a renewal is overdue.
	overdueEvery = 5 * time.Second
)

// neighbors follows the other nodes by their slices and, while no scheduler keeps these, by the Node objects. Its methods are called by one
// goroutine.
type neighbors struct {
	client kubernetes.Interface
	// reachable says why no API server can be reached now; nil if one can.
	reachable func() error
	changed   func() // called when look may return something else
	log       logrus.FieldLogger

	trust   *nodeslices.Trust
	refused atomic.Bool // the API server does not let the node read slices: it is of an older version
	slices  *objectWatch
	nodes   *objectWatch // nil while the slices are kept
}

// followed are the nodes that neighbors knows of.
type followed struct {
	nodes []nodeslices.Node
	// whole says that there are no other nodes. Else there may be some that the minion knew before.
	whole  bool
	source status.PeerSource
}

// start begins to watch slices. Call shutdown when ctx has ended.
func (f *neighbors) start(ctx context.Context) error {
	f.trust = nodeslices.NewTrust(time.Now(), slicePatience+rand.N(sliceSpread))
	factory := informers.NewSharedInformerFactoryWithOptions(f.client, 0, informers.WithNamespace(nodeslices.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = nodeslices.Selector }))
	informer := factory.Core().V1().ConfigMaps().Informer()
	err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if apierrors.IsForbidden(err) {
			f.refused.Store(true)
			f.changed()
			return
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	})
	if err != nil {
		return fmt.Errorf("cannot watch the slices of nodes: %w", err)
	}
	f.slices, err = watchObjects(ctx, factory, informer, f.changed)
	return err
}

// shutdown returns when nothing is watched any more.
func (f *neighbors) shutdown() {
	f.slices.stop()
	if f.nodes != nil {
		f.nodes.stop()
	}
}

// look returns the nodes as they are known now, and false while nothing is known.
func (f *neighbors) look(ctx context.Context, now time.Time) (followed, bool, error) {
	var view nodeslices.View
	synced := f.slices.informer.HasSynced()
	if synced {
		view = nodeslices.Read(listed[*corev1.ConfigMap](f.slices.informer))
		f.trust.See(now, view)
	}
	if view.Exact && f.trust.Kept(now) {
		f.leaveNodes()
		return followed{view.Nodes, true, status.Slices}, true, nil
	}
	if f.nodes == nil && (f.trust.Lapsed(now) || f.refused.Load() && !synced) {
		if err := f.enterNodes(ctx); err != nil {
			return followed{}, false, err
		}
	}
	if f.nodes == nil || !f.nodes.informer.HasSynced() {
		return followed{view.Nodes, false, status.Slices}, synced && view.Renewed != "", nil
	}
	all := followed{whole: true, source: status.Nodes}
	for _, node := range listed[*corev1.Node](f.nodes.informer) {
		all.nodes = append(all.nodes, nodeslices.Of(node))
	}
	return all, true, nil
}

// overdue reports whether the minion has to watch nodes from now on.
func (f *neighbors) overdue(now time.Time) bool {
	if f.nodes != nil {
		return false
	}
	if f.reachable() != nil {
		f.trust.Excuse(now)
	}
	return f.trust.Lapsed(now)
}

func (f *neighbors) enterNodes(ctx context.Context) (err error) {
	f.log.Warn("no scheduler renews the slices of nodes: watching all nodes until one does")
	factory := informers.NewSharedInformerFactoryWithOptions(f.client, 0, informers.WithTransform(onlyNetwork))
	f.nodes, err = watchObjects(ctx, factory, factory.Core().V1().Nodes().Informer(), f.changed)
	return err
}

func (f *neighbors) leaveNodes() {
	if f.nodes == nil {
		return
	}
	f.log.Info("a scheduler renews the slices of nodes: watching nodes no longer")
	f.nodes.stop()
	f.nodes = nil
}

// onlyNetwork strips a node to the fields that nodeslices.Of reads, to save memory.
func onlyNetwork(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion,
			Annotations: map[string]string{
				api.AnnotationPodPrefixes: node.Annotations[api.AnnotationPodPrefixes], api.AnnotationAgentAddress: node.Annotations[api.AnnotationAgentAddress],
			},
		},
		Spec:   corev1.NodeSpec{PodCIDRs: node.Spec.PodCIDRs},
		Status: corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}

// objectWatch watches objects of one kind.
type objectWatch struct {
	informer cache.SharedIndexInformer
	stop     func() // returns when the watch has ended
}

// watchObjects watches until ctx ends or stop is called. It calls changed after each change, and when all objects are known: there may be
// none.
func watchObjects(ctx context.Context, factory informers.SharedInformerFactory, informer cache.SharedIndexInformer, changed func()) (*objectWatch, error) {
	if err := onChange(informer, changed); err != nil {
		return nil, fmt.Errorf("cannot watch the other nodes: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	known := make(chan struct{})
	go func() {
		defer close(known)
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			changed()
		}
	}()
	return &objectWatch{informer, func() { cancel(); factory.Shutdown(); <-known }}, nil
}

// listed returns the objects that an informer knows.
func listed[T any](informer cache.SharedIndexInformer) (list []T) {
	for _, object := range informer.GetStore().List() {
		list = append(list, object.(T))
	}
	return list
}
