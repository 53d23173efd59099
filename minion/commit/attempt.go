package commit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubetypes "k8s.io/kubelet/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
)

// attempt carries one Commit out, from the beginning.
type attempt struct {
	Config
	commit commit.Commit
	log    logrus.FieldLogger
	stop   context.CancelFunc
	ended  chan error // gets the result, once

	pod       *corev1.Pod
	container container.InspectResponse
	upper     string // directory of the container's changes; empty if only Docker Engine reads them
}

// run makes and pushes the image, removes what that left on this machine, and reports success. A finalError does not pass by itself.
func (a *attempt) run(ctx context.Context) error {
	digest, paused, err := a.make(ctx)
	if noRoom(err) {
		err = final("no room on node %s: %w; free space there, then commit again", a.Node, err)
	}
	switch left := a.tidy(context.WithoutCancel(ctx)); {
	case err != nil && left != nil:
		return fmt.Errorf("%w; %w", err, left)
	case err != nil || left != nil:
		return cmp.Or(err, left)
	}
	a.log.WithFields(logrus.Fields{"image": a.commit.Spec.Image, "digest": digest, "paused": paused}).Info("committed a container")
	message := fmt.Sprintf("the container was paused for %s", paused.Round(10*time.Millisecond))
	if out := outside(a.pod, a.commit.Spec.Container, a.container.Mounts); len(out) > 0 {
		message += "; not in the image, because they are volumes: " + strings.Join(out, ", ")
	}
	return a.report(ctx, commit.Status{Phase: commit.Succeeded, Digest: digest, Message: message})
}

// make makes the image and pushes it. paused is how long the container was paused at most.
func (a *attempt) make(ctx context.Context) (digest string, paused time.Duration, err error) {
	if err := a.find(ctx); err != nil {
		return "", 0, err
	}
	if err := a.report(ctx, commit.Status{Phase: commit.Running, Message: "making the image"}); err != nil {
		return "", 0, err
	}
	credentials, err := a.credentials(ctx)
	if err != nil {
		return "", 0, err
	}
	to, err := a.destination(ctx, credentials)
	if err != nil {
		return "", 0, err
	}
	if err := a.checkRoom(ctx); err != nil {
		return "", 0, err
	}
	image, paused, err := a.image(ctx, to)
	if err != nil {
		return "", paused, err
	}
	if err := a.report(ctx, commit.Status{Phase: commit.Running, Message: "pushing the image"}); err != nil {
		return "", paused, err
	}
	digest, err = a.push(ctx, to, image)
	return digest, paused, err
}

// find finds the pod and its running container.
func (a *attempt) find(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	spec := a.commit.Spec
	a.pod, err = a.Kubernetes.CoreV1().Pods(a.commit.Namespace).Get(ctx, spec.PodName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && a.pod.UID != spec.PodUID:
		return final("pod %s/%s with the UID %s is gone", a.commit.Namespace, spec.PodName, spec.PodUID)
	case err != nil:
		return fmt.Errorf("cannot read pod %s/%s: %w", a.commit.Namespace, spec.PodName, err)
	case a.pod.Status.Phase == corev1.PodSucceeded || a.pod.Status.Phase == corev1.PodFailed:
		return final("pod %s/%s has ended", a.commit.Namespace, spec.PodName)
	case !slices.ContainsFunc(a.pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == spec.Container }):
		return final("pod %s/%s has no container %s", a.commit.Namespace, spec.PodName, spec.Container)
	}
	list, err := a.Docker.ContainerList(ctx, container.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", api.DockerLabelFramework+"="+a.Cluster), filters.Arg("label", api.DockerLabelNode+"="+a.Node),
		filters.Arg("label", kubetypes.KubernetesPodUIDLabel+"="+string(spec.PodUID)),
		filters.Arg("label", kubetypes.KubernetesContainerNameLabel+"="+spec.Container),
		filters.Arg("status", container.StateRunning), filters.Arg("status", container.StatePaused),
	)})
	if err != nil {
		return fmt.Errorf("cannot list containers: %w", err)
	}
	if len(list) != 1 {
		return fmt.Errorf("container %s of pod %s/%s does not run: there are %d of it", spec.Container, a.commit.Namespace, spec.PodName, len(list))
	}
	a.container, _, err = a.Docker.ContainerInspectWithRaw(ctx, list[0].ID, true)
	if err != nil {
		return fmt.Errorf("cannot inspect container %s: %w", spec.Container, err)
	}
	return nil
}

// outside returns the mounts of the container whose files are in no image, by the names of the pod's volumes. Those that Kubernetes
// itself adds are left out.
func outside(pod *corev1.Pod, name string, mounts []container.MountPoint) (out []string) {
	volumes := map[string]string{}
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if c.Name == name {
				volumes[m.MountPath] = m.Name
			}
		}
	}
	for _, m := range mounts {
		switch volume := volumes[m.Destination]; {
		case m.Destination == "/etc/hosts" || m.Destination == "/etc/resolv.conf" || m.Destination == "/etc/hostname" || m.Destination == corev1.TerminationMessagePathDefault:
		case strings.HasPrefix(m.Destination, "/var/run/secrets/kubernetes.io/serviceaccount"):
		case volume != "":
			out = append(out, fmt.Sprintf("%s (%s)", volume, m.Destination))
		default:
			out = append(out, m.Destination)
		}
	}
	slices.Sort(out)
	return out
}

// tell creates an event on the pod. Without it the Commit's status still says the same.
func (a *attempt) tell(ctx context.Context, status commit.Status) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", a.commit.Spec.PodName, now.UnixNano()), Namespace: a.commit.Namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: a.commit.Namespace, Name: a.commit.Spec.PodName, UID: a.commit.Spec.PodUID},
		Type:           corev1.EventTypeNormal, Reason: "Committed",
		Message: fmt.Sprintf("Container %s is image %s (%s); %s", a.commit.Spec.Container, a.commit.Spec.Image, status.Digest, status.Message),
		Source:  corev1.EventSource{Component: "km-minion", Host: a.Node}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	if status.Phase == commit.Failed {
		event.Type, event.Reason = corev1.EventTypeWarning, "CommitFailed"
		event.Message = fmt.Sprintf("Container %s is not committed to %s: %s", a.commit.Spec.Container, a.commit.Spec.Image, status.Message)
	}
	if _, err := a.Kubernetes.CoreV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		a.log.WithError(err).Debug("cannot create an event for a commit")
	}
}

// noRoom reports whether an error is that of a full disk, here or in Docker Engine.
func noRoom(err error) bool {
	if err == nil || errors.As(err, new(finalError)) || errors.As(err, new(*transport.Error)) { // that is a registry's disk
		return false
	}
	return errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error())
}
