package executor

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

func TestFailureIsToldInWordsThatHelp(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	ended := func(code, signal int32, reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Signal: signal, Reason: reason, Message: message}}
	}
	one := func(state corev1.ContainerState) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Image: "web:1", State: state}}}
	}
	for name, test := range map[string]struct {
		status corev1.PodStatus
		want   string
	}{
		"evicted": {corev1.PodStatus{Reason: "Evicted", Message: "The node was low on resource: memory."},
			"Evicted: The node was low on resource: memory."},
		"deadline":  {corev1.PodStatus{Reason: "DeadlineExceeded"}, "DeadlineExceeded"},
		"image":     {one(waiting("ImagePullBackOff", "no such host")), "container main: image web:1 cannot be pulled: no such host"},
		"never ran": {one(waiting("CreateContainerConfigError", `secret "s" not found`)), `container main never ran: CreateContainerConfigError: secret "s" not found`},
		"memory":    {one(ended(137, 0, "OOMKilled", "")), "container main was killed because it used more memory than its limit"},
		"signal":    {one(ended(137, 9, "Error", "")), "container main was ended by signal 9"},
		"exit code": {one(ended(2, 0, "Error", "usage: web PORT")), "container main exited with code 2: usage: web PORT"},
		"no reason": {corev1.PodStatus{}, "the pod failed without saying why"},
		"all good":  {one(ended(0, 0, "Completed", "")), "the pod failed without saying why"},
		"init and app": {corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", State: ended(1, 0, "Error", "")}},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "main", State: ended(3, 0, "Error", "")}},
		}, "container init exited with code 1; container main exited with code 3"},
	} {
		t.Run(name, func(t *testing.T) {
			test.status.Phase = corev1.PodFailed
			if got := NewPod(&corev1.Pod{Status: test.status}).Message; got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestPodIsSummarised(t *testing.T) {
	now := metav1.Now()
	got := NewPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u", DeletionTimestamp: &now,
			Annotations: map[string]string{api.AnnotationTaskID: "u.2"}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	})
	want := Pod{Key: api.PodKey{Namespace: "default", Name: "web"}, UID: "u", Task: "u.2", Phase: corev1.PodRunning, Deleting: true}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestLaunchThatCannotBeReadSaysWhy(t *testing.T) {
	for name, launch := range map[string]Launch{
		"foreign task id": NewLaunch("x-1", []byte("{}"), nil),
		"no JSON":         NewLaunch("u.1", []byte("pod"), nil),
		"another pod":     NewLaunch("u.1", []byte(`{"metadata":{"namespace":"n","name":"p","uid":"v"}}`), nil),
		"no name":         NewLaunch("u.1", []byte(`{"metadata":{"namespace":"n","uid":"u"}}`), nil),
	} {
		if launch.Problem == "" {
			t.Errorf("%s: %+v has no problem", name, launch)
		}
	}
}
