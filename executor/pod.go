package executor

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// Pod is what the executor knows of a pod that is bound to its node.
type Pod struct {
	Key api.PodKey
	UID types.UID
	// Task is the task that the binding named; empty for a pod that is not of a task, such as a static pod's mirror.
	Task  api.TaskID
	Phase corev1.PodPhase
	// Deleting is true from when someone asked for the pod's deletion.
	Deleting bool
	// Message says why a pod failed, in words that help the person who wrote it.
	Message string
}

// NewPod summarises a pod's object.
func NewPod(pod *corev1.Pod) Pod {
	p := Pod{
		Key:      api.PodKey{Namespace: pod.Namespace, Name: pod.Name},
		UID:      pod.UID,
		Task:     api.TaskID(pod.Annotations[api.AnnotationTaskID]),
		Phase:    pod.Status.Phase,
		Deleting: pod.DeletionTimestamp != nil,
	}
	if p.Phase == corev1.PodFailed {
		p.Message = failure(&pod.Status)
	}
	return p
}

// ended tells whether the pod's containers have all ended for good
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase).
func (p Pod) ended() bool { return p.Phase == corev1.PodSucceeded || p.Phase == corev1.PodFailed }

// failure says why a pod failed: the kubelet's own reason where it has one (evicted, deadline, refused on admission),
// else each container that ended badly.
func failure(status *corev1.PodStatus) string {
	if status.Reason != "" || status.Message != "" {
		return joinNonEmpty(": ", status.Reason, status.Message)
	}
	var problems []string
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for _, c := range list {
			if problem := containerFailure(c); problem != "" {
				problems = append(problems, problem)
			}
		}
	}
	if len(problems) == 0 {
		return "the pod failed without saying why"
	}
	return strings.Join(problems, "; ")
}

func containerFailure(c corev1.ContainerStatus) string {
	switch w, t := c.State.Waiting, c.State.Terminated; {
	case w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff" || w.Reason == "ErrImageNeverPull" ||
		w.Reason == "InvalidImageName"):
		return joinNonEmpty(": ", fmt.Sprintf("container %s: image %s cannot be pulled", c.Name, c.Image), w.Message)
	case w != nil && w.Message != "":
		return fmt.Sprintf("container %s never ran: %s", c.Name, joinNonEmpty(": ", w.Reason, w.Message))
	case t == nil || t.ExitCode == 0:
		return ""
	case t.Reason == "OOMKilled":
		return fmt.Sprintf("container %s was killed because it used more memory than its limit", c.Name)
	case t.Signal != 0:
		return joinNonEmpty(": ", fmt.Sprintf("container %s was ended by signal %d", c.Name, t.Signal), t.Message)
	default:
		return joinNonEmpty(": ", fmt.Sprintf("container %s exited with code %d", c.Name, t.ExitCode), t.Message)
	}
}

func joinNonEmpty(separator string, parts ...string) string {
	var given []string
	for _, part := range parts {
		if part != "" {
			given = append(given, part)
		}
	}
	return strings.Join(given, separator)
}
