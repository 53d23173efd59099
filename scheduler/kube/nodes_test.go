package kube

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

func TestTaintOfAFailingAgentComesAndGoesBesideOthers(t *testing.T) {
	other := v1.Taint{Key: "dedicated", Value: "gpu", Effect: v1.TaintEffectNoSchedule}
	c, client := newTest(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1.NodeSpec{Taints: []v1.Taint{other}}})
	failing := v1.Taint{Key: api.TaintAgentFailing, Effect: v1.TaintEffectNoSchedule}
	for _, step := range []struct {
		failing bool
		want    []v1.Taint
	}{
		{true, []v1.Taint{other, failing}}, {true, []v1.Taint{other, failing}}, {false, []v1.Taint{other}}, {false, []v1.Taint{other}},
	} {
		node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.taintNode(t.Context(), scheduler.TaintNode{Node: node, Failing: step.failing}); err != nil {
			t.Fatal(err)
		}
		if node, err = client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); err != nil || !slices.Equal(node.Spec.Taints, step.want) {
			t.Errorf("the node has the taints %v, want %v; %v", node.Spec.Taints, step.want, err)
		}
	}
}

func TestNodeWithoutTaintsIsLeftWithoutAny(t *testing.T) {
	c, client := newTest(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1.NodeSpec{
		Taints: []v1.Taint{{Key: api.TaintAgentFailing, Effect: v1.TaintEffectNoSchedule}},
	}})
	node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.taintNode(t.Context(), scheduler.TaintNode{Node: node}); err != nil {
		t.Fatal(err)
	}
	if node, err = client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); err != nil || len(node.Spec.Taints) > 0 {
		t.Errorf("the node has the taints %v; %v", node.Spec.Taints, err)
	}
}

func TestNodeThatHasChangedIsNotTainted(t *testing.T) {
	c, client := newTest()
	client.PrependReactor("patch", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(v1.Resource("nodes"), "n1", nil)
	})
	if err := c.taintNode(t.Context(), scheduler.TaintNode{Node: &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, Failing: true}); err != nil {
		t.Error(err)
	}
}

func TestNodeIsTold(t *testing.T) {
	c, _ := newTest()
	events := record.NewFakeRecorder(1)
	c.events = events
	c.perform(t.Context(), scheduler.RecordNodeEvent{
		Node: &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, Type: v1.EventTypeWarning, Reason: "AgentFailing", Message: "the disk is full",
	})
	if got, want := <-events.Events, "Warning AgentFailing the disk is full"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
}
