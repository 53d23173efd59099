package commiter

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/commit"
)

// takeoverLimit is how long the control plane may take for one step of a take-over.
const takeoverLimit = 3 * time.Minute

// takeOver makes the pod_rcs the controllers of the pods. The old controller goes first and leaves its pods: a controller adopts no pod
// that has another one, and would start a second pod.
func (r *run) takeOver(ctx context.Context, rc *corev1.ReplicationController, members []member) error {
	var names []string
	for _, m := range members {
		names = append(names, m.podRC.Name)
	}
	if err := r.saveOld(ctx, rc, commit.AnnotationTakeover, strings.Join(names, ",")); err != nil {
		return err
	}
	if err := r.orphan(ctx, rc); err != nil {
		return err
	}
	return r.goOn(ctx, rc.Name)
}

// orphan deletes a controller that is still as it was checked, and leaves its pods.
func (r *run) orphan(ctx context.Context, rc *corev1.ReplicationController) error {
	orphans := metav1.DeletePropagationOrphan
	for {
		now, err := r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Get(ctx, rc.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read ReplicationController %s: %w", rc.Name, err)
		}
		if now.UID != rc.UID || now.Generation != rc.Generation || now.Status.Replicas != *rc.Spec.Replicas {
			return fmt.Errorf("ReplicationController %s has changed while its pods were committed: call it again", rc.Name)
		}
		err = r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Delete(ctx, rc.Name, metav1.DeleteOptions{
			PropagationPolicy: &orphans, Preconditions: &metav1.Preconditions{UID: &now.UID, ResourceVersion: &now.ResourceVersion}})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("cannot delete ReplicationController %s: %w", rc.Name, err)
		}
		if err := pause(ctx); err != nil { // its status has changed; look again
			return err
		}
	}
}

// goOn finishes the take-over of a controller that is deleted, or being deleted.
func (r *run) goOn(ctx context.Context, name string) error {
	old, err := r.readRC(r.savedFile(name))
	if err != nil {
		return err
	}
	if old == nil || !r.takeover {
		return fmt.Errorf("there is no ReplicationController %s in namespace %s; if its take-over was interrupted, call it again with --takeover and the same --dir", name, r.namespace)
	}
	if by := old.Annotations[commit.AnnotationTakenOver]; by != "" {
		r.say("rc/%s was taken over by rc/%s: nothing to do", name, strings.ReplaceAll(by, ",", ", rc/"))
		return nil
	}
	list := old.Annotations[commit.AnnotationTakeover]
	var podRCs []*corev1.ReplicationController
	for podRC := range strings.SplitSeq(list, ",") {
		rc, err := r.readRC(r.file(podRC))
		if err != nil {
			return err
		}
		if rc == nil {
			return fmt.Errorf("cannot go on with the take-over of rc/%s: %s is missing; copy it from where it was uploaded", name, r.file(podRC))
		}
		rc.Namespace = r.namespace
		podRCs = append(podRCs, rc)
	}
	if err := r.awaitOrphans(ctx, old); err != nil {
		return err
	}
	r.say("deleted rc/%s, and kept its pods", name)
	if err := r.adopt(ctx, podRCs); err != nil {
		if !lasting(err) {
			return err
		}
		if undoErr := r.undo(ctx, old, podRCs); undoErr != nil {
			return fmt.Errorf("%w; %w", err, undoErr)
		}
		return err
	}
	return r.saveOld(ctx, old, commit.AnnotationTakenOver, list)
}

// awaitOrphans waits until the old controller is gone, and its pods have none, or one of the pod_rcs.
func (r *run) awaitOrphans(ctx context.Context, old *corev1.ReplicationController) error {
	return until(ctx, takeoverLimit, "the pods of rc/"+old.Name+" still have it as their controller", func(ctx context.Context) (bool, error) {
		_, err := r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Get(ctx, old.Name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return false, err
		}
		pods, err := r.pods(ctx, old.Spec.Selector)
		for i := range pods {
			if owner := metav1.GetControllerOf(&pods[i]); owner != nil && owner.Name == old.Name {
				return false, nil
			}
		}
		return true, err
	})
}

// adopt creates the pod_rcs and waits until each has its pod.
func (r *run) adopt(ctx context.Context, podRCs []*corev1.ReplicationController) error {
	before := make([][]corev1.Pod, len(podRCs))
	for i, podRC := range podRCs {
		var err error
		if before[i], err = r.pods(ctx, podRC.Spec.Selector); err != nil {
			return err
		}
		if podRCs[i], err = r.createPodRC(ctx, podRC); err != nil {
			return err
		}
		r.say("created rc/%s", podRC.Name)
	}
	for i, podRC := range podRCs {
		if err := r.awaitAdoption(ctx, podRC, before[i]); err != nil {
			return err
		}
	}
	return nil
}

// createPodRC creates a pod_rc, unless an earlier run has.
func (r *run) createPodRC(ctx context.Context, podRC *corev1.ReplicationController) (*corev1.ReplicationController, error) {
	created, err := r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Create(ctx, podRC, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		created, err = r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Get(ctx, podRC.Name, metav1.GetOptions{})
	}
	if err != nil {
		return podRC, fmt.Errorf("cannot create ReplicationController %s: %w", podRC.Name, err)
	}
	if !maps.Equal(created.Spec.Selector, podRC.Spec.Selector) {
		return podRC, fmt.Errorf("ReplicationController %s is another one, with another selector: delete it and call this again", podRC.Name)
	}
	return created, nil
}

// awaitAdoption waits until a pod_rc has one pod and no second one.
func (r *run) awaitAdoption(ctx context.Context, podRC *corev1.ReplicationController, before []corev1.Pod) error {
	var pod corev1.Pod
	err := until(ctx, takeoverLimit, "rc/"+podRC.Name+" has not adopted its pod", func(ctx context.Context) (bool, error) {
		pods, err := r.pods(ctx, podRC.Spec.Selector)
		if err != nil || len(pods) != 1 || !metav1.IsControlledBy(&pods[0], podRC) {
			return false, err
		}
		pod = pods[0]
		return true, nil
	})
	if err != nil {
		return err
	}
	if len(before) > 0 && before[0].UID != pod.UID {
		r.say("rc/%s has pod/%s: the pod before it, %s, has ended meanwhile", podRC.Name, pod.Name, before[0].Name)
		return nil
	}
	r.say("rc/%s has taken pod/%s over", podRC.Name, pod.Name)
	return nil
}

// lasting reports whether the API server would answer the same again.
func lasting(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err)
}

// undo makes the old controller again, which adopts its pods.
func (r *run) undo(ctx context.Context, old *corev1.ReplicationController, podRCs []*corev1.ReplicationController) error {
	orphans := metav1.DeletePropagationOrphan
	for _, podRC := range podRCs {
		err := r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Delete(ctx, podRC.Name, metav1.DeleteOptions{PropagationPolicy: &orphans})
		if err == nil {
			err = r.awaitOrphans(ctx, podRC)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("cannot undo the take-over: rc/%s: %w", podRC.Name, err)
		}
	}
	again := commit.Saved(old)
	again.Namespace = r.namespace
	delete(again.Annotations, commit.AnnotationTakeover)
	// A quota may count the pod_rcs a little longer.
	err := until(ctx, takeoverLimit, "cannot make rc/"+old.Name+" again from "+r.savedFile(old.Name), func(ctx context.Context) (bool, error) {
		_, err := r.Kubernetes.CoreV1().ReplicationControllers(r.namespace).Create(ctx, again, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
		return true, err
	})
	if err != nil {
		return err
	}
	if err := os.Remove(r.savedFile(old.Name)); err != nil { // or the next run without this controller would take over again
		return fmt.Errorf("cannot undo the take-over wholly: %w", err)
	}
	r.say("made rc/%s again: its pods are as they were", old.Name)
	return nil
}
