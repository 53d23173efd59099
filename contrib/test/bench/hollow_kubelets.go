package main

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// renewEvery is how often a kubelet renews its node's lease.
const renewEvery = 10 * time.Second

// kubelets renew the leases of hollow nodes as real ones do, each by one write, so that the API server has to do this under any
// scheduler.
type kubelets struct {
	client  kubernetes.Interface
	started chan string // nodes whose kubelets have still to begin; it has room for all nodes

	mu    sync.Mutex // guards nodes
	nodes map[string]bool
}

func newKubelets(client kubernetes.Interface, nodes int) *kubelets {
	return &kubelets{client: client, started: make(chan string, nodes), nodes: make(map[string]bool, nodes)}
}

// start starts the kubelet of a node, unless it runs.
func (k *kubelets) start(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.nodes[node] {
		k.nodes[node] = true
		k.started <- node
	}
}

// run returns when all have ended, after ctx has.
func (k *kubelets) run(ctx context.Context) {
	var group sync.WaitGroup
	for {
		select {
		case node := <-k.started:
			group.Go(func() { k.live(ctx, node) })
		case <-ctx.Done():
			group.Wait()
			return
		}
	}
}

// live renews a node's lease until ctx ends. It reads the lease at first, and after somebody else has written it.
func (k *kubelets) live(ctx context.Context, node string) {
	every := time.NewTicker(renewEvery)
	defer every.Stop()
	var lease *coordinationv1.Lease
	for {
		lease, _ = k.renew(context.WithoutCancel(ctx), node, lease) // or else the next time
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

func (k *kubelets) renew(ctx context.Context, node string, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	leases := k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	seconds, now := int32(40), metav1.NowMicro()
	if lease == nil {
		var err error
		lease, err = leases.Get(ctx, node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return leases.Create(ctx, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: node},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: &seconds, RenewTime: &now},
			}, metav1.CreateOptions{})
		}
		if err != nil {
			return nil, err
		}
	}
	lease.Spec.RenewTime = &now
	return leases.Update(ctx, lease, metav1.UpdateOptions{})
}
