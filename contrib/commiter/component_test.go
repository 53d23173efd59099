package commiter

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
)

// testRC is a ReplicationController of two pods, and its pods.
func testRC() (*corev1.ReplicationController, []*corev1.Pod) {
	two, yes := int32(2), true
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: map[string]string{api.AnnotationIPPool: "office"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
	}
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "rc"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: &two, Selector: map[string]string{"app": "web"}, Template: &template},
	}
	var pods []*corev1.Pod
	for name, ip := range map[string]string{"web-b": "198.51.100.2", "web-a": "198.51.100.1"} {
		pods = append(pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": "web"},
				Annotations:     map[string]string{api.AnnotationIPPool: "office", api.AnnotationIPAssigned: ip},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ReplicationController", Name: "web", UID: "rc", Controller: &yes}},
			},
			Spec:   corev1.PodSpec{NodeName: "n1", Containers: template.Spec.Containers},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		})
	}
	return rc, pods
}

// newRun is a run on a cluster with these objects.
func newRun(t *testing.T, objects ...runtime.Object) (*run, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	return &run{
		Cluster: Cluster{
			Kubernetes: fake.NewClientset(objects...),
			Objects:    dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{commit.Resource: "CommitList"}),
		},
		options: options{
			namespace: "default", timeout: time.Minute, dir: t.TempDir(), takeover: true,
			Component: commit.Component{Registry: "r.example", App: "shop", Name: "web", Tag: "1"},
		},
		out: &out,
	}, &out
}

func TestMembersAreInTheOrderOfTheirAddresses(t *testing.T) {
	rc, pods := testRC()
	r, _ := newRun(t, rc, pods[0], pods[1])
	members, err := r.preflight(t.Context(), rc)
	if err != nil || len(members) != 2 || members[0].pod.Name != "web-a" || members[0].replica.Image != "r.example/shop-web-198.51.100.1:1" || members[0].podRC.Name != "shop-web-198.51.100.1" {
		t.Errorf("got %+v, %v", members, err)
	}
}

func TestComponentThatCannotBeTakenOverIsRefused(t *testing.T) {
	yes := true
	for want, change := range map[string]func(rc *corev1.ReplicationController, pod *corev1.Pod){
		"DeploymentConfig boss owns it": func(rc *corev1.ReplicationController, _ *corev1.Pod) {
			rc.OwnerReferences = []metav1.OwnerReference{{Kind: "DeploymentConfig", Name: "boss", Controller: &yes}}
		},
		"it has 1 of 2 pods": func(_ *corev1.ReplicationController, pod *corev1.Pod) { pod.OwnerReferences = nil },
		"it has 2 of 0 pods": func(rc *corev1.ReplicationController, _ *corev1.Pod) { *rc.Spec.Replicas = 0 },
		"it is not ready":    func(_ *corev1.ReplicationController, pod *corev1.Pod) { pod.Status.Conditions = nil },
		"it has no address of a pool": func(_ *corev1.ReplicationController, pod *corev1.Pod) {
			delete(pod.Annotations, api.AnnotationIPAssigned)
		},
		"choose one with --container:": func(_ *corev1.ReplicationController, pod *corev1.Pod) {
			pod.Spec.Containers = append(pod.Spec.Containers[:1:1], corev1.Container{Name: "side"})
		},
		"its template has no container main": func(rc *corev1.ReplicationController, _ *corev1.Pod) {
			rc.Spec.Template.Spec.Containers = []corev1.Container{{Name: "other"}}
		},
	} {
		rc, pods := testRC()
		change(rc, pods[0])
		r, _ := newRun(t, rc, pods[0], pods[1])
		err := r.component(t.Context(), "web")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if list, _ := r.commits().List(t.Context(), metav1.ListOptions{}); len(list.Items) > 0 {
			t.Errorf("%q: a Commit was made", want)
		}
	}
}

func TestControllerInTheWayIsFoundBeforeAnythingIsDone(t *testing.T) {
	rc, pods := testRC()
	r, _ := newRun(t, rc, pods[0], pods[1], &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "shop-web-198.51.100.2", Namespace: "default"}})
	if err := r.component(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "shop-web-198.51.100.2 exists, which is to take pod web-b over: delete it") {
		t.Errorf("got %v", err)
	}
	r, _ = newRun(t, rc, pods[0], pods[1])
	r.Kubernetes.(*fake.Clientset).PrependReactor("create", "replicationcontrollers", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("exceeded quota"))
	})
	if err := r.component(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "could not be created") || !strings.Contains(err.Error(), "exceeded quota") {
		t.Errorf("got %v", err)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	rc, pods := testRC()
	r, out := newRun(t, rc, pods[0], pods[1])
	r.dryRun = true
	if err := r.component(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "would commit container main of pod/web-a to r.example/shop-web-198.51.100.1:1") || strings.Count(text, "kind: ReplicationController") != 2 {
		t.Errorf("it says\n%s", text)
	}
	for _, action := range r.Kubernetes.(*fake.Clientset).Actions() {
		if action.GetVerb() != "get" && action.GetVerb() != "list" && action.GetVerb() != "create" || action.GetVerb() == "create" && len(action.(clienttesting.CreateActionImpl).CreateOptions.DryRun) == 0 {
			t.Errorf("it did %s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}
}

func TestControllerThatIsNotThereIsAnError(t *testing.T) {
	r, _ := newRun(t)
	if err := r.component(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "there is no ReplicationController web in namespace default") {
		t.Errorf("got %v", err)
	}
	rc, _ := testRC()
	if err := r.saveOld(t.Context(), rc, commit.AnnotationTakeover, "gone"); err != nil {
		t.Fatal(err)
	}
	if err := r.component(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "gone.yaml is missing; copy it from where it was uploaded") {
		t.Errorf("got %v", err)
	}
}

// ended writes the status of a Commit, as its node does.
func (r *run) ended(t *testing.T, name string, status string) {
	t.Helper()
	if _, err := r.commits().Patch(t.Context(), name, types.MergePatchType, []byte(`{"status":`+status+`}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

func TestCommitOfAnEarlierRunIsUsedOnce(t *testing.T) {
	_, pods := testRC()
	r, _ := newRun(t, pods[0])
	w := wish{pod: pods[0], container: "main", image: "r.example/web:1"}
	first, err := r.ensure(t.Context(), w)
	if err != nil || first.OwnerReferences[0].UID != pods[0].UID {
		t.Fatalf("%+v, %v", first, err)
	}
	same := func(what string) {
		t.Helper()
		if again, err := r.ensure(t.Context(), w); err != nil || again.UID != first.UID || again.Spec != first.Spec {
			t.Errorf("%s: %+v, %v", what, again, err)
		}
	}
	same("not begun")
	other := w
	other.image = "r.example/web:2"
	if _, err := r.ensure(t.Context(), other); err == nil || !strings.Contains(err.Error(), "makes image r.example/web:1 of this container now") {
		t.Errorf("another image while the first is made: %v", err)
	}
	r.ended(t, first.Name, `{"phase":"Succeeded","digest":"sha256:x"}`)
	same("succeeded")
	if err := r.take(t.Context(), []commit.Commit{first}); err != nil {
		t.Fatal(err)
	}
	if again, err := r.ensure(t.Context(), w); err != nil || again.Status.Phase != "" {
		t.Errorf("after it was taken note of: %+v, %v", again, err)
	}
	r.ended(t, first.Name, `{"phase":"Failed","message":"no"}`)
	if _, err := r.await(t.Context(), first, false); err == nil || !strings.Contains(err.Error(), "cannot commit pod "+pods[0].Name+": no") {
		t.Errorf("a failed one: %v", err)
	}
	if again, err := r.ensure(t.Context(), other); err != nil || again.Status.Phase != "" || again.Spec.Image != other.image {
		t.Errorf("after it failed: %+v, %v", again, err)
	}
}

func TestWaitForAnImageEndsAndSaysForWhat(t *testing.T) {
	_, pods := testRC()
	r, out := newRun(t, pods[0])
	r.timeout = 50 * time.Millisecond
	_, err := r.commit(t.Context(), []wish{{pod: pods[0], container: "main", image: "r.example/web:1"}}, true)
	if err == nil || !strings.Contains(err.Error(), "the images are not there after 50ms: call it again to wait on") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out.String(), "waiting for the minion of node n1") {
		t.Errorf("it says %s", out)
	}
}

func TestNodeMayReadThePushSecretWhileItNeedsIt(t *testing.T) {
	_, pods := testRC()
	r, _ := newRun(t, pods[0])
	r.pushSecret = "registry"
	c, err := r.ensure(t.Context(), wish{pod: pods[0], container: "main", image: "r.example/web:1"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time as after a kill
		if err := r.grant(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	roles, _ := r.Kubernetes.RbacV1().Roles("default").List(t.Context(), metav1.ListOptions{})
	bindings, _ := r.Kubernetes.RbacV1().RoleBindings("default").List(t.Context(), metav1.ListOptions{})
	if len(roles.Items) != 1 || len(bindings.Items) != 1 || bindings.Items[0].Subjects[0].Name != "system:node:n1" || roles.Items[0].Rules[0].ResourceNames[0] != "registry" ||
		roles.Items[0].OwnerReferences[0].Name != c.Name {
		t.Errorf("got %+v and %+v", roles.Items, bindings.Items)
	}
	for range 2 {
		if err := r.revoke(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	roles, _ = r.Kubernetes.RbacV1().Roles("default").List(t.Context(), metav1.ListOptions{})
	bindings, _ = r.Kubernetes.RbacV1().RoleBindings("default").List(t.Context(), metav1.ListOptions{})
	if len(roles.Items)+len(bindings.Items) > 0 {
		t.Errorf("left: %+v and %+v", roles.Items, bindings.Items)
	}
}

func TestControllerThatHasChangedIsNotDeleted(t *testing.T) {
	rc, pods := testRC()
	rc.Generation, rc.Status.Replicas = 2, 2
	r, _ := newRun(t, rc, pods[0], pods[1])
	before := rc.DeepCopy()
	before.Generation = 1
	if err := r.orphan(t.Context(), before); err == nil || !strings.Contains(err.Error(), "has changed while its pods were committed") {
		t.Errorf("got %v", err)
	}
	if err := r.orphan(t.Context(), rc); err != nil {
		t.Error(err)
	}
	for _, action := range r.Kubernetes.(*fake.Clientset).Actions() {
		if d, ok := action.(clienttesting.DeleteActionImpl); ok {
			if p := d.DeleteOptions; *p.PropagationPolicy != metav1.DeletePropagationOrphan || *p.Preconditions.UID != "rc" || p.Preconditions.ResourceVersion == nil {
				t.Errorf("it was deleted with %+v", p)
			}
		}
	}
}

func TestPodThatDoesNotRunIsRefused(t *testing.T) {
	_, pods := testRC()
	pods[0].Status.Phase = corev1.PodPending
	r, _ := newRun(t, pods[0])
	if err := r.one(t.Context(), pods[0].Name, "r.example/web:1"); err == nil || !strings.Contains(err.Error(), "only a running pod") {
		t.Errorf("got %v", err)
	}
	if err := r.one(t.Context(), "gone", "r.example/web:1"); err == nil || !strings.Contains(err.Error(), "there is no pod gone") {
		t.Errorf("got %v", err)
	}
}

func TestContainerIsTheOnlyOneOrTheNamedOrTheDefault(t *testing.T) {
	_, pods := testRC()
	p := pods[0].DeepCopy()
	if got, err := containerOf(p, ""); got != "main" || err != nil {
		t.Errorf("the only one: %s, %v", got, err)
	}
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "side"})
	if got, err := containerOf(p, "side"); got != "side" || err != nil {
		t.Errorf("the named one: %s, %v", got, err)
	}
	if _, err := containerOf(p, "other"); err == nil || !strings.Contains(err.Error(), "it has main, side") {
		t.Errorf("one that is not there: %v", err)
	}
	p.Annotations[defaultContainer] = "side"
	if got, err := containerOf(p, ""); got != "side" || err != nil {
		t.Errorf("the default one: %s, %v", got, err)
	}
}

func TestStepWaitsOnWhileTheAPIServerIsAway(t *testing.T) {
	calls := 0
	err := until(t.Context(), time.Minute, "it", func(context.Context) (bool, error) {
		calls++
		if calls == 1 {
			return false, errors.New("connection refused")
		}
		return true, nil
	})
	if err != nil || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
	err = until(t.Context(), time.Millisecond, "it", func(context.Context) (bool, error) { return false, errors.New("connection refused") })
	if err == nil || err.Error() != "it: connection refused; call it again to go on" {
		t.Errorf("got %v", err)
	}
}
