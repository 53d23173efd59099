package executor

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Cause is a kind of failure for which Mesos has a reason.
type Cause int

// The causes. Most failures only have a message.
const (
	NoCause     Cause = iota
	NotLaunched       // a container cannot be started: its image, its configuration
	OutOfMemory       // a container used more memory than its limit
	Displaced         // the pod had to make room: evicted, preempted
	TooLong           // the pod ran longer than its activeDeadlineSeconds
	NoNode            // no pod can run on this machine
)

// String names the cause, for logs.
func (c Cause) String() string {
	return [...]string{"", "not launched", "out of memory", "displaced", "too long", "no node"}[c]
}

// Trouble is what is wrong with a pod, in words that help its author.
type Trouble struct {
	Cause Cause
	// Kind tells one trouble from another. Unlike the message it stays the same while the kubelet retries.
	Kind     string
	Message  string
	restarts bool // a container is being restarted
}

// maxMessage bounds a message to Mesos, in bytes: masters and agents keep it with the task.
const maxMessage = 1024

// troubleOf says what is wrong with a pod; the zero value if nothing is, or if nothing is known yet.
func troubleOf(pod *corev1.Pod) (t Trouble) {
	switch pod.Status.Phase {
	case corev1.PodFailed:
		t = failure(pod)
	case corev1.PodPending, corev1.PodRunning:
		t = hindrance(pod)
	}
	t.Message = truncate(t.Message)
	return t
}

func truncate(message string) string {
	if len(message) > maxMessage {
		return strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return message
}

// displaced are the status reasons of a pod that had to make room.
var displaced = []string{"Evicted", "Preempting", "Preempted"}

// failure says why a pod failed: the kubelet's own reason if it has one (evicted, deadline, rejected on admission), else each
// container that failed.
func failure(pod *corev1.Pod) Trouble {
	status := &pod.Status
	if status.Reason != "" || status.Message != "" {
		t := Trouble{Kind: status.Reason, Message: joinNonEmpty(": ", status.Reason, status.Message)}
		switch {
		case slices.Contains(displaced, status.Reason):
			t.Cause = Displaced
		case status.Reason == "DeadlineExceeded":
			t.Cause = TooLong
		}
		return t
	}
	all := Trouble{Kind: "containers"}
	var problems []string
	for _, c := range containersOf(pod) {
		var one Trouble
		if w := c.status.State.Waiting; w != nil {
			one = c.waiting(w)
		} else if end := c.status.State.Terminated; end != nil && end.ExitCode != 0 {
			one = c.ended(end)
		}
		if one.Message != "" {
			problems = append(problems, one.Message)
			all.Cause = max(all.Cause, one.Cause)
		}
	}
	if len(problems) == 0 {
		problems = []string{"the pod failed without a reason"}
	}
	all.Message = strings.Join(problems, "; ")
	return all
}

// hindrance says why a pod does not run or is not ready: the trouble of its first container that has one.
func hindrance(pod *corev1.Pod) Trouble {
	for _, c := range containersOf(pod) {
		if t := c.hindrance(); t.Message != "" {
			return t
		}
	}
	return Trouble{}
}

// containerView is one container of a pod: its spec and its status.
type containerView struct {
	spec   corev1.Container
	status corev1.ContainerStatus
	init   bool // it must end before the others run
}

func containersOf(pod *corev1.Pod) (views []containerView) {
	specs := map[string]corev1.Container{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			specs[c.Name] = c
		}
	}
	for _, s := range pod.Status.InitContainerStatuses {
		spec := specs[s.Name]
		sidecar := spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
		views = append(views, containerView{spec: spec, status: s, init: !sidecar})
	}
	for _, s := range pod.Status.ContainerStatuses {
		views = append(views, containerView{spec: specs[s.Name], status: s})
	}
	return views
}

func (c containerView) hindrance() Trouble {
	state, last := c.status.State, c.status.LastTerminationState.Terminated
	switch {
	case c.status.Ready:
		return Trouble{}
	case state.Waiting != nil && state.Waiting.Reason != "CrashLoopBackOff":
		return c.waiting(state.Waiting)
	case state.Terminated != nil && c.init && state.Terminated.ExitCode == 0:
		return Trouble{}
	case state.Terminated != nil:
		return c.again(state.Terminated)
	case last != nil:
		return c.again(last)
	case state.Running != nil && !c.init:
		return c.unready()
	}
	return Trouble{}
}

// waiting says why a container does not start. Some reasons for waiting are no trouble.
func (c containerView) waiting(w *corev1.ContainerStateWaiting) Trouble {
	trouble := func(kind, format string, args ...any) Trouble {
		message := fmt.Sprintf("container %s: %s", c.status.Name, fmt.Sprintf(format, args...))
		return Trouble{Cause: NotLaunched, Kind: c.status.Name + " " + kind, Message: joinNonEmpty(": ", message, w.Message)}
	}
	switch w.Reason {
	case "", "ContainerCreating", "PodInitializing":
		return Trouble{}
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable": // the kubelet alternates between the first two
		return trouble("image", "cannot pull image %s", c.status.Image)
	case "ErrImageNeverPull":
		return trouble("image", "image %s is not on the node, and its pull policy is Never", c.status.Image)
	case "InvalidImageName":
		return trouble("image", "invalid image name %s", c.status.Image)
	case "CreateContainerConfigError": // usually a missing ConfigMap or Secret
		return trouble("configuration", "it cannot be configured")
	}
	return trouble("start", "it cannot be started: %s", w.Reason)
}

// again says how a container ended that is restarted.
func (c containerView) again(end *corev1.ContainerStateTerminated) Trouble {
	t := c.ended(end)
	t.Kind, t.restarts = c.status.Name+" restarts", true
	t.Message = fmt.Sprintf("%s; restarting it (restart count %d)", t.Message, c.status.RestartCount)
	if probe := c.restartingProbe(); probe != "" && t.Cause == NoCause && (end.ExitCode == 0 || signalOf(end) != "") {
		t.Message += fmt.Sprintf("; if its %s probe failed, kubectl describe pod shows it", probe)
	}
	return t
}

// restartingProbe names the probe whose failure makes the kubelet restart the container; empty for none.
func (c containerView) restartingProbe() string {
	switch started := c.status.Started; {
	case c.spec.StartupProbe != nil && (started == nil || !*started):
		return "startup"
	case c.spec.LivenessProbe != nil:
		return "liveness"
	}
	return ""
}

// unready says why a running container is not ready.
func (c containerView) unready() Trouble {
	switch started := c.status.Started; {
	case c.spec.StartupProbe != nil && (started == nil || !*started):
		return Trouble{Kind: c.status.Name + " startup", Message: fmt.Sprintf("container %s: its startup probe has not succeeded yet", c.status.Name)}
	case c.spec.ReadinessProbe != nil:
		return Trouble{Kind: c.status.Name + " readiness", Message: fmt.Sprintf("container %s: its readiness probe fails", c.status.Name)}
	}
	return Trouble{}
}

// ended says how a container ended.
func (c containerView) ended(end *corev1.ContainerStateTerminated) Trouble {
	name, signal := c.status.Name, signalOf(end)
	switch {
	case end.Reason == "OOMKilled":
		message := fmt.Sprintf("container %s was killed because it used more memory than its limit", name)
		if limit, ok := c.spec.Resources.Limits[corev1.ResourceMemory]; ok {
			message += " of " + limit.String()
		}
		return Trouble{Cause: OutOfMemory, Message: message}
	case end.Reason == "StartError" || end.Reason == "ContainerCannotRun":
		return Trouble{Cause: NotLaunched, Message: joinNonEmpty(": ", fmt.Sprintf("container %s could not be started", name), end.Message)}
	case end.Reason == "ContainerStatusUnknown":
		return Trouble{Message: fmt.Sprintf("container %s is gone, and its exit code is unknown", name)}
	case signal != "":
		return Trouble{Message: joinNonEmpty(": ", fmt.Sprintf("container %s was killed by %s", name, signal), end.Message)}
	}
	return Trouble{Message: joinNonEmpty(": ", fmt.Sprintf("container %s exited with code %d", name, end.ExitCode), end.Message)}
}

// signalOf names the signal that ended a container, from the runtime or from a shell's exit code; empty if there was none.
func signalOf(end *corev1.ContainerStateTerminated) string {
	const shell = 128
	number := end.Signal
	if number == 0 && end.ExitCode > shell {
		number = end.ExitCode - shell
	}
	return unix.SignalName(syscall.Signal(number))
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
