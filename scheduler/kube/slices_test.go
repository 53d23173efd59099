package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
)

func routed(i int) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)},
		Spec:       v1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)}},
		Status:     v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: fmt.Sprintf("192.0.%d.%d", i>>8, i&255)}}},
	}
}

// sliced is a cluster in which a scheduler leads.
type sliced struct {
	t      *testing.T
	client *fake.Clientset
	stop   func()
}

// lead runs a slicer on the cluster until stop is called.
func lead(t *testing.T, client *fake.Clientset) sliced {
	t.Helper()
	return leadAfter(t, 0, client)
}

// leadAfter is lead with an API server that answers after a time.
func leadAfter(t *testing.T, wait time.Duration, client *fake.Clientset) sliced {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	s, err := newSlicer(client, factory.Core().V1().Nodes())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	time.AfterFunc(wait, func() { factory.Start(ctx.Done()) })
	time.Sleep(time.Second) // an informer looks every 100 ms whether it knows all
	return sliced{t, client, func() { cancel(); <-ended; factory.Shutdown() }}
}

// view is what minions see now.
func (s sliced) view() nodeslices.View {
	s.t.Helper()
	synctest.Wait()
	return nodeslices.Read(s.objects())
}

func (s sliced) objects() (objects []*v1.ConfigMap) {
	s.t.Helper()
	list, err := s.client.Tracker().List(v1.SchemeGroupVersion.WithResource("configmaps"), v1.SchemeGroupVersion.WithKind("ConfigMap"), nodeslices.Namespace)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range list.(*v1.ConfigMapList).Items {
		objects = append(objects, &list.(*v1.ConfigMapList).Items[i])
	}
	return objects
}

// holds fails unless minions see exactly these nodes.
func (s sliced) holds(when string, want ...int) {
	s.t.Helper()
	v := s.view()
	var got, wanted []string
	for _, node := range v.Nodes {
		got = append(got, node.Name)
	}
	for _, i := range want {
		wanted = append(wanted, routed(i).Name)
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if !v.Exact || !slices.Equal(got, wanted) {
		s.t.Errorf("%s: exact: %v, nodes %v; want %v", when, v.Exact, got, wanted)
	}
}

// writes counts what has been written since the last call, by the object.
func (s sliced) writes() map[string]int {
	synctest.Wait()
	count := map[string]int{}
	for _, action := range s.client.Actions() {
		switch a := action.(type) {
		case k8stesting.DeleteAction:
			count[a.GetName()]++
		case k8stesting.CreateAction: // and updates
			if object, ok := a.GetObject().(*v1.ConfigMap); ok {
				count[object.Name]++
			}
		}
	}
	s.client.ClearActions()
	return count
}

func (s sliced) update(node *v1.Node) {
	s.t.Helper()
	if err := s.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("nodes"), node, ""); err != nil {
		s.t.Fatal(err)
	}
}

func (s sliced) create(i int) {
	s.t.Helper()
	if err := s.client.Tracker().Add(routed(i)); err != nil {
		s.t.Fatal(err)
	}
}

func (s sliced) remove(resource, namespace, name string) {
	s.t.Helper()
	if err := s.client.Tracker().Delete(v1.SchemeGroupVersion.WithResource(resource), namespace, name); err != nil {
		s.t.Fatal(err)
	}
}

func TestSlicesFollowTheNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lead(t, fake.NewClientset(routed(1), routed(2)))
		s.holds("at first", 1, 2)
		time.Sleep(time.Minute)
		s.create(3)
		s.holds("at once after a node has come", 1, 2, 3)
		time.Sleep(time.Minute)
		s.remove("nodes", "", "n1")
		s.holds("at once after a node has gone", 2, 3)
		time.Sleep(time.Minute)
		moved := routed(2)
		moved.Annotations = map[string]string{api.AnnotationPodPrefixes: "203.0.113.7/32"}
		s.update(moved)
		if v := s.view(); !v.Exact || v.Nodes[0].PodPrefixes != "203.0.113.7/32" {
			t.Errorf("a pod's address is not told: %+v", v)
		}
		s.stop()
	})
}

func TestStatusThatOthersDoNotNeedWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lead(t, fake.NewClientset(routed(1), routed(2)))
		synctest.Wait()
		time.Sleep(nodeslices.RenewEvery + time.Second)
		s.writes()
		for beat := range 10 {
			node := routed(1)
			node.Labels = map[string]string{"beat": fmt.Sprint(beat)}
			node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, LastHeartbeatTime: metav1.Now()}}
			node.Status.Images = []v1.ContainerImage{{SizeBytes: int64(beat)}}
			s.update(node)
			time.Sleep(time.Second)
		}
		if wrote := s.writes(); len(wrote) > 0 {
			t.Errorf("it wrote %v", wrote)
		}
		before := s.view().Renewed
		time.Sleep(nodeslices.RenewEvery)
		if wrote := s.writes(); len(wrote) != 1 || wrote[nodeslices.Summary] != 1 || s.view().Renewed == before {
			t.Errorf("a renewal wrote %v", wrote)
		}
		s.stop()
	})
}

func TestNodesThatKeepChangingAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lead(t, fake.NewClientset())
		s.view()
		time.Sleep(time.Minute)
		s.writes()
		for i := range 400 { // 40 a second
			s.create(i)
			time.Sleep(25 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		v, wrote := s.view(), s.writes()
		rounds := wrote[nodeslices.Summary]
		if !v.Exact || len(v.Nodes) != 400 || rounds < 8 || rounds > 16 {
			t.Errorf("after 10 seconds of new nodes there are %d, exact: %v, by %d rounds", len(v.Nodes), v.Exact, rounds)
		}
		delete(wrote, nodeslices.Summary)
		all := 0
		for _, n := range slices.Collect(maps.Values(wrote)) {
			all += n
		}
		if all > 3*rounds {
			t.Errorf("%d rounds wrote %d slices: %v", rounds, all, wrote)
		}
		s.stop()
	})
}

func TestSchedulerThatTakesOverLeavesSlicesAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		for i := range 3 * nodeslices.SliceSize {
			if err := client.Tracker().Add(routed(i)); err != nil {
				t.Fatal(err)
			}
		}
		s := lead(t, client)
		s.view()
		s.stop()
		s.remove("nodes", "", "n7")
		s.writes()
		s = lead(t, client)
		if wrote := s.writes(); len(wrote) != 2 || wrote[nodeslices.Summary] != 1 {
			t.Errorf("the next scheduler, which finds a node gone, writes %v", wrote)
		}
		if v := s.view(); !v.Exact || len(v.Nodes) != 3*nodeslices.SliceSize-1 {
			t.Errorf("there are %d nodes, exact: %v", len(v.Nodes), v.Exact)
		}
		s.stop()
	})
}

func TestNothingIsWrittenBeforeAllNodesAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := leadAfter(t, time.Minute, fake.NewClientset(routed(1)))
		if wrote := s.writes(); len(wrote) > 0 {
			t.Errorf("it wrote %v", wrote)
		}
		time.Sleep(time.Minute)
		s.holds("then", 1)
		s.stop()
	})
}

func TestWhatOthersDoToSlicesIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lead(t, fake.NewClientset(routed(1), routed(2)))
		s.holds("at first", 1, 2)
		for what, spoil := range map[string]func(){
			"a slice is deleted":     func() { s.remove("configmaps", nodeslices.Namespace, "nodes-0") },
			"the summary is deleted": func() { s.remove("configmaps", nodeslices.Namespace, nodeslices.Summary) },
			"a slice is changed": func() {
				if err := s.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("configmaps"), nodeslices.Object("nodes-0", "{"), nodeslices.Namespace); err != nil {
					t.Error(err)
				}
			},
			"another has come": func() {
				if err := s.client.Tracker().Add(nodeslices.Object("nodes-9", `{"name":"n2"}`)); err != nil {
					t.Error(err)
				}
			},
		} {
			spoil()
			if v := s.view(); v.Exact {
				t.Errorf("%s, and minions find nothing wrong", what)
			}
			time.Sleep(nodeslices.RenewEvery + time.Second)
			s.holds(what, 1, 2)
		}
		s.stop()
	})
}

// A scheduler that cannot write renews nothing, so that minions watch nodes.
func TestSummaryIsNotRenewedWhenASliceCannotBeWritten(t *testing.T) {
	for name, refuses := range map[string]func(k8stesting.Action) error{
		"forbidden, by an older control plane": func(a k8stesting.Action) error {
			return apierrors.NewForbidden(v1.Resource("configmaps"), "", errors.New("no role"))
		},
		"another scheduler writes, too": func(a k8stesting.Action) error {
			if update, ok := a.(k8stesting.UpdateAction); ok && strings.HasPrefix(update.GetObject().(*v1.ConfigMap).Name, "nodes-") {
				return apierrors.NewConflict(v1.Resource("configmaps"), "nodes-0", errors.New("changed"))
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(routed(1))
				var refuse atomic.Bool
				client.PrependReactor("*", "configmaps", func(a k8stesting.Action) (bool, runtime.Object, error) {
					if !refuse.Load() {
						return false, nil, nil
					}
					err := refuses(a)
					return err != nil, nil, err
				})
				s := lead(t, client)
				s.holds("at first", 1)
				time.Sleep(time.Minute)
				before := s.view().Renewed
				refuse.Store(true)
				s.create(2)
				time.Sleep(time.Minute)
				if v := s.view(); v.Renewed != before || len(v.Nodes) != 1 {
					t.Errorf("it renewed the summary %s at %s", before, v.Renewed)
				}
				refuse.Store(false)
				time.Sleep(sliceRetry + time.Second)
				s.holds("soon after", 1, 2)
				s.stop()
			})
		})
	}
}
