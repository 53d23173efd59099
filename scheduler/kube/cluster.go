package kube

import (
	"context"
	"errors"
	"time"

	log "github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/skew"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run"
	"github.com/k8sm/k8sm/scheduler/run/lanes"
)

// Pods have workers of their own, so that no binding waits for the nodes or leases of a thousand agents. A busy API server takes a tenth of
// a second for a call, and serves callers by how many calls they have under way: with fewer workers, bindings fall behind those who create
// the pods, and the leases of so many nodes are not renewed in their ten seconds.
const (
	podWorkers   = 64
	nodeWorkers  = 8
	leaseWorkers = 16
	callTimeout  = 15 * time.Second
)

// Cluster connects a scheduler to a Kubernetes cluster. It implements run.Cluster and run.Tokens.
type Cluster struct {
	client kubernetes.Interface
	queues struct {
		pods, nodes, leases *lanes.Lanes[scheduler.ClusterAction]
	}
	// versions asks the API servers for their versions; nil for not at all.
	versions Versions
	leases   leases
	sink     run.Sink
	events   record.EventRecorder
	now      func() time.Time
}

// New returns the connection. It does nothing before Run.
func New(client kubernetes.Interface) *Cluster {
	c := &Cluster{client: client, now: time.Now, leases: newLeases()}
	for _, queue := range []**lanes.Lanes[scheduler.ClusterAction]{&c.queues.pods, &c.queues.nodes, &c.queues.leases} {
		*queue = lanes.New(scheduler.ClusterAction.Object, c.perform)
	}
	return c
}

// Do implements run.Cluster. The scheduler repeats what it wants of a node until that is done, so the last of several such
// actions in the queue is enough.
func (c *Cluster) Do(action scheduler.ClusterAction) {
	switch action.(type) {
	case scheduler.RenewLease:
		c.queues.leases.AddInstead(action, isOne[scheduler.RenewLease])
	case scheduler.CreateNode:
		c.queues.nodes.AddInstead(action, isOne[scheduler.CreateNode])
	case scheduler.MarkReady:
		c.queues.nodes.AddInstead(action, isOne[scheduler.MarkReady])
	case scheduler.AmendNode, scheduler.MarkNode, scheduler.DeleteNode, scheduler.SetPodPrefixes, scheduler.TaintNode, scheduler.RecordNodeEvent:
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
	c.leases.forget()
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.client.CoreV1().Events("")})
	c.events = broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: api.SchedulerName})

	factory := informers.NewSharedInformerFactory(c.client, 0)
	synced, err := c.watch(factory)
	if err != nil {
		return err
	}
	slices, err := newSlicer(c.client, factory.Core().V1().Nodes())
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	settings, stop, err := c.watchSettings(ctx)
	if err != nil {
		return err
	}
	defer stop()
	synced = append(synced, settings)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.work(ctx) })
	group.Go(func() error { return slices.run(ctx) })
	group.Go(func() error {
		var servers []skew.Server
		if c.versions != nil {
			servers = c.look(ctx, firstLook, nil)
		}
		if !cache.WaitForCacheSync(ctx.Done(), synced...) {
			return nil // ctx has ended
		}
		if err := sink(scheduler.Synced{}); err != nil || c.versions == nil {
			return err
		}
		c.keepLooking(ctx, servers)
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// work does the queued actions until ctx ends.
func (c *Cluster) work(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { return c.queues.pods.Run(ctx, podWorkers) })
	group.Go(func() error { return c.queues.nodes.Run(ctx, nodeWorkers) })
	group.Go(func() error { return c.queues.leases.Run(ctx, leaseWorkers) })
	return group.Wait()
}

// framework is what complaints are about. Kubernetes has no object for it.
var framework = &v1.ObjectReference{APIVersion: "mesos.apache.org/v1", Kind: "Framework", Namespace: metav1.NamespaceSystem, Name: api.SchedulerName}

// complain records an event about the framework.
func (c *Cluster) complain(a scheduler.Complain) {
	kind := v1.EventTypeWarning
	if a.Over {
		kind = v1.EventTypeNormal
	}
	c.events.Event(framework, kind, a.Reason, a.Text)
}

// perform does one action. The scheduler decides again about one that failed.
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
	case scheduler.SetPodPrefixes:
		err = c.setPodPrefixes(ctx, a)
	case scheduler.TaintNode:
		err = c.taintNode(ctx, a)
	case scheduler.RecordNodeEvent:
		c.events.Event(a.Node, a.Type, a.Reason, a.Message)
	case scheduler.Complain:
		c.complain(a)
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
		err = errors.New("this is no action of a cluster")
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.WithError(err).Warnf("cannot %s", action)
	}
}
