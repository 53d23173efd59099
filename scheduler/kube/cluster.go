package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	log "github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run"
	"github.com/k8sm/k8sm/scheduler/run/lanes"
)

// Pods have workers of their own, so that no binding waits for a thousand nodes or their leases.
const (
	podWorkers   = 16
	nodeWorkers  = 8
	leaseWorkers = 2
	callTimeout  = 15 * time.Second
)

// Cluster does the scheduler's actions on a Kubernetes cluster. It implements run.Cluster and run.Tokens.
type Cluster struct {
	client kubernetes.Interface
	queues struct {
		pods, nodes, leases *lanes.Lanes[scheduler.ClusterAction]
	}
	leases leases
	sink   run.Sink
	events record.EventRecorder
	now    func() time.Time
}

// New returns the connection; nothing happens before Run.
func New(client kubernetes.Interface) *Cluster {
	c := &Cluster{client: client, now: time.Now, leases: leases{written: map[string]*coordinationv1.Lease{}}}
	for _, queue := range []**lanes.Lanes[scheduler.ClusterAction]{&c.queues.pods, &c.queues.nodes, &c.queues.leases} {
		*queue = lanes.New(scheduler.ClusterAction.Object, c.perform)
	}
	return c
}

// Do implements run.Cluster. What is wanted of a node is wanted again until it is done: of several such actions
// that wait, the last one is enough.
func (c *Cluster) Do(action scheduler.ClusterAction) {
	switch action.(type) {
	case scheduler.RenewLease:
		c.queues.leases.AddInstead(action, isOne[scheduler.RenewLease])
	case scheduler.CreateNode:
		c.queues.nodes.AddInstead(action, isOne[scheduler.CreateNode])
	case scheduler.MarkReady:
		c.queues.nodes.AddInstead(action, isOne[scheduler.MarkReady])
	case scheduler.AmendNode, scheduler.MarkNode, scheduler.DeleteNode, scheduler.LeadTo, scheduler.TaintNode, scheduler.TellNode:
		c.queues.nodes.Add(action)
	default:
		c.queues.pods.Add(action)
	}
}

func isOne[T scheduler.ClusterAction](action scheduler.ClusterAction) bool {
	_, ok := action.(T)
	return ok
}

// Run implements run.Cluster.
func (c *Cluster) Run(ctx context.Context, sink run.Sink) error {
	c.sink = sink
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.client.CoreV1().Events("")})
	c.events = broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: api.SchedulerName})

	factory := informers.NewSharedInformerFactory(c.client, 0)
	synced, err := c.watch(factory)
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.work(ctx) })
	group.Go(func() error {
		if !cache.WaitForCacheSync(ctx.Done(), synced...) {
			return nil // ctx has ended
		}
		return sink(scheduler.Synced{})
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// watch turns everything that the scheduler wants to see into events. The functions tell when all that exists has been
// passed on.
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

// work does what is queued until ctx ends.
func (c *Cluster) work(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { return c.queues.pods.Run(ctx, podWorkers) })
	group.Go(func() error { return c.queues.nodes.Run(ctx, nodeWorkers) })
	group.Go(func() error { return c.queues.leases.Run(ctx, leaseWorkers) })
	return group.Wait()
}

// tell passes an event on. When the scheduler takes no more, it is about to end this connection, too.
func (c *Cluster) tell(ev scheduler.Event) {
	if err := c.sink(ev); err != nil {
		log.WithError(err).Debugf("the scheduler has ended; nobody hears of %T", ev)
	}
}

func (c *Cluster) podHandler() cache.ResourceEventHandler {
	seen := func(obj any) {
		if pod, ok := obj.(*v1.Pod); ok {
			c.tell(scheduler.PodSeen{Pod: pod})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: seen,
		UpdateFunc: func(old, obj any) {
			before, _ := old.(*v1.Pod)
			if pod, ok := obj.(*v1.Pod); ok && before != nil && before.UID != pod.UID {
				c.tell(scheduler.PodGone{UID: before.UID}) // deleted and made again while the watch was interrupted
			}
			seen(obj)
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				c.tell(scheduler.PodGone{UID: pod.UID})
			}
		},
	}
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

// handlerOf takes what an informer says of objects of one kind apart.
func handlerOf[T any](seen, gone func(T)) cache.ResourceEventHandler {
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

func (c *Cluster) budgetHandler() cache.ResourceEventHandler {
	seen := func(obj any) {
		if budget, ok := obj.(*policyv1.PodDisruptionBudget); ok {
			c.tell(scheduler.BudgetSeen{Budget: budget})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: seen,
		UpdateFunc: func(old, obj any) {
			before, _ := old.(*policyv1.PodDisruptionBudget)
			if budget, ok := obj.(*policyv1.PodDisruptionBudget); ok && before != nil && before.UID != budget.UID {
				c.tell(scheduler.BudgetGone{UID: before.UID}) // deleted and made again while the watch was interrupted
			}
			seen(obj)
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if budget, ok := obj.(*policyv1.PodDisruptionBudget); ok {
				c.tell(scheduler.BudgetGone{UID: budget.UID})
			}
		},
	}
}

// perform does one action. Those that fail are decided upon again when their object is looked at next.
func (c *Cluster) perform(ctx context.Context, action scheduler.ClusterAction) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	switch a := action.(type) {
	case scheduler.Bind:
		outcome, bindErr := c.bind(ctx, a)
		c.tell(scheduler.BindDone{Task: a.Task, Outcome: outcome})
		err = bindErr
	case scheduler.Annotate:
		outcome, annotateErr := c.annotate(ctx, a)
		c.tell(scheduler.BindDone{Task: a.Task, Outcome: outcome})
		err = annotateErr
	case scheduler.Report:
		err = c.report(ctx, a)
	case scheduler.PrepareClaims:
		err = c.prepareClaims(ctx, a)
		c.tell(scheduler.ClaimsPrepared{Action: a, OK: err == nil})
	case scheduler.Nominate:
		err = c.nominate(ctx, a)
	case scheduler.Preempt:
		err = c.preempt(ctx, a)
	case scheduler.CreateNode:
		err = c.createNode(ctx, a)
	case scheduler.AmendNode:
		err = c.amendNode(ctx, a)
	case scheduler.MarkNode:
		err = c.markNode(ctx, a)
	case scheduler.LeadTo:
		err = c.leadTo(ctx, a)
	case scheduler.TaintNode:
		err = c.taintNode(ctx, a)
	case scheduler.TellNode:
		c.events.Event(a.Node, a.Type, a.Reason, a.Message)
	case scheduler.Evict:
		outcome, evictErr := c.evict(ctx, a)
		c.tell(scheduler.EvictDone{Agent: a.Agent, Pod: a.Pod.UID, Outcome: outcome})
		err = evictErr
	case scheduler.MarkReady:
		err = c.markReady(ctx, a)
	case scheduler.RenewLease:
		err = c.renewLease(ctx, a)
	case scheduler.DeleteNode:
		err = c.deleteNode(ctx, a)
	default:
		err = errors.New("the action is not known")
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.WithError(err).Warnf("cannot %s", action)
	}
}
