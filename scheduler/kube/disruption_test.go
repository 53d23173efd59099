package kube

import (
	"errors"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

const window = "2026-01-01T02:00:00Z/2026-01-01T03:00:00Z"

func TestNodeIsCordonedWithItsReasonInOneWriteAndUncordonedWithoutATrace(t *testing.T) {
	c, client := newTest(&v1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: "n1", UID: "u1", ResourceVersion: "7", Annotations: map[string]string{"mine": "stays"},
	}})
	events := record.NewFakeRecorder(10)
	c.events = events
	mark := func(change scheduler.MarkNode) *v1.Node {
		t.Helper()
		node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change.Node = node
		client.ClearActions()
		if err := c.markNode(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		if len(client.Actions()) != 1 {
			t.Errorf("it took %d calls", len(client.Actions()))
		}
		node, err = client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return node
	}
	planned := mark(scheduler.MarkNode{Maintenance: window})
	if planned.Spec.Unschedulable || planned.Annotations[api.AnnotationMaintenance] != window {
		t.Errorf("planned: %v, %v", planned.Spec, planned.Annotations)
	}
	cordoned := mark(scheduler.MarkNode{Maintenance: window, Cordoned: "maintenance", Unschedulable: true})
	if !cordoned.Spec.Unschedulable || cordoned.Annotations[api.AnnotationCordoned] != "maintenance" {
		t.Errorf("cordoned: %v, %v", cordoned.Spec, cordoned.Annotations)
	}
	over := mark(scheduler.MarkNode{})
	if over.Spec.Unschedulable || len(over.Annotations) != 1 || over.Annotations["mine"] != "stays" {
		t.Errorf("over: %v, %v", over.Spec, over.Annotations)
	}
	for _, want := range []string{
		"Normal MaintenancePlanned Mesos has planned maintenance for " + window,
		"Normal Cordoned cordoned for maintenance: Mesos has planned maintenance for " + window,
		"Normal Uncordoned uncordoned",
	} {
		if got := <-events.Events; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	}
}

func TestNodeTellsHowItsRolloutStandsAndWarnsWhenItIsGivenUp(t *testing.T) {
	c, client := newTest(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	events := record.NewFakeRecorder(10)
	c.events = events
	for _, step := range []struct {
		mark  scheduler.MarkNode
		event string
	}{
		{scheduler.MarkNode{Cordoned: "rollout", Unschedulable: true, Rollout: api.ParseRollout("v2 replaces -")}, "Normal Cordoned cordoned for rollout: km v2 replaces -"},
		{scheduler.MarkNode{Cordoned: "rollout", Unschedulable: true, Rollout: api.ParseRollout("v3 replaces -")}, "Normal RolloutChanged v3 replaces -"},
		{
			scheduler.MarkNode{Cordoned: "rollout", Unschedulable: true, Rollout: api.ParseRollout("v3 stuck: why"), Failed: true},
			"Warning RolloutFailed the replacement of the minion failed, and no other starts: v3 stuck: why",
		},
		{scheduler.MarkNode{}, "Normal Uncordoned uncordoned"},
		{
			scheduler.MarkNode{Cordoned: api.CordonedForDraining, Unschedulable: true},
			"Normal Cordoned cordoned for draining: an operator drains the Mesos agent, which kills its tasks",
		},
	} {
		node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		step.mark.Node = node
		if err := c.markNode(t.Context(), step.mark); err != nil {
			t.Fatal(err)
		}
		if got := <-events.Events; got != step.event {
			t.Errorf("event %q, want %q", got, step.event)
		}
		if node, err = client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); err != nil || !api.ParseRollout(node.Annotations[api.AnnotationRollout]).Equal(step.mark.Rollout) {
			t.Errorf("the node says %q, want %q, %v", node.Annotations[api.AnnotationRollout], step.mark.Rollout, err)
		}
	}
}

func TestNodeThatHasChangedIsNotMarked(t *testing.T) {
	c, client := newTest()
	c.events = record.NewFakeRecorder(0) // an event would block
	var patch string
	client.PrependReactor("patch", "nodes", func(action k8stesting.Action) (bool, runtime.Object, error) {
		patch = string(action.(k8stesting.PatchAction).GetPatch())
		return true, nil, apierrors.NewConflict(v1.Resource("nodes"), "n1", errors.New("it has changed"))
	})
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", ResourceVersion: "7"}}
	if err := c.markNode(t.Context(), scheduler.MarkNode{Node: node, Cordoned: "maintenance", Unschedulable: true}); err != nil {
		t.Error(err)
	}
	if !strings.Contains(patch, `"resourceVersion":"7"`) || !strings.Contains(patch, `"uid":"u1"`) {
		t.Errorf("the patch does not say what was seen: %s", patch)
	}
}

// forbidden is what the API server answers when a PodDisruptionBudget forbids an eviction.
func forbidden() error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget web needs 1"}}
	return err
}

func TestWhatBecameOfAnEvictionIsSaidExactly(t *testing.T) {
	for _, test := range []struct {
		rule   string
		answer error
		want   scheduler.EvictOutcome
		event  string
	}{
		{"evicted", nil, scheduler.EvictOK, "Normal Evicted node n1: maintenance"},
		{"a budget forbids it", forbidden(), scheduler.EvictBlocked, "Warning EvictionBlocked node n1: maintenance, but: Cannot evict"},
		{"the API server is busy", apierrors.NewTooManyRequests("slow down", 1), scheduler.EvictFailed, ""},
		{"the API server is broken", apierrors.NewInternalError(errors.New("etcd")), scheduler.EvictFailed, ""},
		{"not there", apierrors.NewNotFound(v1.Resource("pods"), "web"), scheduler.EvictGone, ""},
		{"the name is another pod's", apierrors.NewConflict(v1.Resource("pods"), "web", errors.New("uid")), scheduler.EvictGone, ""},
	} {
		c, client := newTest(pod("u", "n1", "u.1"))
		events := record.NewFakeRecorder(1)
		c.events = events
		var eviction *policyv1.Eviction
		client.PrependReactor("create", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
			eviction, _ = action.(k8stesting.CreateAction).GetObject().(*policyv1.Eviction)
			return true, nil, test.answer
		})
		got, err := c.evict(t.Context(), scheduler.Evict{Pod: pod("u", "n1", "u.1"), Message: "node n1: maintenance"})
		if got != test.want || (err != nil) != (test.want == scheduler.EvictFailed) {
			t.Errorf("%s: got %s, %v; want %s", test.rule, got, err, test.want)
		}
		if eviction == nil || *eviction.DeleteOptions.Preconditions.UID != "u" {
			t.Errorf("%s: the eviction was %+v", test.rule, eviction)
		}
		close(events.Events)
		if event := <-events.Events; !strings.HasPrefix(event, test.event) || test.event == "" && event != "" {
			t.Errorf("%s: event %q", test.rule, event)
		}
	}
}

func TestPodWhoseTaskMesosHasKilledIsDeletedWithoutAskingBudgets(t *testing.T) {
	c, client := newTest(pod("u", "n1", "u.1"))
	c.events = record.NewFakeRecorder(1)
	got, err := c.evict(t.Context(), scheduler.Evict{Pod: pod("u", "n1", "u.1"), Delete: true})
	if got != scheduler.EvictOK || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	deleted := client.Actions()[0].(k8stesting.DeleteAction)
	if uid := deleted.GetDeleteOptions().Preconditions.UID; *uid != "u" {
		t.Errorf("deleted %q", *uid)
	}
}
