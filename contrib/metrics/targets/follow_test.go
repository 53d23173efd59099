package targets

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
)

// node is one with a kubelet.
func node(name, address string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}},
		},
	}
}

// lease is a node's, renewed by its kubelet or by the scheduler.
func lease(node string, byScheduler bool) *coordinationv1.Lease {
	now := metav1.NowMicro()
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}
	if byScheduler {
		l.Annotations = map[string]string{api.AnnotationSchedulerRenewed: api.LeaseTime(now)}
	}
	return l
}

func apiServers(addresses ...string) *discoveryv1.EndpointSlice {
	port, name := int32(6443), "https"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

// kubelet are the lines of a node's targets.
func kubelet(node, address string) (all []string) {
	for _, path := range []string{"/metrics", "/metrics/cadvisor", "/metrics/probes", "/metrics/resource"} {
		all = append(all, "kubelet "+address+":10250"+path+` {node="`+node+`"}`)
	}
	return all
}

func TestTargetsFollowTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset(node("n1", "10.0.0.1"), node("idle", "10.0.0.2"), lease("n1", false), lease("idle", true), apiServers("10.0.0.9"))
		var leader atomic.Pointer[string] // nil if etcd is away
		leads := func(address string) { leader.Store(&address) }
		leads("10.0.0.3:10259")
		f := Finder{Kube: kube, Fixed: map[string][]string{JobEtcd: {"127.0.0.1:2379"}}, Leader: func(context.Context) (string, error) {
			if address := leader.Load(); address != nil {
				return *address, nil
			}
			return "", errors.New("etcd is away")
		}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		var got []string
		times := 0
		go func() {
			ended <- f.Follow(ctx, func(jobs map[string][]*targetgroup.Group) { got, times = lines(jobs), times+1 })
		}()
		compare := func(what string, want ...string) {
			t.Helper()
			time.Sleep(2 * lookAround)
			synctest.Wait()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		fixed := []string{"apiserver 10.0.0.9:6443", "etcd 127.0.0.1:2379", "k8sm-scheduler 10.0.0.3:10259"}
		all := func(parts ...[]string) (joined []string) {
			for _, p := range parts {
				joined = append(joined, p...)
			}
			return joined
		}
		mesos := []string{"mesos 10.0.0.3:10259"}
		compare("at first", all(fixed, kubelet("n1", "10.0.0.1"), mesos)...)
		if times != 1 {
			t.Errorf("told %d times", times)
		}
		if _, err := kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(t.Context(), lease("idle", false), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		compare("a kubelet starts", all(fixed, kubelet("n1", "10.0.0.1"), kubelet("idle", "10.0.0.2"), mesos)...)
		leader.Store(nil)
		if err := kube.CoreV1().Nodes().Delete(t.Context(), "idle", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		compare("a node goes while etcd is away", all(fixed, kubelet("n1", "10.0.0.1"), mesos)...)
		leads("")
		compare("no scheduler leads", all(fixed[:2], kubelet("n1", "10.0.0.1"))...)
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Annotations: map[string]string{AnnotationScrape: "true", AnnotationPort: "80"}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.9"},
		}
		if _, err := kube.CoreV1().Pods("ns").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		compare("a pod asks", all(fixed[:2], kubelet("n1", "10.0.0.1"), []string{`pods http://10.244.0.9:80/metrics {namespace="ns", node="", pod="p"}`})...)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
