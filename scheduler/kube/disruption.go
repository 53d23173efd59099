package kube

import (
	"cmp"
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// markNode writes the annotations and the cordon together. The API server refuses that if the node has changed since it was seen:
// the cordon may be somebody else's by now.
func (c *Cluster) markNode(ctx context.Context, a scheduler.MarkNode) error {
	err := c.patchNode(ctx, a.Node.Name, types.StrategicMergePatchType, map[string]any{
		"metadata": map[string]any{
			"uid": a.Node.UID, "resourceVersion": a.Node.ResourceVersion,
			"annotations": map[string]any{
				api.AnnotationMaintenance: textOrNull(a.Maintenance), api.AnnotationCordoned: textOrNull(a.Cordoned),
				api.AnnotationRollout: textOrNull(a.Rollout.Annotation()),
			},
		},
		"spec": map[string]any{"unschedulable": a.Unschedulable},
	})
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil // the scheduler decides again when it sees the node
	case err != nil:
		return err
	}
	kind := v1.EventTypeNormal
	if a.Failed {
		kind = v1.EventTypeWarning
	}
	reason, message := eventOf(a)
	c.events.Event(a.Node, kind, reason, message)
	return nil
}

func textOrNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// eventOf explains a mark to people who look at the node.
func eventOf(a scheduler.MarkNode) (reason, message string) {
	window := ""
	if a.Maintenance != "" {
		window = ": Mesos has planned maintenance for " + a.Maintenance
	}
	switch {
	case a.Failed:
		return "RolloutFailed", "the replacement of the minion failed, and no other starts: " + a.Rollout.String()
	case a.Unschedulable && !a.Node.Spec.Unschedulable && a.Rollout.State != api.RolloutNone:
		return "Cordoned", fmt.Sprintf("cordoned for %s: km %s", a.Cordoned, a.Rollout)
	case a.Unschedulable && !a.Node.Spec.Unschedulable && a.Cordoned == api.CordonedForDraining:
		return "Cordoned", "cordoned for draining: an operator drains the Mesos agent, which kills its tasks"
	case a.Unschedulable && !a.Node.Spec.Unschedulable:
		return "Cordoned", fmt.Sprintf("cordoned for %s%s", a.Cordoned, window)
	case !a.Unschedulable && a.Node.Spec.Unschedulable:
		return "Uncordoned", "uncordoned" + window
	case !a.Rollout.Equal(api.ParseRollout(a.Node.Annotations[api.AnnotationRollout])):
		return "RolloutChanged", cmp.Or(a.Rollout.String(), "no rollout of this node is under way")
	case a.Maintenance == "":
		return "MaintenanceOver", "no maintenance is planned any more"
	}
	return "MaintenancePlanned", "Mesos has planned maintenance for " + a.Maintenance
}

// evict evicts a pod, or deletes it. The API server answers an eviction that a PodDisruptionBudget forbids with 429 and that cause
// (https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/#how-api-initiated-eviction-works).
func (c *Cluster) evict(ctx context.Context, a scheduler.Evict) (scheduler.EvictOutcome, error) {
	exactly := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &a.Pod.UID}}
	pods := c.client.CoreV1().Pods(a.Pod.Namespace)
	var err error
	if a.Delete {
		err = pods.Delete(ctx, a.Pod.Name, exactly)
	} else {
		err = pods.EvictV1(ctx, &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: a.Pod.Namespace, Name: a.Pod.Name}, DeleteOptions: &exactly,
		})
	}
	switch {
	case err == nil:
		c.events.Event(a.Pod, v1.EventTypeNormal, "Evicted", a.Message)
		return scheduler.EvictOK, nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // a conflict: the name is another pod's by now
		return scheduler.EvictGone, nil
	case apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause):
		c.events.Event(a.Pod, v1.EventTypeWarning, "EvictionBlocked", fmt.Sprintf("%s, but: %v", a.Message, err))
		return scheduler.EvictBlocked, nil
	}
	return scheduler.EvictFailed, err
}
