package kube

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// leaseDuration is what kubelets write (https://kubernetes.io/docs/concepts/architecture/leases/#node-heart-beats).
const leaseDuration = 40 * time.Second

// leases remembers the leases as the scheduler wrote them, so that a renewal is one write and no read, and those that are left to
// kubelets, which takes neither.
type leases struct {
	mu      sync.Mutex // guards what follows
	written map[string]*coordinationv1.Lease
	left    map[string]bool // by node, while its minion runs
}

func newLeases() leases {
	return leases{written: map[string]*coordinationv1.Lease{}, left: map[string]bool{}}
}

// take removes and returns the lease of a node; nil if there is none.
func (l *leases) take(node string) *coordinationv1.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease := l.written[node]
	delete(l.written, node)
	return lease
}

// isLeft tells whether the lease of a node was left to the kubelet that a minion runs there. That ends with the minion.
func (l *leases) isLeft(node string, minion bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !minion {
		delete(l.left, node)
	}
	return l.left[node]
}

// leave notes that the lease of a node is left to the kubelet of its minion.
func (l *leases) leave(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left[node] = true
}

// forget removes all: other schedulers may have written the leases.
func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.written)
	clear(l.left)
}

func (l *leases) put(lease *coordinationv1.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[lease.Name] = lease
	delete(l.left, lease.Name)
}

// renewLease renews the lease of a node unless its kubelet did so within the lease's duration, or has to. The API server refuses
// the write if somebody else has written the lease: then renewLease looks who did.
func (c *Cluster) renewLease(ctx context.Context, a scheduler.RenewLease) error {
	if c.leases.isLeft(a.Name, a.Minion) {
		return nil
	}
	if written := c.leases.take(a.Name); written != nil {
		err := c.updateLease(ctx, written)
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	// The API server's cache is good enough: a write does not replace a newer lease.
	lease, err := c.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, a.Name, metav1.GetOptions{ResourceVersion: "0"})
	switch {
	case apierrors.IsNotFound(err):
		err = c.createLease(ctx, a.Name)
	case err != nil:
		return err
	case c.kubeletRenews(lease, a.Minion):
		if a.Minion {
			c.leases.leave(a.Name)
		}
		return nil
	default:
		err = c.updateLease(ctx, lease)
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil // the kubelet was first
	}
	return err
}

// firstLease creates the lease of a new node. There may be one of an earlier node.
func (c *Cluster) firstLease(ctx context.Context, node string) error {
	err := c.createLease(ctx, node)
	if apierrors.IsAlreadyExists(err) {
		return c.renewLease(ctx, scheduler.RenewLease{Name: node})
	}
	return err
}

func (c *Cluster) createLease(ctx context.Context, node string) error {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceNodeLease, Name: node}}
	c.renew(lease)
	lease, err := c.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{})
	if err == nil {
		c.leases.put(lease)
	}
	return err
}

func (c *Cluster) updateLease(ctx context.Context, lease *coordinationv1.Lease) error {
	lease = lease.DeepCopy()
	c.renew(lease)
	lease, err := c.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Update(ctx, lease, metav1.UpdateOptions{})
	if err == nil {
		c.leases.put(lease)
	}
	return err
}

// kubeletRenews tells whether the lease is the kubelet's to renew.
func (c *Cluster) kubeletRenews(lease *coordinationv1.Lease, minion bool) bool {
	return api.KubeletRenewed(lease) && (minion || c.now().Sub(lease.Spec.RenewTime.Time) < leaseDuration)
}

func (c *Cluster) renew(lease *coordinationv1.Lease) {
	now, holder, seconds := metav1.NewMicroTime(c.now().Truncate(time.Microsecond)), lease.Name, int32(leaseDuration.Seconds())
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	lease.Annotations[api.AnnotationSchedulerRenewed] = api.LeaseTime(now)
	lease.Spec.RenewTime, lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &now, &holder, &seconds
}
