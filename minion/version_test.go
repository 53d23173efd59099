package minion

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
)

func TestNodeReportsMinionVersionAfterItWasRecreated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := func() *corev1.Node {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{
				"mine": "stays", api.AnnotationKMVersion: "v1", api.AnnotationMinionStarted: "2025-01-01T00:00:00Z",
			}}}
		}
		client := fake.NewSimpleClientset(node())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		started := time.Now()
		go func() { ended <- report{version: "v2", started: started}.keep(ctx, client, "n1") }()
		synctest.Wait()
		said := func() map[string]string {
			t.Helper()
			got, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return got.Annotations
		}
		want := started.UTC().Format(time.RFC3339Nano)
		if got := said(); got[api.AnnotationKMVersion] != "v2" || got[api.AnnotationMinionStarted] != want || got["mine"] != "stays" {
			t.Errorf("annotations are %v", got)
		}
		if _, err := client.CoreV1().Nodes().Update(t.Context(), node(), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(reportAgain + time.Second)
		synctest.Wait()
		if got := said(); got[api.AnnotationKMVersion] != "v2" {
			t.Errorf("annotations of the recreated node are %v", got)
		}
		client.ClearActions()
		time.Sleep(10 * reportAgain)
		for _, action := range client.Actions() {
			if action.GetVerb() != "get" {
				t.Errorf("an unchanged report was written again: %v", action)
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// The control plane of an older version does not let a node write the port or the settings, and must learn the version nevertheless.
func TestPortAndSettingsAreReportedWhereTheControlPlaneLetsThem(t *testing.T) {
	for _, refused := range []bool{false, true} {
		client := fake.NewSimpleClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		client.PrependReactor("patch", "nodes", func(action clienttesting.Action) (bool, runtime.Object, error) {
			patch := string(action.(clienttesting.PatchAction).GetPatch())
			if refused && (strings.Contains(patch, api.AnnotationStatusPort) || strings.Contains(patch, api.AnnotationSettings)) {
				return true, nil, errors.New("it may only be written by the scheduler")
			}
			return false, nil, nil
		})
		r := report{version: "v2", settings: "abc", started: time.Now(), port: func() int { return 10268 }}
		if err := r.write(t.Context(), client, "n1"); err != nil {
			t.Fatal(err)
		}
		node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		port, settings := "10268", "abc"
		if refused {
			port, settings = "", ""
		}
		if got := node.Annotations; got[api.AnnotationKMVersion] != "v2" || got[api.AnnotationStatusPort] != port || got[api.AnnotationSettings] != settings {
			t.Errorf("annotations are %v, want port %q and settings %q", got, port, settings)
		}
	}
}

func TestReportReturnsFailedWrites(t *testing.T) {
	if err := (report{version: "v2"}).keep(t.Context(), fake.NewSimpleClientset(), "n1"); err == nil {
		t.Error("no error although the node does not exist")
	}
}

func TestAgentProblemIsReportedOnce(t *testing.T) {
	client := fake.NewSimpleClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	r := report{version: "v2", started: time.Now(), problems: []string{"it advertises 203.0.113.7"}}
	for range 2 {
		if err := r.write(t.Context(), client, "n1"); err != nil {
			t.Fatal(err)
		}
	}
	told := func() (corev1.NodeCondition, int) {
		t.Helper()
		node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil || len(node.Status.Conditions) != 1 {
			t.Fatalf("%v, conditions %+v", err, node.Status.Conditions)
		}
		events, err := client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return node.Status.Conditions[0], len(events.Items)
	}
	if is, events := told(); is.Status != corev1.ConditionTrue || is.Message != r.problems[0] || events != 1 {
		t.Errorf("%d events, and the condition is %+v", events, is)
	}
	r.problems = nil
	if err := r.write(t.Context(), client, "n1"); err != nil {
		t.Fatal(err)
	}
	if is, events := told(); is.Status != corev1.ConditionFalse || events != 1 {
		t.Errorf("after the problem was solved there are %d events, and the condition is %+v", events, is)
	}
}

func TestLaterProblemIsReportedAndResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewSimpleClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		var over atomic.Bool
		r := report{version: "v2", started: time.Now(), problems: []string{"as it is"}, watch: func(context.Context) []string {
			if over.Load() {
				return nil
			}
			return []string{"packets are dropped"}
		}}
		go func() { ended <- r.keep(ctx, client, "n1") }()
		says := func(want string) {
			t.Helper()
			synctest.Wait()
			node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
			if err != nil || len(node.Status.Conditions) != 1 || node.Status.Conditions[0].Message != want {
				t.Errorf("%v; conditions are %+v, want %q", err, node.Status.Conditions, want)
			}
		}
		says("as it is")
		time.Sleep(reportAgain + time.Second)
		says("as it is; packets are dropped")
		over.Store(true)
		time.Sleep(reportAgain)
		says("as it is")
		if events, err := client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{}); err != nil || len(events.Items) != 2 {
			t.Errorf("%v; %d events, want one of each problem", err, len(events.Items))
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestOnlyNodesThatAreReadyAreBlocked(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	for name, want := range map[string]bool{"well": true, "ended": false, "unknown": false} {
		objects := node(name, corev1.ConditionTrue)
		if name == "ended" {
			objects = node(name, corev1.ConditionUnknown)
		}
		client := fake.NewSimpleClientset(objects)
		if name == "unknown" {
			client = fake.NewSimpleClientset()
		}
		if got := isReady(t.Context(), client, name); got != want {
			t.Errorf("%s is ready: %v", name, got)
		}
	}
	problem := blockedProblem([]string{"a", "b", "c", "d", "e"})
	if !strings.Contains(problem, "a, b, c and 2 more,") || !strings.Contains(problem, "--network=vxlan") {
		t.Errorf("the problem reads: %s", problem)
	}
}
