package kube

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/k8sm/k8sm/scheduler"
)

// newPreemption returns a cluster with the pod "web" and room for two events.
func newPreemption() (*Cluster, *fake.Clientset, *record.FakeRecorder) {
	c, client := newTest(pod("u", "n1", ""))
	events := record.NewFakeRecorder(2)
	c.events = events
	return c, client, events
}

// high is who preempts.
var high = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "high", UID: "h"}}

func TestPreemptedPodIsToldWhyAndThenDeletedWithItsGracePeriod(t *testing.T) {
	c, client, events := newPreemption()
	if err := c.preempt(t.Context(), scheduler.Preempt{Victim: pod("u", "n1", ""), By: high, Node: "n1"}); err != nil {
		t.Fatal(err)
	}
	patch, ok := client.Actions()[0].(k8stesting.PatchActionImpl)
	if !ok || patch.GetSubresource() != "status" {
		t.Fatalf("first came %v", client.Actions()[0])
	}
	deletion, ok := client.Actions()[1].(k8stesting.DeleteActionImpl)
	if !ok {
		t.Fatalf("then came %v", client.Actions()[1])
	}
	options := deletion.GetDeleteOptions()
	if options.GracePeriodSeconds != nil || options.Preconditions == nil || *options.Preconditions.UID != "u" {
		t.Errorf("deleted with %+v", options)
	}
	if got := <-events.Events; got != "Normal Preempted Preempted by pod default/high (h) on node n1" {
		t.Errorf("event %q", got)
	}
}

func TestPreemptedPodHasTheConditionThatJobsLookFor(t *testing.T) {
	c, client, _ := newPreemption()
	client.PrependReactor("delete", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, nil // it has a grace period
	})
	if err := c.preempt(t.Context(), scheduler.Preempt{Victim: pod("u", "n1", ""), By: high, Node: "n1"}); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || len(got.Status.Conditions) != 1 {
		t.Fatalf("got %+v, %v", got.Status, err)
	}
	if condition := got.Status.Conditions[0]; condition.Type != v1.DisruptionTarget || condition.Status != v1.ConditionTrue ||
		condition.Reason != v1.PodReasonPreemptionByScheduler || !condition.LastTransitionTime.Time.Equal(start) {
		t.Errorf("condition %+v", condition)
	}
}

func TestPodThatIsNotTheVictimAnyMoreIsLeftAlone(t *testing.T) {
	for _, answer := range []error{
		apierrors.NewConflict(v1.Resource("pods"), "web", errors.New("the UID is another one")),
		apierrors.NewNotFound(v1.Resource("pods"), "web"),
	} {
		c, client, events := newPreemption()
		client.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
		if err := c.preempt(t.Context(), scheduler.Preempt{Victim: pod("u", "n1", ""), By: high, Node: "n1"}); err != nil {
			t.Error(err)
		}
		if len(client.Actions()) != 1 || len(events.Events) != 0 {
			t.Errorf("%v: still did %v and told %d", answer, client.Actions(), len(events.Events))
		}
	}
}

func TestNominationIsInTheStatusUntilItIsTakenBack(t *testing.T) {
	c, client, events := newPreemption()
	for _, test := range []struct{ node, event string }{{"n1", "Normal Nominated because"}, {"", "Normal NominationLost because"}} {
		node := test.node
		if err := c.nominate(t.Context(), scheduler.Nominate{Pod: pod("u", "", ""), Node: node, Message: "because"}); err != nil {
			t.Fatal(err)
		}
		got, err := client.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || got.Status.NominatedNodeName != node || len(got.Status.Conditions) != 1 {
			t.Errorf("got %+v, %v", got.Status, err)
		}
		if got := <-events.Events; got != test.event {
			t.Errorf("event %q", got)
		}
	}
}

func TestBudgetsAreSeenBeforeSyncedAndTheirEndIs(t *testing.T) {
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", UID: "b"}}
	c, client := newTest(budget)
	events, ended := make(chan scheduler.Event, 10), make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		ended <- c.Run(ctx, func(ev scheduler.Event) error {
			events <- ev
			return nil
		})
	}()
	if seen, ok := (<-events).(scheduler.BudgetSeen); !ok || seen.Budget.UID != "b" {
		t.Errorf("first came %v", seen)
	}
	if _, ok := (<-events).(scheduler.Synced); !ok {
		t.Error("then something else than Synced came")
	}
	if err := client.PolicyV1().PodDisruptionBudgets("default").Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := <-events, (scheduler.BudgetGone{UID: "b"}); got != want {
		t.Errorf("got %#v", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
