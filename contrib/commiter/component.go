package commiter

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
)

// member is a pod of the component, with what takes it over.
type member struct {
	pod     *corev1.Pod
	replica commit.Replica
	podRC   *corev1.ReplicationController
}

// component commits the pods of a ReplicationController, and takes them over if that is wanted. Each step may be repeated.
func (r *run) component(ctx context.Context, name string) error {
	rc, err := r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && rc.DeletionTimestamp != nil {
		return r.goOn(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("cannot read ReplicationController %s: %w", name, err)
	}
	members, err := r.preflight(ctx, rc)
	if err != nil {
		return fmt.Errorf("cannot commit ReplicationController %s: %w", name, err)
	}
	r.say("checked: rc/%s has %d pods with addresses", name, len(members))
	if r.dryRun {
		return r.plan(members)
	}
	var wishes []wish
	for _, m := range members {
		wishes = append(wishes, wish{pod: m.pod, container: m.replica.Container, image: m.replica.Image})
	}
	made, err := r.commit(ctx, wishes, true)
	if err != nil {
		return err
	}
	for _, c := range made {
		address, _ := netip.ParseAddr(c.Status.Address)
		r.say("recorded %s = %s", commit.Key(c.Spec.Image, address), c.Status.Address)
	}
	if err := r.write(ctx, members); err != nil {
		return err
	}
	if err := r.label(ctx, members); err != nil {
		return err
	}
	if r.takeover {
		if err := r.takeOver(ctx, rc, members); err != nil {
			return err
		}
	}
	return r.take(ctx, made)
}

// preflight returns the members of the component, or why they cannot be committed now.
func (r *run) preflight(ctx context.Context, rc *corev1.ReplicationController) (members []member, err error) {
	if owner := metav1.GetControllerOf(rc); owner != nil {
		return nil, fmt.Errorf("%s %s owns it, and would make it again", owner.Kind, owner.Name)
	}
	pods, err := r.pods(ctx, rc.Spec.Selector)
	if err != nil {
		return nil, err
	}
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return !metav1.IsControlledBy(&p, rc) })
	if wanted := int(*rc.Spec.Replicas); len(pods) != wanted || wanted == 0 {
		return nil, fmt.Errorf("it has %d of %d pods: wait until it has all, and at least one", len(pods), wanted)
	}
	for i := range pods {
		m, err := r.member(rc, &pods[i])
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", pods[i].Name, err)
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b member) int { return a.replica.Address.Compare(b.replica.Address) })
	if !r.takeover {
		return members, nil
	}
	for _, m := range members { // an error now is better than one when the old controller is gone
		if m.podRC.Name == rc.Name {
			continue
		}
		_, err := r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Create(ctx, m.podRC, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("ReplicationController %s exists, which is to take pod %s over: delete it", m.podRC.Name, m.pod.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("ReplicationController %s could not be created: %w", m.podRC.Name, err)
		}
	}
	return members, nil
}

// pods returns the pods of a selector.
func (r *run) pods(ctx context.Context, selector map[string]string) ([]corev1.Pod, error) {
	list, err := r.Kubernetes.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
	if err != nil {
		return nil, fmt.Errorf("cannot list pods: %w", err)
	}
	return list.Items, nil
}

// member returns a pod with what follows from it, or why it cannot be a member.
func (r *run) member(rc *corev1.ReplicationController, pod *corev1.Pod) (m member, err error) {
	if pod.DeletionTimestamp != nil || !ready(pod) {
		return m, fmt.Errorf("it is not ready: wait until it is")
	}
	address, err := netip.ParseAddr(pod.Annotations[api.AnnotationIPAssigned])
	pool := pod.Annotations[api.AnnotationIPPool]
	if err != nil || pool == "" {
		return m, fmt.Errorf("it has no address of a pool, which it would keep: give the template the annotation %s", api.AnnotationIPPool)
	}
	container, err := containerOf(pod, r.container)
	if err != nil {
		return m, err
	}
	m = member{pod: pod, replica: commit.Replica{Container: container, Image: r.Image(address), Address: address, Pool: pool}}
	m.podRC, err = commit.PodRC(r.PodRC(address), rc, m.replica)
	return m, err
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// plan prints what would be done.
func (r *run) plan(members []member) error {
	for _, m := range members {
		text, err := commit.Marshal(m.podRC)
		if err != nil {
			return err
		}
		r.say("# would commit container %s of pod/%s to %s, and write %s:\n---\n%s", m.replica.Container, m.pod.Name, m.replica.Image, r.file(m.podRC.Name), strings.TrimRight(string(text), "\n"))
	}
	return nil
}

// write writes and uploads the pod_rcs.
func (r *run) write(ctx context.Context, members []member) error {
	for _, m := range members {
		text, err := commit.Marshal(m.podRC)
		if err != nil {
			return err
		}
		if err := writeFile(r.file(m.podRC.Name), text); err != nil {
			return err
		}
		r.say("wrote %s", r.file(m.podRC.Name))
	}
	for _, m := range members {
		if err := r.uploadFile(ctx, r.file(m.podRC.Name)); err != nil {
			return err
		}
	}
	return nil
}

// label labels the pods with their addresses.
func (r *run) label(ctx context.Context, members []member) error {
	for _, m := range members {
		value := commit.Dashed(m.replica.Address)
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q}}}`, m.pod.UID, commit.LabelIP, value)
		if _, err := r.Kubernetes.CoreV1().Pods(r.namespace).Patch(ctx, m.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("cannot label pod %s: %w", m.pod.Name, err)
		}
		r.say("labeled pod/%s %s=%s", m.pod.Name, commit.LabelIP, value)
	}
	return nil
}
