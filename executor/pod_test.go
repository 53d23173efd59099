package executor

import (
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code, signal int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Signal: signal, Reason: reason, Message: message}}
}

var runs = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}

// one is the status of a pod with one container, which is not ready.
func one(state corev1.ContainerState) corev1.PodStatus {
	return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Image: "web:1", State: state}}}
}

// after is the same with a container that was started again three times.
func after(state, last corev1.ContainerState) corev1.PodStatus {
	status := one(state)
	status.ContainerStatuses[0].LastTerminationState, status.ContainerStatuses[0].RestartCount = last, 3
	return status
}

func TestFailureIsToldInWordsThatHelp(t *testing.T) {
	for name, test := range map[string]struct {
		status corev1.PodStatus
		cause  Cause
		want   string
	}{
		"evicted": {corev1.PodStatus{Reason: "Evicted", Message: "The node was low on resource: memory."}, Displaced,
			"Evicted: The node was low on resource: memory."},
		"deadline": {corev1.PodStatus{Reason: "DeadlineExceeded"}, TooLong, "DeadlineExceeded"},
		"image": {one(waiting("ImagePullBackOff", "no such host")), NotLaunched,
			"container main: cannot pull image web:1: no such host"},
		"never ran": {one(waiting("CreateContainerConfigError", `secret "s" not found`)), NotLaunched,
			`container main: it cannot be configured: secret "s" not found`},
		"memory":    {one(ended(137, 0, "OOMKilled", "")), OutOfMemory, "container main was killed because it used more memory than its limit of 64Mi"},
		"signal":    {one(ended(137, 9, "Error", "")), NoCause, "container main was killed by SIGKILL"},
		"shell":     {one(ended(143, 0, "Error", "")), NoCause, "container main was killed by SIGTERM"},
		"exit code": {one(ended(2, 0, "Error", "usage: web PORT")), NoCause, "container main exited with code 2: usage: web PORT"},
		"program": {one(ended(127, 0, "ContainerCannotRun", "exec: no such file")), NotLaunched,
			"container main could not be started: exec: no such file"},
		"unseen":    {one(ended(137, 0, "ContainerStatusUnknown", "")), NoCause, "container main is gone, and its exit code is unknown"},
		"no reason": {corev1.PodStatus{}, NoCause, "the pod failed without a reason"},
		"all good":  {one(ended(0, 0, "Completed", "")), NoCause, "the pod failed without a reason"},
		"init and app": {corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", State: ended(1, 0, "Error", "")}},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "main", State: ended(3, 0, "Error", "")}},
		}, NoCause, "container init exited with code 1; container main exited with code 3"},
	} {
		t.Run(name, func(t *testing.T) {
			test.status.Phase = corev1.PodFailed
			got := NewPod(&corev1.Pod{Spec: limited(), Status: test.status}).Trouble
			if got.Message != test.want || got.Cause != test.cause {
				t.Errorf("got  %s (%s)\nwant %s (%s)", got.Message, got.Cause, test.want, test.cause)
			}
		})
	}
}

// limited is a pod whose container may use 64 MB.
func limited() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}}}}}
}

func TestWhatKeepsAPodFromRunningIsTold(t *testing.T) {
	ready := one(runs)
	ready.ContainerStatuses[0].Ready = true
	crashed := ended(1, 0, "Error", "")
	probed := func(how func(*corev1.Container)) corev1.PodSpec {
		spec := limited()
		how(&spec.Containers[0])
		return spec
	}
	liveness := probed(func(c *corev1.Container) { c.LivenessProbe = &corev1.Probe{} })
	startup := probed(func(c *corev1.Container) { c.StartupProbe = &corev1.Probe{} })
	readiness := probed(func(c *corev1.Container) { c.ReadinessProbe = &corev1.Probe{} })
	for name, test := range map[string]struct {
		spec       corev1.PodSpec
		status     corev1.PodStatus
		kind, want string
	}{
		"it is being made":  {limited(), one(waiting("ContainerCreating", "")), "", ""},
		"it is ready":       {limited(), ready, "", ""},
		"it has just begun": {limited(), one(runs), "", ""},
		"pull failed":       {limited(), one(waiting("ErrImagePull", "no such host")), "main image", "container main: cannot pull image web:1: no such host"},
		"pull is put off":   {limited(), one(waiting("ImagePullBackOff", "Back-off")), "main image", "container main: cannot pull image web:1: Back-off"},
		"name":              {limited(), one(waiting("InvalidImageName", "")), "main image", "container main: invalid image name web:1"},
		"never pulled": {limited(), one(waiting("ErrImageNeverPull", "")), "main image",
			"container main: image web:1 is not on the node, and its pull policy is Never"},
		"no ConfigMap": {limited(), one(waiting("CreateContainerConfigError", `configmap "c" not found`)), "main configuration",
			`container main: it cannot be configured: configmap "c" not found`},
		"refused": {limited(), one(waiting("CreateContainerError", "no such device")), "main start",
			"container main: it cannot be started: CreateContainerError: no such device"},
		"crash loop": {limited(), after(waiting("CrashLoopBackOff", "back-off 40s"), crashed), "main restarts",
			"container main exited with code 1; restarting it (restart count 3)"},
		"memory, again": {liveness, after(runs, ended(137, 0, "OOMKilled", "")), "main restarts",
			"container main was killed because it used more memory than its limit of 64Mi; restarting it (restart count 3)"},
		"liveness": {liveness, after(runs, ended(137, 0, "Error", "")), "main restarts",
			"container main was killed by SIGKILL; restarting it (restart count 3); if its liveness probe failed, kubectl describe pod shows it"},
		"startup": {startup, after(runs, ended(0, 0, "Completed", "")), "main restarts",
			"container main exited with code 0; restarting it (restart count 3); if its startup probe failed, kubectl describe pod shows it"},
		"not started": {startup, one(runs), "main startup", "container main: its startup probe has not succeeded yet"},
		"not ready":   {readiness, one(runs), "main readiness", "container main: its readiness probe fails"},
		"init": {corev1.PodSpec{}, corev1.PodStatus{
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", RestartCount: 1, State: crashed}},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "main", State: waiting("PodInitializing", "")}},
		}, "init restarts", "container init exited with code 1; restarting it (restart count 1)"},
	} {
		t.Run(name, func(t *testing.T) {
			test.status.Phase = corev1.PodRunning
			got := NewPod(&corev1.Pod{Spec: test.spec, Status: test.status}).Trouble
			if got.Kind != test.kind || got.Message != test.want {
				t.Errorf("got  %q %s\nwant %q %s", got.Kind, got.Message, test.kind, test.want)
			}
		})
	}
}

func TestMessageForMesosIsBounded(t *testing.T) {
	got := NewPod(&corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Message: strings.Repeat("ü", 5000)}}).Trouble.Message
	if len(got) > maxMessage+len("…") || !utf8.ValidString(got) || !strings.HasSuffix(got, "ü…") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestPodIsSummarised(t *testing.T) {
	now := metav1.Now()
	got := NewPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u", DeletionTimestamp: &now,
			Annotations: map[string]string{api.AnnotationTaskID: "u.2"}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue},
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler", Message: "making room"},
		}},
	})
	want := Pod{
		Key: api.PodKey{Namespace: "default", Name: "web"}, UID: "u", Task: "u.2", Phase: corev1.PodRunning, Deleting: true,
		Ready: true, Disruption: "PreemptionByScheduler: making room",
	}
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
