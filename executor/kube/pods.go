// Package kube adapts the Kubernetes API to the events and actions of package executor. With the identity of one node, it watches
// the pods bound to the node and deletes those that the executor wants deleted
// (https://kubernetes.io/docs/reference/access-authn-authz/node/ says what a node may do). Start reading at Pods.Run.
package kube

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/executor"
)

// deleteTimeout bounds one attempt to delete a pod.
const deleteTimeout = 10 * time.Second

// Pods watches and deletes the pods of one node.
type Pods struct {
	deletions workqueue.TypedRateLimitingInterface[deletion]
	known     atomic.Pointer[cache.Store] // nil before Run
}

// deletion is executor.DeletePod as a comparable value, for the work queue.
type deletion struct {
	namespace, name, uid string
	grace                int64
	graceGiven           bool
}

// NewPods returns Pods that accept deletions at once and perform them while Run runs.
func NewPods() *Pods {
	return &Pods{deletions: workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[deletion](200*time.Millisecond, 30*time.Second))}
}

// Delete implements executor.Pods.
func (p *Pods) Delete(d executor.DeletePod) {
	item := deletion{namespace: d.Pod.Namespace, name: d.Pod.Name, uid: string(d.UID)}
	if d.Grace != nil {
		item.grace, item.graceGiven = *d.Grace, true
	}
	p.deletions.Add(item)
}

// List returns the node's pods, in no order, as the API server last had them; none before Run has read them. Others have these objects,
// too: leave them as they are. It may be called concurrently.
func (p *Pods) List() (pods []*corev1.Pod) {
	store := p.known.Load()
	if store == nil {
		return nil
	}
	for _, object := range (*store).List() {
		pods = append(pods, object.(*corev1.Pod))
	}
	return pods
}

// Get returns a pod of the node as List has it; nil if it has none of that name and UID.
func (p *Pods) Get(key api.PodKey, uid types.UID) *corev1.Pod {
	store := p.known.Load()
	if store == nil {
		return nil
	}
	object, known, err := (*store).GetByKey(cache.NewObjectName(key.Namespace, key.Name).String())
	if err != nil || !known || object.(*corev1.Pod).UID != uid {
		return nil
	}
	return object.(*corev1.Pod)
}

// Run posts the node's pods and their changes, and performs deletions, until ctx ends.
func (p *Pods) Run(ctx context.Context, client kubernetes.Interface, node string, post func(executor.Event)) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
		}))
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(handler(post)); err != nil {
		return fmt.Errorf("cannot watch the pods of node %s: %w", node, err)
	}
	store := informer.GetStore()
	p.known.Store(&store)
	factory.Start(ctx.Done())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for p.deleteNext(ctx, client) {
		}
		return nil
	})
	<-ctx.Done()
	p.deletions.ShutDown()
	factory.Shutdown()
	_ = group.Wait() // its goroutine returns no error
	return ctx.Err()
}

func handler(post func(executor.Event)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { post(executor.PodChanged{Pod: executor.NewPod(o.(*corev1.Pod))}) },
		UpdateFunc: func(_, o any) { post(executor.PodChanged{Pod: executor.NewPod(o.(*corev1.Pod))}) },
		DeleteFunc: func(o any) {
			if missed, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = missed.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok {
				post(executor.PodGone{UID: pod.UID})
			}
		},
	}
}

// deleteNext performs one deletion. It returns false when the queue has been shut down.
func (p *Pods) deleteNext(ctx context.Context, client kubernetes.Interface) bool {
	item, stopped := p.deletions.Get()
	if stopped {
		return false
	}
	defer p.deletions.Done(item)
	if err := item.perform(ctx, client); err != nil {
		logrus.WithField("pod", item.namespace+"/"+item.name).Warnf("retrying: %s", err)
		p.deletions.AddRateLimited(item)
		return true
	}
	p.deletions.Forget(item)
	return true
}

// perform deletes the pod, unless it is gone or another pod has its name by now.
func (d deletion) perform(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(d.uid)}
	if d.graceGiven {
		options.GracePeriodSeconds = &d.grace
	}
	err := client.CoreV1().Pods(d.namespace).Delete(ctx, d.name, options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("cannot delete pod %s/%s: %w", d.namespace, d.name, err)
	}
	return nil
}
