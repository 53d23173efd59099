package kube

import (
	"fmt"

	log "github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// watch has the factory's informers send events. Each function that it returns becomes true when the events of all existing
// objects of one kind have been sent.
func (c *Cluster) watch(factory informers.SharedInformerFactory) ([]cache.InformerSynced, error) {
	core := factory.Core().V1()
	var synced []cache.InformerSynced
	for _, kind := range []struct {
		name     string
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{"pods", core.Pods().Informer(), c.podHandler()},
		{"nodes", core.Nodes().Informer(), c.nodeHandler()},
		{"namespaces", core.Namespaces().Informer(), c.namespaceHandler()},
		{"persistent volumes", core.PersistentVolumes().Informer(), c.volumeHandler()},
		{"persistent volume claims", core.PersistentVolumeClaims().Informer(), c.claimHandler()},
		{"storage classes", factory.Storage().V1().StorageClasses().Informer(), c.classHandler()},
		{"pod disruption budgets", factory.Policy().V1().PodDisruptionBudgets().Informer(), c.budgetHandler()},
	} {
		registration, err := kind.informer.AddEventHandler(kind.handler)
		if err != nil {
			return nil, fmt.Errorf("cannot watch %s: %w", kind.name, err)
		}
		synced = append(synced, registration.HasSynced)
	}
	return synced, nil
}

// tell sends an event. If the scheduler takes no more, it ends this connection, too.
func (c *Cluster) tell(ev scheduler.Event) {
	if err := c.sink(ev); err != nil {
		log.WithError(err).Debugf("the scheduler stopped before it heard of %T", ev)
	}
}

func (c *Cluster) podHandler() cache.ResourceEventHandler {
	return handlerByUID(
		func(pod *v1.Pod) { c.tell(scheduler.PodSeen{Pod: pod}) },
		func(uid types.UID) { c.tell(scheduler.PodGone{UID: uid}) },
	)
}

func (c *Cluster) budgetHandler() cache.ResourceEventHandler {
	return handlerByUID(
		func(budget *policyv1.PodDisruptionBudget) { c.tell(scheduler.BudgetSeen{Budget: budget}) },
		func(uid types.UID) { c.tell(scheduler.BudgetGone{UID: uid}) },
	)
}

func (c *Cluster) nodeHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(node *v1.Node) { c.tell(scheduler.NodeSeen{Node: node}) },
		func(node *v1.Node) { c.tell(scheduler.NodeGone{Name: node.Name}) },
	)
}

func (c *Cluster) namespaceHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(namespace *v1.Namespace) { c.tell(scheduler.NamespaceSeen{Namespace: namespace}) },
		func(namespace *v1.Namespace) { c.tell(scheduler.NamespaceGone{Name: namespace.Name}) },
	)
}

func (c *Cluster) volumeHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(pv *v1.PersistentVolume) { c.tell(scheduler.VolumeSeen{Volume: pv}) },
		func(pv *v1.PersistentVolume) { c.tell(scheduler.VolumeGone{Name: pv.Name}) },
	)
}

func (c *Cluster) claimHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(claim *v1.PersistentVolumeClaim) { c.tell(scheduler.ClaimSeen{Claim: claim}) },
		func(claim *v1.PersistentVolumeClaim) {
			c.tell(scheduler.ClaimGone{Key: api.PodKey{Namespace: claim.Namespace, Name: claim.Name}})
		},
	)
}

func (c *Cluster) classHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(class *storagev1.StorageClass) { c.tell(scheduler.ClassSeen{Class: class}) },
		func(class *storagev1.StorageClass) { c.tell(scheduler.ClassGone{Name: class.Name}) },
	)
}

// handlerOf returns a handler for objects of one kind.
func handlerOf[T any](seen, gone func(T)) cache.ResourceEventHandlerFuncs {
	with := func(do func(T)) func(any) {
		return func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if known, ok := obj.(T); ok {
				do(known)
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: with(seen), UpdateFunc: func(_, obj any) { with(seen)(obj) }, DeleteFunc: with(gone),
	}
}

// handlerByUID is handlerOf for objects that the scheduler knows by their UIDs. If an object was deleted and created again while
// the watch was interrupted, an informer shows that as an update.
func handlerByUID[T metav1.Object](seen func(T), gone func(types.UID)) cache.ResourceEventHandlerFuncs {
	handler := handlerOf(seen, func(obj T) { gone(obj.GetUID()) })
	handler.UpdateFunc = func(old, obj any) {
		before, known := old.(T)
		if after, ok := obj.(T); ok && known && before.GetUID() != after.GetUID() {
			gone(before.GetUID())
		}
		handler.AddFunc(obj)
	}
	return handler
}
