package controlplane

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/statedir"
)

// commitsAs are the Commits of the namespace default as somebody sees them.
func commitsAs(t *testing.T, config *rest.Config) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(commit.Resource).Namespace(metav1.NamespaceDefault)
}

// committedPod is a pod to which the scheduler gave an address.
func committedPod(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) *corev1.Pod {
	t.Helper()
	pod, err := admin.CoreV1().Pods(metav1.NamespaceDefault).Create(t.Context(), annotated("committed", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", dir.SchedulerKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"198.51.100.1"}}}`, api.AnnotationIPAssigned)
	_, err = clientOf(t, config).CoreV1().Pods(metav1.NamespaceDefault).Patch(t.Context(), pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func newCommit(t *testing.T, commits dynamic.ResourceInterface, name string, spec commit.Spec) error {
	t.Helper()
	object, err := commit.Commit{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault}, Spec: spec}.Object()
	if err != nil {
		t.Fatal(err)
	}
	_, err = commits.Create(t.Context(), object, metav1.CreateOptions{})
	return err
}

// testCommits: nodes write the status of their own Commits, and who asks for an image has the right to the pod's files. The address
// of a committed pod comes to etcd.
func testCommits(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	pod := committedPod(t, dir, admin)
	all := commitsAs(t, adminConfig(t, dir))
	spec := commit.Spec{NodeName: "n1", PodName: pod.Name, PodUID: pod.UID, Container: "main", Image: "r.example/shop-web-198.51.100.1:monday"}
	elsewhere := spec
	elsewhere.NodeName = "n2"
	unnamed := spec
	unnamed.Image = "r.example/web:monday"
	for name, s := range map[string]commit.Spec{"own": spec, "elsewhere": elsewhere, "unnamed": unnamed} {
		eventually(t, func(context.Context) string { return problemOf(newCommit(t, all, name, s)) }) // the API has to be served first
	}
	if err := newCommit(t, all, "empty", commit.Spec{}); err == nil {
		t.Error("a Commit without a pod is accepted")
	}
	askers(t, dir, admin, spec)
	node := commitsAs(t, configAs(t, dir, "system:node:n1", "system:nodes"))
	write := func(as dynamic.ResourceInterface, name, patch string, subresource ...string) error {
		_, err := as.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresource...)
		return err
	}
	list, err := node.List(t.Context(), metav1.ListOptions{FieldSelector: commit.FieldNodeName + "=n1"})
	if err != nil || len(list.Items) != 3 { // that of the trusted user, too
		t.Errorf("the node selects %d Commits, %v", len(list.Items), err)
	}
	accepted(t, "its own status", write(node, "own", `{"status":{"phase":"Running"}}`, "status"))
	refused(t, "the status of another node's", write(node, "elsewhere", `{"status":{"phase":"Running"}}`, "status"), "a node may only write the status of Commits on itself")
	refused(t, "an address", write(node, "own", `{"status":{"address":"192.0.2.1"}}`, "status"), "only the control plane may write the address")
	refused(t, "a label", write(node, "own", `{"metadata":{"labels":{"a":"b"}}}`), "cannot patch resource")
	refused(t, "a deletion", node.Delete(t.Context(), "own", metav1.DeleteOptions{}), "cannot delete resource")
	if err := write(all, "own", `{"spec":{"nodeName":"n2"}}`); err == nil || !strings.Contains(err.Error(), "cannot be changed") {
		t.Errorf("another node is written to the spec: %v", err)
	}
	for _, name := range []string{"own", "unnamed"} {
		accepted(t, "success", write(node, name, `{"status":{"phase":"Succeeded","digest":"sha256:x"}}`, "status"))
	}
	if err := write(node, "own", `{"status":{"phase":"Running"}}`, "status"); err == nil || !strings.Contains(err.Error(), "has ended stays so") {
		t.Errorf("a Commit that has ended begins again: %v", err)
	}
	recordedAddress(t, dir, all)
}

// askers are users who may create Commits, with and without the rights to what they would get.
func askers(t *testing.T, dir statedir.Dir, admin kubernetes.Interface, spec commit.Spec) {
	t.Helper()
	role := func(user string, rules ...rbacv1.PolicyRule) dynamic.ResourceInterface {
		meta := metav1.ObjectMeta{Name: user, Namespace: metav1.NamespaceDefault}
		rules = append(rules, rule(commit.Kind.Group, []string{"commits"}, "create"))
		_, err := admin.RbacV1().Roles(metav1.NamespaceDefault).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
		if err == nil {
			_, err = admin.RbacV1().RoleBindings(metav1.NamespaceDefault).Create(t.Context(), &rbacv1.RoleBinding{
				ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
			}, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		return commitsAs(t, configAs(t, dir, user))
	}
	without, with := role("nosy"), role("trusted", rule("", []string{"pods/exec"}, "create"))
	eventually(t, func(context.Context) string { // the authorizer has to see the roles first
		if err := newCommit(t, without, "nosy", spec); err == nil || !strings.Contains(err.Error(), "needs the right to create pods/exec") {
			return fmt.Sprintf("without a right to the files: %v", err)
		}
		return ""
	})
	eventually(t, func(context.Context) string { return problemOf(newCommit(t, with, "trusted", spec)) })
	spec.PushSecret = "some"
	refused(t, "another one's Secret", newCommit(t, with, "secret", spec), "needs the right to get it")
}

// recordedAddress waits for the address of the pod, which is the scheduler's word and goes to the image that is named after it.
func recordedAddress(t *testing.T, dir statedir.Dir, all dynamic.ResourceInterface) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		object, err := all.Get(ctx, "own", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		c, err := commit.Read(object)
		if err != nil || c.Status.Address != "198.51.100.1" {
			return fmt.Sprintf("the status is %+v, %v", c.Status, err)
		}
		return ""
	})
	access, err := dir.Etcd()
	if err != nil {
		t.Fatal(err)
	}
	client, err := etcd.Dial(access)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	r, err := client.Get(t.Context(), commit.KeyPrefix, clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Key) != "/commiter/ips/shop-web-198.51.100.1:monday" || string(r.Kvs[0].Value) != "198.51.100.1" {
		t.Errorf("etcd has %v, %v", r.Kvs, err)
	}
}
