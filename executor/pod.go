package executor

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// Pod is what the executor knows of a pod that is bound to its node.
type Pod struct {
	Key api.PodKey
	UID types.UID
	// Task is the task that the binding named; empty for a pod without a task, such as a static pod's mirror.
	Task  api.TaskID
	Phase corev1.PodPhase
	// Deleting says that the pod has a deletion timestamp.
	Deleting bool
	// Ready is the pod's condition Ready.
	Ready bool
	// Trouble says why the pod failed, or what keeps it from running or from being ready.
	Trouble Trouble
	// Disruption is the reason and message of the pod's condition DisruptionTarget; empty if it has none
	// (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions).
	Disruption string
}

// NewPod summarizes a pod's object.
func NewPod(pod *corev1.Pod) Pod {
	p := Pod{
		Key:      api.PodKey{Namespace: pod.Namespace, Name: pod.Name},
		UID:      pod.UID,
		Task:     api.TaskID(pod.Annotations[api.AnnotationTaskID]),
		Phase:    pod.Status.Phase,
		Deleting: pod.DeletionTimestamp != nil,
		Trouble:  troubleOf(pod),
	}
	for _, condition := range pod.Status.Conditions {
		switch {
		case condition.Status != corev1.ConditionTrue:
		case condition.Type == corev1.PodReady:
			p.Ready = true
		case condition.Type == corev1.DisruptionTarget:
			p.Disruption = joinNonEmpty(": ", condition.Reason, condition.Message)
		}
	}
	return p
}

// ended reports whether all containers of the pod have ended for good
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase).
func (p Pod) ended() bool { return p.Phase == corev1.PodSucceeded || p.Phase == corev1.PodFailed }

// health returns the pod's health, given its previous health.
func (p Pod) health(before Health) Health {
	switch {
	case p.Ready:
		return Healthy
	case before != UnknownHealth || p.Trouble.restarts:
		return Unhealthy
	}
	return UnknownHealth
}

// report returns the report for a pod that has not ended.
func (p Pod) report(health Health) Report {
	if health == Healthy {
		return Report{Health: health}
	}
	return Report{Message: p.Trouble.Message, Cause: p.Trouble.Cause, Health: health}
}

// deletion returns the report for a deleted pod.
func (p Pod) deletion() Report {
	report := Report{Message: joinNonEmpty(": ", "the pod was deleted", p.Disruption)}
	if p.Disruption != "" {
		report.Cause = Displaced
	}
	return report
}
