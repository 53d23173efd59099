package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/scheduler"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newTest(objects ...runtime.Object) (*Cluster, *fake.Clientset) {
	client := fake.NewSimpleClientset(objects...)
	c := New(client)
	c.now = func() time.Time { return start }
	return c, client
}

func pod(uid, node, task string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: types.UID(uid)}, Spec: v1.PodSpec{NodeName: node}}
	if task != "" {
		p.Annotations = map[string]string{api.AnnotationTaskID: task}
	}
	return p
}

func TestWhatBecameOfABindingIsSaidExactly(t *testing.T) {
	conflict := apierrors.NewConflict(v1.Resource("pods"), "web", errors.New("already"))
	deleting := pod("u", "", "")
	deleting.DeletionTimestamp, deleting.Finalizers = &metav1.Time{Time: start}, []string{"k8sm.io/test"}
	for _, test := range []struct {
		rule   string
		answer error
		now    *v1.Pod // as the API has it afterwards
		want   scheduler.BindOutcome
	}{
		{"bound", nil, pod("u", "", ""), scheduler.BindOK},
		{"not there", apierrors.NewNotFound(v1.Resource("pods"), "web"), nil, scheduler.BindGone},
		{"the API server is busy", apierrors.NewInternalError(errors.New("etcd")), pod("u", "", ""), scheduler.BindFailed},
		{"bound elsewhere", conflict, pod("u", "n2", "other.1"), scheduler.BindConflict},
		{"bound here, for another task", conflict, pod("u", "n1", "u.1"), scheduler.BindConflict},
		{"bound by a try whose answer was lost", conflict, pod("u", "n1", "u.2"), scheduler.BindOK},
		{"the name is another pod's", conflict, pod("v", "", ""), scheduler.BindGone},
		{"being deleted", conflict, deleting, scheduler.BindGone},
		{"gone in between", conflict, nil, scheduler.BindGone},
	} {
		c, client := newTest()
		if test.now != nil {
			if err := client.Tracker().Add(test.now); err != nil {
				t.Fatal(err)
			}
		}
		client.PrependReactor("create", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, &v1.Binding{}, test.answer
		})
		ref := scheduler.PodRef{Key: api.PodKey{Namespace: "default", Name: "web"}, UID: "u"}
		got, err := c.bind(t.Context(), scheduler.Bind{Task: "u.2", Pod: ref, Node: "n1"})
		if got != test.want || (err != nil) != (test.want == scheduler.BindFailed) {
			t.Errorf("%s: got %s, %v; want %s", test.rule, got, err, test.want)
		}
	}
}

func TestBindingCarriesTheTaskInTheSameWrite(t *testing.T) {
	c, client := newTest(pod("u", "", ""))
	ref := scheduler.PodRef{Key: api.PodKey{Namespace: "default", Name: "web"}, UID: "u"}
	annotations := map[string]string{api.AnnotationTaskID: "u.1"}
	if _, err := c.bind(t.Context(), scheduler.Bind{Task: "u.1", Pod: ref, Node: "n1", Annotations: annotations}); err != nil {
		t.Fatal(err)
	}
	binding := client.Actions()[0].(k8stesting.CreateAction).GetObject().(*v1.Binding)
	if binding.UID != "u" || binding.Target.Name != "n1" || binding.Annotations[api.AnnotationTaskID] != "u.1" {
		t.Errorf("got %+v", binding)
	}
}

func TestEachTokenIsNewAndForOneNode(t *testing.T) {
	started := map[string]string{api.AnnotationMinionStarted: "2026-01-01T00:00:00Z"}
	c, client := newTest(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: started}})
	secrets := client.CoreV1().Secrets("kube-system")
	for node, before := range map[string]string{"n1": "2026-01-01T00:00:00Z", "n2": ""} {
		token, err := c.Issue(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		id, secret, _ := strings.Cut(token, ".")
		if len(id) != 6 || len(secret) != 16 {
			t.Errorf("token %q has not the form of a bootstrap token", token)
		}
		got, err := secrets.Get(t.Context(), "bootstrap-token-"+id, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Data["expiration"]) != "2026-01-01T01:00:00Z" || got.Labels[api.LabelNode] != node ||
			string(got.Data["auth-extra-groups"]) != api.BootstrapGroup || string(got.Data["token-secret"]) != secret ||
			got.Annotations[api.AnnotationMinionBefore] != before {
			t.Errorf("secret %+v", got)
		}
		if again, err := c.Issue(t.Context(), node); err != nil || again == token {
			t.Errorf("the next token is %q, %v", again, err)
		}
		for range 2 { // the second time it has ended already
			if err := c.Revoke(t.Context(), token); err != nil {
				t.Error(err)
			}
		}
		if _, err := secrets.Get(t.Context(), got.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("a revoked token: %v", err)
		}
	}
}

func TestOnlyNodesOfMesosAreDeleted(t *testing.T) {
	ours := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "ours"}, Spec: v1.NodeSpec{ProviderID: "mesos://a1"}}
	other := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: v1.NodeSpec{ProviderID: "cloud://i1"}}
	c, client := newTest(ours, other)
	if err := c.deleteNode(t.Context(), scheduler.DeleteNode{Name: "ours"}); err != nil {
		t.Error(err)
	}
	if err := c.deleteNode(t.Context(), scheduler.DeleteNode{Name: "other"}); err == nil {
		t.Error("a node that is none of Mesos was deleted")
	}
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 || nodes.Items[0].Name != "other" {
		t.Errorf("left: %v, %v", nodes.Items, err)
	}
}

func TestReportIsAnEventAndACondition(t *testing.T) {
	c, client := newTest(pod("u", "", ""))
	events := record.NewFakeRecorder(1)
	c.events = events
	if err := c.report(t.Context(), scheduler.Report{Pod: pod("u", "", ""), Message: "0/1 nodes are available"}); err != nil {
		t.Fatal(err)
	}
	if got := <-events.Events; got != "Warning FailedScheduling 0/1 nodes are available" {
		t.Errorf("event %q", got)
	}
	got, err := client.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || len(got.Status.Conditions) != 1 {
		t.Fatalf("got %+v, %v", got.Status, err)
	}
	if condition := got.Status.Conditions[0]; condition.Type != v1.PodScheduled || condition.Status != v1.ConditionFalse ||
		condition.Reason != v1.PodReasonUnschedulable || condition.Message != "0/1 nodes are available" {
		t.Errorf("condition %+v", condition)
	}
}

func TestNodeIsMadeReadyLabelledAndWithALease(t *testing.T) {
	c, client := newTest()
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"old": "x"}}}
	node.Status.Conditions = []v1.NodeCondition{scheduler.ReadyWithoutKubelet()}
	for range 2 { // it may be asked for twice
		if err := c.createNode(t.Context(), scheduler.CreateNode{Node: node}); err != nil {
			t.Fatal(err)
		}
	}
	value := "r1"
	amend := scheduler.AmendNode{
		Name: "n1", Labels: map[string]*string{"old": nil, "rack": &value}, Address: "10.0.0.1:5051", ProviderID: "mesos://a1",
	}
	if err := c.amendNode(t.Context(), amend); err != nil {
		t.Fatal(err)
	}
	if err := c.markReady(t.Context(), scheduler.MarkReady{Name: "n1"}); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, stays := got.Labels["old"]; stays || got.Labels["rack"] != "r1" {
		t.Errorf("labels %v", got.Labels)
	}
	if got.Annotations[api.AnnotationAgentAddress] != "10.0.0.1:5051" || got.Spec.ProviderID != "mesos://a1" {
		t.Errorf("annotations %v, provider id %s", got.Annotations, got.Spec.ProviderID)
	}
	if len(got.Status.Conditions) != 1 || !got.Status.Conditions[0].LastTransitionTime.Time.Equal(start) {
		t.Errorf("conditions %+v", got.Status.Conditions)
	}
	if _, err := client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), "n1", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if err := c.markReady(t.Context(), scheduler.MarkReady{Name: "n1", Unfit: "cannot open /dev/kmsg"}); err != nil {
		t.Fatal(err)
	}
	if got, err = client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if is := got.Status.Conditions; len(is) != 1 || is[0].Status != v1.ConditionFalse || !strings.Contains(is[0].Message, "cannot open /dev/kmsg") {
		t.Errorf("conditions %+v of a node that no minion can run on", is)
	}
}

func TestSyncedComesAfterAllThatExistsAndBeforeWhatChanges(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	named := metav1.ObjectMeta{Name: "x"}
	c, client := newTest(node, pod("u", "", ""), &v1.Namespace{ObjectMeta: named}, &v1.PersistentVolume{ObjectMeta: named},
		&v1.PersistentVolumeClaim{ObjectMeta: named}, &storagev1.StorageClass{ObjectMeta: named})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	events, ended := make(chan scheduler.Event, 100), make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, func(ev scheduler.Event) error {
			events <- ev
			return nil
		})
	}()
	seen := map[string]bool{}
	for !seen["scheduler.Synced"] {
		seen[fmt.Sprintf("%T", <-events)] = true
	}
	for _, kind := range []string{"Pod", "Node", "Namespace", "Volume", "Claim", "Class"} {
		if !seen["scheduler."+kind+"Seen"] {
			t.Errorf("before Synced came no %s, but %v", kind, seen)
		}
	}
	if err := client.CoreV1().Pods("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := <-events, (scheduler.PodGone{UID: "u"}); got != want {
		t.Errorf("got %#v", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestClaimsArePreparedUnlessSomebodyElseWasFaster(t *testing.T) {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}}
	claim := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}}
	c, client := newTest(pv, claim)
	var told []scheduler.Event
	c.sink = func(ev scheduler.Event) error {
		told = append(told, ev)
		return nil
	}
	pv, claim = pv.DeepCopy(), claim.DeepCopy()
	pv.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: "data"}
	claim.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "n1"}
	act := scheduler.PrepareClaims{Node: "n1", Volumes: []*v1.PersistentVolume{pv}, Claims: []*v1.PersistentVolumeClaim{claim}}
	c.perform(t.Context(), act)
	gotVolume, err := client.CoreV1().PersistentVolumes().Get(t.Context(), "pv1", metav1.GetOptions{})
	if err != nil || gotVolume.Spec.ClaimRef == nil {
		t.Errorf("volume %+v, %v", gotVolume, err)
	}
	gotClaim, err := client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil || gotClaim.Annotations["volume.kubernetes.io/selected-node"] != "n1" {
		t.Errorf("claim %+v, %v", gotClaim, err)
	}
	client.PrependReactor("update", "persistentvolumes", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(v1.Resource("persistentvolumes"), "pv1", errors.New("changed"))
	})
	c.perform(t.Context(), act)
	for i, ok := range []bool{true, false} {
		if done, is := told[i].(scheduler.ClaimsPrepared); !is || done.OK != ok {
			t.Errorf("got %#v, want OK %t", told[i], ok)
		}
	}
}

// TestBindingWaitsForNoNode has an API server that answers for nodes and leases only after the binding was done.
func TestBindingWaitsForNoNode(t *testing.T) {
	bound := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/binding") {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
			return
		}
		select {
		case <-bound:
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	client, err := protobuf.NewClient(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := New(client)
	c.sink = func(ev scheduler.Event) error {
		if done, ok := ev.(scheduler.BindDone); !ok || done.Outcome != scheduler.BindOK {
			t.Errorf("got %#v", ev)
		}
		close(bound)
		cancel()
		return nil
	}
	for i := range 100 {
		name := fmt.Sprint("n", i)
		c.Do(scheduler.CreateNode{Node: &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}})
		c.Do(scheduler.RenewLease{Name: name})
	}
	c.Do(scheduler.Bind{Task: "u.1", Pod: scheduler.PodRef{Key: api.PodKey{Namespace: "default", Name: "web"}, UID: "u"}, Node: "n1"})
	if err := c.work(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-bound:
	default:
		t.Error("the binding waits for nodes")
	}
}

// TestSlowAnswersHoldBackNoBurst has an API server that answers nobody before many have asked, as one does that takes long for each.
func TestSlowAnswersHoldBackNoBurst(t *testing.T) {
	for what, burst := range map[string]struct {
		together int
		action   func(name string) scheduler.ClusterAction
	}{
		"bindings": {64, func(name string) scheduler.ClusterAction {
			return scheduler.Bind{Pod: scheduler.PodRef{Key: api.PodKey{Namespace: "default", Name: name}, UID: types.UID(name)}, Node: "n1"}
		}},
		"leases of a thousand nodes, a tenth of a second each": {10, func(name string) scheduler.ClusterAction { return scheduler.RenewLease{Name: name} }},
	} {
		t.Run(what, func(t *testing.T) {
			var asking atomic.Int32
			all, ctx := make(chan struct{}), t.Context()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // until then, the server does not notice that the client has left
				if int(asking.Add(1)) == burst.together {
					close(all)
				}
				select {
				case <-all:
				case <-r.Context().Done():
				}
				w.WriteHeader(http.StatusNotFound)
			}))
			defer server.Close()
			client, err := protobuf.NewClient(&rest.Config{Host: server.URL, QPS: -1})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			c := New(client)
			c.sink = func(scheduler.Event) error { return nil }
			for i := range 2 * burst.together {
				c.Do(burst.action(fmt.Sprint("x", i)))
			}
			ended := make(chan error, 1)
			go func() { ended <- c.work(ctx) }()
			select {
			case <-all:
			case <-ctx.Done():
				t.Errorf("%d were asked for together, want %d", asking.Load(), burst.together)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNodeSaysWhichAddressesOfPoolsLeadThere(t *testing.T) {
	c, client := newTest(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{"mine": "stays"}}})
	for _, prefixes := range []string{"192.0.2.7/32,192.0.2.9/32", ""} {
		if err := c.setPodPrefixes(t.Context(), scheduler.SetPodPrefixes{Node: "n1", Prefixes: prefixes}); err != nil {
			t.Fatal(err)
		}
		node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, there := node.Annotations[api.AnnotationPodPrefixes]; got != prefixes || there != (prefixes != "") || node.Annotations["mine"] != "stays" {
			t.Errorf("led %q there, and the node has %v", prefixes, node.Annotations)
		}
	}
	if err := c.setPodPrefixes(t.Context(), scheduler.SetPodPrefixes{Node: "gone"}); err != nil {
		t.Errorf("a node that is gone: %v", err)
	}
}

// What an operator must act on is seen by kubectl get events -A, whether or not a node is concerned.
func TestComplaintsAreEventsOfTheFramework(t *testing.T) {
	c, client := newTest(settingsMap("{"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func(scheduler.Event) error { return nil }) }()
	c.Do(scheduler.Complain{Reason: "MesosMasterLost", Text: "no Mesos master has answered"})
	c.Do(scheduler.Complain{Reason: "MesosMasterFound", Text: "connected again", Over: true})
	want := []string{
		"Normal MesosMasterFound Framework/k8sm: connected again",
		"Warning MesosMasterLost Framework/k8sm: no Mesos master has answered",
		"Warning SettingsRefused ConfigMap/k8sm-minion: cannot take over the settings of minions",
	}
	var got []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && len(got) < len(want); time.Sleep(10 * time.Millisecond) {
		list, err := client.CoreV1().Events("kube-system").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		for _, e := range list.Items {
			got = append(got, fmt.Sprintf("%s %s %s/%s: %s", e.Type, e.Reason, e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Message))
		}
	}
	slices.Sort(got)
	for i, text := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], text) {
			t.Errorf("events are %q, want %q", got, want)
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
