package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

const (
	// leaseDuration is what kubelets write (https://kubernetes.io/docs/concepts/architecture/leases/#node-heart-beats).
	leaseDuration = 40 * time.Second
	// annotationRenewed holds the time of our own last renewal. A kubelet keeps the annotation and the holder when it
	// renews a lease, but not the time: if this differs from spec.renewTime, the kubelet renewed last.
	annotationRenewed = "k8sm.io/scheduler-renewed"
)

func (c *Cluster) createNode(ctx context.Context, a scheduler.CreateNode) error {
	node := a.Node.DeepCopy()
	now := metav1.NewTime(c.now())
	for i := range node.Status.Conditions {
		node.Status.Conditions[i].LastHeartbeatTime = now
		node.Status.Conditions[i].LastTransitionTime = now
	}
	_, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return c.renewLease(ctx, scheduler.RenewLease{Name: node.Name})
}

func (c *Cluster) amendNode(ctx context.Context, a scheduler.AmendNode) error {
	metadata := map[string]any{"labels": a.Labels}
	if a.Address != "" {
		metadata["annotations"] = map[string]string{api.AnnotationAgentAddress: a.Address}
	}
	change := map[string]any{"metadata": metadata}
	if a.ProviderID != "" {
		change["spec"] = map[string]string{"providerID": a.ProviderID}
	}
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, a.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

func (c *Cluster) markReady(ctx context.Context, a scheduler.MarkReady) error {
	condition := scheduler.ReadyWithoutKubelet()
	condition.LastHeartbeatTime = metav1.NewTime(c.now())
	condition.LastTransitionTime = condition.LastHeartbeatTime
	patch, err := json.Marshal(map[string]any{
		"status": map[string]any{"conditions": []v1.NodeCondition{condition}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().
		Patch(ctx, a.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// renewLease renews the lease of a node unless its kubelet has done so within the lease's duration.
func (c *Cluster) renewLease(ctx context.Context, a scheduler.RenewLease) error {
	leases := c.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	lease, err := leases.Get(ctx, a.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceNodeLease, Name: a.Name}}
		c.renew(lease)
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if c.kubeletRenews(lease) {
		return nil
	}
	lease = lease.DeepCopy()
	c.renew(lease)
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // the kubelet was faster
	}
	return err
}

func (c *Cluster) kubeletRenews(lease *coordinationv1.Lease) bool {
	renewed := lease.Spec.RenewTime
	if renewed == nil || lease.Annotations[annotationRenewed] == timeText(*renewed) {
		return false
	}
	return c.now().Sub(renewed.Time) < leaseDuration
}

func (c *Cluster) renew(lease *coordinationv1.Lease) {
	now, holder, seconds := metav1.NewMicroTime(c.now().Truncate(time.Microsecond)), lease.Name, int32(leaseDuration.Seconds())
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	lease.Annotations[annotationRenewed] = timeText(now)
	lease.Spec.RenewTime, lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &now, &holder, &seconds
}

func timeText(t metav1.MicroTime) string { return t.UTC().Format(metav1.RFC3339Micro) }

// deleteNode deletes a node if it is one of ours, and its lease.
func (c *Cluster) deleteNode(ctx context.Context, a scheduler.DeleteNode) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, a.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ours := api.AgentOfProviderID(node.Spec.ProviderID); !ours {
		return fmt.Errorf("node %s has provider id %q, which is none of Mesos", a.Name, node.Spec.ProviderID)
	}
	exactly := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &node.UID}}
	if err := c.client.CoreV1().Nodes().Delete(ctx, a.Name, exactly); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err = c.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Delete(ctx, a.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
