package commiter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
)

// defaultContainer is kubectl's annotation (https://kubernetes.io/docs/reference/labels-annotations-taints/#kubectl-kubernetes-io-default-container).
const defaultContainer = "kubectl.kubernetes.io/default-container"

// poll is how often the cluster is asked while a step waits for it.
const poll = 300 * time.Millisecond

// wish is a container that is to be committed.
type wish struct {
	pod              *corev1.Pod
	container, image string
}

func (r *run) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	pod, err := r.Kubernetes.CoreV1().Pods(r.namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no pod %s in namespace %s", name, r.namespace)
	case err != nil:
		return nil, fmt.Errorf("cannot read pod %s: %w", name, err)
	case pod.Spec.NodeName == "" || pod.Status.Phase != corev1.PodRunning:
		return nil, fmt.Errorf("cannot commit pod %s: it is %s, and only a running pod has a container to commit", name, pod.Status.Phase)
	}
	return pod, nil
}

// containerOf returns the container of a pod that is meant.
func containerOf(pod *corev1.Pod, given string) (string, error) {
	if given == "" {
		given = pod.Annotations[defaultContainer]
	}
	if given == "" && len(pod.Spec.Containers) == 1 {
		given = pod.Spec.Containers[0].Name
	}
	var names []string
	for _, c := range pod.Spec.Containers {
		if c.Name == given {
			return given, nil
		}
		names = append(names, c.Name)
	}
	if given == "" {
		return "", fmt.Errorf("pod %s has several containers: choose one with --container: %s", pod.Name, strings.Join(names, ", "))
	}
	return "", fmt.Errorf("pod %s has no container %s: it has %s", pod.Name, given, strings.Join(names, ", "))
}

func (r *run) commits() dynamic.ResourceInterface {
	return r.Objects.Resource(commit.Resource).Namespace(r.namespace)
}

// commit makes the images, each on its pod's node, and waits for them; with addresses, also until those are in etcd. It goes on with
// the Commits of an earlier run.
func (r *run) commit(ctx context.Context, wishes []wish, addresses bool) (made []commit.Commit, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("the images are not there after %s: call it again to wait on; kubectl get commits says what they wait for", r.timeout))
	defer cancel()
	for _, w := range wishes {
		c, err := r.ensure(ctx, w)
		if err != nil {
			return nil, err
		}
		r.say("committing container %s of pod/%s on node %s to %s", w.container, w.pod.Name, w.pod.Spec.NodeName, w.image)
		if err := r.grant(ctx, c); err != nil {
			return nil, err
		}
		made = append(made, c)
	}
	for i := range made {
		if made[i], err = r.await(ctx, made[i], addresses); err != nil {
			return nil, err
		}
		if err := r.revoke(ctx, made[i]); err != nil {
			return nil, err
		}
		r.say("pushed %s@%s: %s", made[i].Spec.Image, made[i].Status.Digest, made[i].Status.Message)
	}
	return made, nil
}

// ensure returns the Commit of a wish: that of an earlier run which nobody has taken note of, or a new one.
func (r *run) ensure(ctx context.Context, w wish) (c commit.Commit, err error) {
	spec := commit.Spec{
		NodeName: w.pod.Spec.NodeName, PodName: w.pod.Name, PodUID: w.pod.UID, Container: w.container, Image: w.image, PushSecret: r.pushSecret,
	}
	name := commit.Name(w.pod.Name, w.container)
	for {
		object, err := r.commits().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return r.create(ctx, name, spec)
		}
		if err != nil {
			return c, fmt.Errorf("cannot read Commit %s: %w", name, err)
		}
		if c, err = commit.Read(object); err != nil {
			return c, err
		}
		switch {
		case c.DeletionTimestamp != nil:
		case !c.Status.Phase.Ended() && c.Spec != spec:
			return c, fmt.Errorf("the Commit %s makes image %s of this container now: wait for it, or delete it: km kubectl delete commit %[1]s -n %[3]s", name, c.Spec.Image, r.namespace)
		case !c.Status.Phase.Ended() || c.Spec == spec && c.Status.Phase == commit.Succeeded && c.Annotations[commit.AnnotationTaken] == "":
			return c, nil
		default:
			err := r.commits().Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &c.UID}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return c, fmt.Errorf("cannot delete the last Commit of the container, %s: %w", name, err)
			}
		}
		if err := pause(ctx); err != nil {
			return c, err
		}
	}
}

func (r *run) create(ctx context.Context, name string, spec commit.Spec) (c commit.Commit, err error) {
	object, err := commit.Commit{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: r.namespace, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Pod", Name: spec.PodName, UID: spec.PodUID}, // it goes with the pod
		}},
		Spec: spec,
	}.Object()
	if err != nil {
		return c, err
	}
	object, err = r.commits().Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) {
		return c, errors.New("the control plane has no API of Commits: upgrade it")
	}
	if err != nil {
		return c, fmt.Errorf("cannot create Commit %s: %w", name, err)
	}
	return commit.Read(object)
}

// await waits until a Commit has ended well, and tells what it waits for.
func (r *run) await(ctx context.Context, c commit.Commit, address bool) (commit.Commit, error) {
	told := ""
	for {
		object, err := r.commits().Get(ctx, c.Name, metav1.GetOptions{})
		if err == nil && object.GetUID() != c.UID || apierrors.IsNotFound(err) {
			return c, fmt.Errorf("the Commit %s was deleted, or its pod %s is gone", c.Name, c.Spec.PodName)
		}
		if err == nil {
			if c, err = commit.Read(object); err != nil {
				return c, err
			}
		}
		message := ""
		switch {
		case err != nil: // such as a control plane that restarts
			message = err.Error()
		case c.Status.Phase == commit.Failed:
			return c, fmt.Errorf("cannot commit pod %s: %s", c.Spec.PodName, c.Status.Message)
		case c.Status.Phase == commit.Succeeded && (!address || c.Status.Address != ""):
			return c, nil
		case c.Status.Phase == commit.Succeeded:
			message = "waiting for the control plane to write the address to etcd"
		case c.Status.Phase == "":
			message = "waiting for the minion of node " + c.Spec.NodeName
		default:
			message = c.Status.Message
		}
		if message != told {
			r.say("pod/%s: %s", c.Spec.PodName, message)
			told = message
		}
		if err := pause(ctx); err != nil {
			return c, err
		}
	}
}

// take notes in the Commits that their images are known: the next run makes new ones.
func (r *run) take(ctx context.Context, made []commit.Commit) error {
	patch := []byte(`{"metadata":{"annotations":{"` + commit.AnnotationTaken + `":"true"}}}`)
	for _, c := range made {
		_, err := r.commits().Patch(ctx, c.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("cannot annotate Commit %s: %w", c.Name, err)
		}
	}
	return nil
}

// grantName is the name of the Role by which a node may read the Secret of a Commit.
func grantName(c commit.Commit) string { return "k8sm-commit:" + string(c.UID) }

// grant lets the node read the push Secret, which it may not unless a pod of it uses it. The Role goes with the Commit at the latest.
func (r *run) grant(ctx context.Context, c commit.Commit) error {
	if c.Spec.PushSecret == "" || c.Status.Phase.Ended() {
		return nil
	}
	meta := metav1.ObjectMeta{Name: grantName(c), Namespace: r.namespace, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: commit.Kind.GroupVersion().String(), Kind: commit.Kind.Kind, Name: c.Name, UID: c.UID}}}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{c.Spec.PushSecret}, Verbs: []string{"get"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta,
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: api.NodeUserPrefix + c.Spec.NodeName}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}}
	_, err := r.Kubernetes.RbacV1().Roles(r.namespace).Create(ctx, role, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) {
		_, err = r.Kubernetes.RbacV1().RoleBindings(r.namespace).Create(ctx, binding, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot let node %s read Secret %s: %w", c.Spec.NodeName, c.Spec.PushSecret, err)
	}
	return nil
}

// revoke undoes grant.
func (r *run) revoke(ctx context.Context, c commit.Commit) error {
	if c.Spec.PushSecret == "" {
		return nil
	}
	for _, err := range []error{
		r.Kubernetes.RbacV1().RoleBindings(r.namespace).Delete(ctx, grantName(c), metav1.DeleteOptions{}),
		r.Kubernetes.RbacV1().Roles(r.namespace).Delete(ctx, grantName(c), metav1.DeleteOptions{}),
	} {
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("cannot take the right to read Secret %s from node %s: %w", c.Spec.PushSecret, c.Spec.NodeName, err)
		}
	}
	return nil
}

// pause waits until it is time to ask again, or fails with why ctx has ended.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(poll):
		return nil
	}
}

// until asks again until done says so. Errors of an API server that restarts do not end it.
func until(ctx context.Context, limit time.Duration, what string, done func(context.Context) (bool, error)) error {
	last := fmt.Errorf("not within %s", limit)
	err := wait.PollUntilContextTimeout(ctx, poll, limit, true, func(ctx context.Context) (bool, error) {
		ok, err := done(ctx)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return ok && err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w; call it again to go on", what, last)
	}
	return nil
}
