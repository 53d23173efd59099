package controlplane

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/api/statedir"
)

// testNodeSlices has the scheduler write slices, nodes read them, and others try to write some.
func testNodeSlices(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	of := func(client kubernetes.Interface) func(string) error {
		slices := client.CoreV1().ConfigMaps(nodeslices.Namespace)
		return func(name string) error {
			_, err := slices.Create(t.Context(), nodeslices.Object(name, "{}\n"), metav1.CreateOptions{})
			return err
		}
	}
	scheduler, node, owner := schedulerClient(t, dir), asNode(t, dir, "n1"), ownerOf(t, dir, admin, nodeslices.Namespace)
	accepted(t, "the scheduler makes a slice", of(scheduler)("nodes-0"))
	_, err := scheduler.CoreV1().ConfigMaps(nodeslices.Namespace).Update(t.Context(), nodeslices.Object("nodes-0", ""), metav1.UpdateOptions{})
	accepted(t, "the scheduler changes a slice", err)
	list, err := node.CoreV1().ConfigMaps(nodeslices.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: nodeslices.Selector})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("a node sees %d slices: %v", len(list.Items), err)
	}
	refused(t, "a node makes a slice", of(node)("nodes-1"), "cannot create")
	refused(t, "the scheduler makes a ConfigMap elsewhere", createConfigMap(t, scheduler, "default"), "cannot create")
	const only = "the slices of nodes may only be written by the scheduler"
	for who, client := range map[string]kubernetes.Interface{"the administrator": admin, "who owns the namespace": owner} {
		refused(t, who+" makes a slice", of(client)("nodes-1"), only)
		for attack, patch := range map[string]string{
			" changes a slice": `{"data":{"nodes":"{\"name\":\"evil\"}\n"}}`, " hides a slice": `{"metadata":{"labels":{"` + api.LabelNodeSlices + `":null}}}`,
		} {
			_, err := client.CoreV1().ConfigMaps(nodeslices.Namespace).Patch(t.Context(), "nodes-0", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			refused(t, who+attack, err, only)
		}
		accepted(t, who+" makes another ConfigMap", createConfigMap(t, client, nodeslices.Namespace))
	}
	eventually(t, func(ctx context.Context) string { // a stock controller puts it everywhere
		_, err := admin.CoreV1().ConfigMaps(nodeslices.Namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return problemOf(err)
	})
	accepted(t, "the administrator deletes a slice", admin.CoreV1().ConfigMaps(nodeslices.Namespace).Delete(t.Context(), "nodes-0", metav1.DeleteOptions{}))
}

func createConfigMap(t *testing.T, client kubernetes.Interface, namespace string) error {
	t.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "of-others-"}}
	_, err := client.CoreV1().ConfigMaps(namespace).Create(t.Context(), object, metav1.CreateOptions{})
	return err
}

// ownerOf is a user that may do everything in a namespace, and nothing elsewhere.
func ownerOf(t *testing.T, dir statedir.Dir, admin kubernetes.Interface, namespace string) kubernetes.Interface {
	t.Helper()
	const name = "owner"
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
	}
	if _, err := admin.RbacV1().RoleBindings(namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	owner := as(t, dir, name)
	eventually(t, func(context.Context) string { return problemOf(createConfigMap(t, owner, namespace)) }) // the authorizer has seen the binding
	return owner
}
