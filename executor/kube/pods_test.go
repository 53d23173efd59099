package kube

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/executor"
)

func web(phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"},
		Spec:       corev1.PodSpec{NodeName: "agent-1"}, Status: corev1.PodStatus{Phase: phase},
	}
}

// run starts Pods over the client; its events come from the returned channel.
func run(t *testing.T, client *fake.Clientset) (*Pods, <-chan executor.Event) {
	pods, events, done := NewPods(), make(chan executor.Event, 16), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- pods.Run(ctx, client, "agent-1", func(e executor.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := receive(t, done); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	return pods, events
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}

func TestPodsOfTheNodeBecomeEvents(t *testing.T) {
	client := fake.NewClientset(web(corev1.PodPending))
	lists := make(chan string, 4)
	client.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		lists <- action.(clienttesting.ListAction).GetListRestrictions().Fields.String()
		return false, nil, nil
	})
	pods, events := run(t, client)
	if got := receive(t, events).(executor.PodChanged).Pod; got.Phase != corev1.PodPending || got.UID != "u" {
		t.Errorf("got %+v", got)
	}
	if list := pods.List(); len(list) != 1 || list[0].Name != "web" {
		t.Errorf("the list has %v", list)
	}
	key := api.PodKey{Namespace: "default", Name: "web"}
	if got := pods.Get(key, "u"); got == nil || got.Name != "web" {
		t.Errorf("got %v", got)
	}
	if got := pods.Get(key, "another"); got != nil || NewPods().Get(key, "u") != nil {
		t.Errorf("got %v, which is another pod's", got)
	}
	if selector := receive(t, lists); selector != "spec.nodeName=agent-1" {
		t.Errorf("listed with %q: a node may see no others", selector)
	}
	if _, err := client.CoreV1().Pods("default").UpdateStatus(t.Context(), web(corev1.PodRunning), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, events).(executor.PodChanged).Pod; got.Phase != corev1.PodRunning {
		t.Errorf("got %+v", got)
	}
	if err := client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, events); got != (executor.PodGone{UID: "u"}) {
		t.Errorf("got %+v", got)
	}
	if list := append(pods.List(), NewPods().List()...); len(list) != 0 {
		t.Errorf("the lists have %v", list)
	}
}

func TestDeletionIsRepeatedUntilItWorksAndNamesThatVeryPod(t *testing.T) {
	client := fake.NewClientset(web(corev1.PodRunning))
	deletes := make(chan metav1.DeleteOptions, 4)
	failures := 2 // read and written by the one worker
	client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		deletes <- action.(clienttesting.DeleteAction).GetDeleteOptions()
		failures--
		if failures >= 0 {
			return true, nil, errors.New("the API server is away")
		}
		return false, nil, nil
	})
	pods, events := run(t, client)
	receive(t, events)
	grace := int64(3)
	pods.Delete(executor.DeletePod{Pod: api.PodKey{Namespace: "default", Name: "web"}, UID: "u", Grace: &grace})
	for range 3 {
		options := receive(t, deletes)
		if *options.Preconditions.UID != "u" || *options.GracePeriodSeconds != 3 {
			t.Errorf("deleted with %+v", options)
		}
	}
	if got := receive(t, events); got != (executor.PodGone{UID: "u"}) {
		t.Errorf("got %+v", got)
	}
}

func TestEachGracePeriodOfAKillReachesTheAPIServer(t *testing.T) {
	client := fake.NewClientset(web(corev1.PodRunning))
	deletes := make(chan metav1.DeleteOptions, 4)
	client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		deletes <- action.(clienttesting.DeleteAction).GetDeleteOptions()
		return true, nil, nil // the pod ends within its grace period
	})
	pods, events := run(t, client)
	receive(t, events)
	for _, grace := range []int64{30, 3} {
		pods.Delete(executor.DeletePod{Pod: api.PodKey{Namespace: "default", Name: "web"}, UID: "u", Grace: &grace})
		if options := receive(t, deletes); *options.GracePeriodSeconds != grace {
			t.Errorf("deleted with %+v, want %d s", options, grace)
		}
	}
}

func TestDeletionOfAPodThatIsGoneIsDone(t *testing.T) {
	item := deletion{namespace: "default", name: "web", uid: "u"}
	if err := item.perform(t.Context(), fake.NewClientset()); err != nil {
		t.Error(err)
	}
}
