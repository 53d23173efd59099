package kube

import (
	"context"
	"encoding/json"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// bind writes the binding; the API server copies its annotations to the pod in the same write
// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/binding-v1/).
func (c *Cluster) bind(ctx context.Context, a scheduler.Bind) (scheduler.BindOutcome, error) {
	binding := &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: a.Pod.Key.Namespace, Name: a.Pod.Key.Name, UID: a.Pod.UID, Annotations: a.Annotations,
		},
		Target: v1.ObjectReference{Kind: "Node", Name: a.Node},
	}
	err := c.client.CoreV1().Pods(a.Pod.Key.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
	switch {
	case err == nil:
		return scheduler.BindOK, nil
	case apierrors.IsNotFound(err):
		return scheduler.BindGone, nil
	case apierrors.IsConflict(err):
		return c.lookAtConflict(ctx, a, err)
	}
	return scheduler.BindFailed, err
}

// lookAtConflict finds out why the API server did not bind: the pod may be another one by now, be on its way out, be
// bound elsewhere, or bound just so by a try of ours whose answer was lost.
func (c *Cluster) lookAtConflict(ctx context.Context, a scheduler.Bind, conflict error) (scheduler.BindOutcome, error) {
	pod, err := c.client.CoreV1().Pods(a.Pod.Key.Namespace).Get(ctx, a.Pod.Key.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return scheduler.BindGone, nil
	case err != nil:
		return scheduler.BindFailed, err
	case pod.UID != a.Pod.UID || pod.DeletionTimestamp != nil:
		return scheduler.BindGone, nil
	case pod.Spec.NodeName == "":
		return scheduler.BindFailed, conflict
	case pod.Spec.NodeName == a.Node && pod.Annotations[api.AnnotationTaskID] == string(a.Task):
		return scheduler.BindOK, nil
	}
	return scheduler.BindConflict, nil
}

func (c *Cluster) annotate(ctx context.Context, a scheduler.Annotate) (scheduler.BindOutcome, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": a.Pod.UID, "annotations": a.Annotations},
	})
	if err != nil {
		return scheduler.BindFailed, err
	}
	_, err = c.client.CoreV1().Pods(a.Pod.Key.Namespace).
		Patch(ctx, a.Pod.Key.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	switch {
	case err == nil:
		return scheduler.BindOK, nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // a conflict: the name is another pod's by now
		return scheduler.BindGone, nil
	}
	return scheduler.BindFailed, err
}

// report tells why a pod waits where people look for it: in an event, and in the condition that autoscalers read too
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions).
func (c *Cluster) report(ctx context.Context, a scheduler.Report) error {
	c.events.Event(a.Pod, v1.EventTypeWarning, "FailedScheduling", a.Message)
	if a.Pod.Spec.NodeName != "" {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": a.Pod.UID},
		"status": map[string]any{"conditions": []map[string]any{{
			"type": v1.PodScheduled, "status": v1.ConditionFalse, "reason": v1.PodReasonUnschedulable,
			"message": a.Message, "lastTransitionTime": metav1.NewTime(c.now()),
		}}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(a.Pod.Namespace).
		Patch(ctx, a.Pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // nobody is left to be told
	}
	return err
}
