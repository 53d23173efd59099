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

// lookAtConflict finds out why the API server refused a binding: the name may be another pod's by now, and the pod may be
// terminating, bound elsewhere, or bound as wanted by an earlier call whose answer was lost.
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

// report writes why a pod waits to an event, and to the condition that autoscalers read
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions).
func (c *Cluster) report(ctx context.Context, a scheduler.Report) error {
	c.events.Event(a.Pod, v1.EventTypeWarning, "FailedScheduling", a.Message)
	if a.Pod.Spec.NodeName != "" {
		return nil
	}
	_, err := c.patchStatus(ctx, a.Pod, map[string]any{"conditions": []any{c.unschedulable(a.Message)}})
	return err
}

func (c *Cluster) unschedulable(message string) map[string]any {
	return c.condition(v1.PodScheduled, v1.ConditionFalse, v1.PodReasonUnschedulable, message)
}

func (c *Cluster) condition(kind v1.PodConditionType, status v1.ConditionStatus, reason, message string) map[string]any {
	return map[string]any{
		"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": metav1.NewTime(c.now()),
	}
}

// patchStatus changes a pod's status; found is false if the pod is gone or another pod has its name.
func (c *Cluster) patchStatus(ctx context.Context, pod *v1.Pod, status map[string]any) (found bool, err error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return false, err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).
		Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return false, nil
	}
	return err == nil, err
}

// nominate writes the nomination where autoscalers and a restarted scheduler read it
// (https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/#user-exposed-information).
func (c *Cluster) nominate(ctx context.Context, a scheduler.Nominate) error {
	status := map[string]any{"nominatedNodeName": nil, "conditions": []any{c.unschedulable(a.Message)}}
	reason := "NominationLost"
	if a.Node != "" {
		status["nominatedNodeName"], reason = a.Node, "Nominated"
	}
	found, err := c.patchStatus(ctx, a.Pod, status)
	if found {
		c.events.Event(a.Pod, v1.EventTypeNormal, reason, a.Message)
	}
	return err
}

// preempt deletes a pod with its grace period. Before, it sets the condition by which a Job's pod failure policy sees that this was
// no failure (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions).
func (c *Cluster) preempt(ctx context.Context, a scheduler.Preempt) error {
	by := api.PodKey{Namespace: a.By.Namespace, Name: a.By.Name}
	message := fmt.Sprintf("%s: preempted by the more important pod %s on node %s", api.SchedulerName, by, a.Node)
	condition := c.condition(v1.DisruptionTarget, v1.ConditionTrue, v1.PodReasonPreemptionByScheduler, message)
	found, err := c.patchStatus(ctx, a.Victim, map[string]any{"conditions": []any{condition}})
	if err != nil || !found {
		return err
	}
	exactly := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &a.Victim.UID}}
	err = c.client.CoreV1().Pods(a.Victim.Namespace).Delete(ctx, a.Victim.Name, exactly)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil {
		c.events.Eventf(a.Victim, v1.EventTypeNormal, "Preempted", "Preempted by pod %s (%s) on node %s", by, a.By.UID, a.Node)
	}
	return err
}
