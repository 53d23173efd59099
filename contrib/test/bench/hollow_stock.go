package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"github.com/k8sm/k8sm/api/protobuf"
)

// stockOnHollow is the stock kube-scheduler with its default plugins, but without its limit of 50 calls a second, on plain nodes.
// It renews their leases like kubelets, because our side does so too.
type stockOnHollow struct {
	*hollow
	leases    []*coordinationv1.Lease
	kubelets  part
	scheduler part
}

// part is something that runs until its end is called.
type part struct {
	end  context.CancelFunc
	runs sync.WaitGroup
}

// stop returns when the part has ended.
func (p *part) stop() {
	if p.end != nil {
		p.end()
	}
	p.runs.Wait()
}

func (s *stockOnHollow) start(ctx context.Context) error {
	if err := s.makeNodes(ctx); err != nil {
		return err
	}
	nodes, end := context.WithCancel(ctx)
	s.kubelets.end = end
	s.kubelets.runs.Go(func() { s.renewLeases(nodes) })
	return s.resume(ctx)
}

func (s *stockOnHollow) resume(ctx context.Context) error {
	ctx, s.scheduler.end = context.WithCancel(klog.NewContext(ctx, klog.NewKlogr()))
	client, err := protobuf.NewClient(s.rest)
	if err != nil {
		return err
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	factory := scheduler.NewInformerFactory(client, 0)
	stock, err := scheduler.New(ctx, client, factory, nil, profile.NewRecorderFactory(broadcaster))
	if err != nil {
		return fmt.Errorf("cannot make a kube-scheduler: %w", err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := stock.WaitForHandlersSync(ctx); err != nil {
		return fmt.Errorf("cannot fill kube-scheduler's cache: %w", err)
	}
	s.scheduler.runs.Go(func() {
		stock.Run(ctx)
		broadcaster.Shutdown()
		factory.Shutdown()
	})
	return nil
}

func (s *stockOnHollow) pause() error {
	s.scheduler.stop()
	return nil
}

func (s *stockOnHollow) stop() error {
	s.kubelets.stop()
	return s.pause()
}

// makeNodes makes the nodes and their leases, as a thousand kubelets would.
func (s *stockOnHollow) makeNodes(ctx context.Context) error {
	s.leases = make([]*coordinationv1.Lease, hollowNodes)
	return parallel(ctx, hollowNodes, func(ctx context.Context, i int) error {
		node := plainNode("plain-" + strconv.Itoa(i))
		if _, err := s.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return err
		}
		seconds, now := int32(40), metav1.NowMicro()
		lease, err := s.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		s.leases[i] = lease
		return err
	})
}

// renewLeases renews each lease every ten seconds, by one write, until ctx ends.
func (s *stockOnHollow) renewLeases(ctx context.Context) {
	every := time.NewTicker(10 * time.Second)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		err := parallel(ctx, hollowNodes, func(ctx context.Context, i int) (err error) {
			now := metav1.NowMicro()
			s.leases[i].Spec.RenewTime = &now
			s.leases[i], err = s.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, s.leases[i], metav1.UpdateOptions{})
			return err
		})
		if err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "cannot renew the leases of the plain nodes")
			return
		}
	}
}

func plainNode(name string) *corev1.Node {
	list := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100000Mi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Status: corev1.NodeStatus{
			Capacity: list, Allocatable: list,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Hollow"}},
		},
	}
}
