package kube

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
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
	return c.firstLease(ctx, node.Name)
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
	return c.patchNode(ctx, a.Name, types.StrategicMergePatchType, change)
}

// patchNode changes a node.
func (c *Cluster) patchNode(ctx context.Context, name string, kind types.PatchType, change map[string]any) error {
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, name, kind, patch, metav1.PatchOptions{})
	return err
}

// setPodPrefixes sets the annotation, or removes it if there are no prefixes.
func (c *Cluster) setPodPrefixes(ctx context.Context, a scheduler.SetPodPrefixes) error {
	err := c.patchNode(ctx, a.Node, types.StrategicMergePatchType, map[string]any{"metadata": map[string]any{
		"annotations": map[string]any{api.AnnotationPodPrefixes: textOrNull(a.Prefixes)},
	}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// taintNode writes the whole list of taints. The API server refuses it if the node has changed since it was seen.
func (c *Cluster) taintNode(ctx context.Context, a scheduler.TaintNode) error {
	err := c.patchNode(ctx, a.Node.Name, types.MergePatchType, map[string]any{
		"metadata": map[string]any{"uid": a.Node.UID, "resourceVersion": a.Node.ResourceVersion},
		"spec":     map[string]any{"taints": a.Taints()},
	})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the scheduler decides again when it sees the node
	}
	return err
}

func (c *Cluster) markReady(ctx context.Context, a scheduler.MarkReady) error {
	condition := a.Condition()
	condition.LastHeartbeatTime = metav1.NewTime(c.now())
	condition.LastTransitionTime = condition.LastHeartbeatTime
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []v1.NodeCondition{condition}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().
		Patch(ctx, a.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// deleteNode deletes the node of a Mesos agent, and its lease.
func (c *Cluster) deleteNode(ctx context.Context, a scheduler.DeleteNode) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, a.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ours := api.AgentOfProviderID(node.Spec.ProviderID); !ours {
		return fmt.Errorf("node %s has provider id %q, which names no Mesos agent", a.Name, node.Spec.ProviderID)
	}
	exactly := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &node.UID}}
	if err := c.client.CoreV1().Nodes().Delete(ctx, a.Name, exactly); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	c.leases.take(a.Name)
	err = c.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Delete(ctx, a.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
