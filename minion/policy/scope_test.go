package policy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

// fromNamespaces lets pods of namespaces with a label reach the pods that denyWeb selects.
func fromNamespaces(key, value string) *networkingv1.NetworkPolicy {
	selector := &metav1.LabelSelector{}
	if key != "" {
		selector.MatchLabels = map[string]string{key: value}
	}
	peer := networkingv1.NetworkPolicyPeer{NamespaceSelector: selector}
	return onWeb([]networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}}}, nil, networkingv1.PolicyTypeIngress)
}

func TestScopeIsWhatThePoliciesOfLocalPodsName(t *testing.T) {
	named := []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromString("web"))}}
	block := []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}}}
	egress := func(to []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) *networkingv1.NetworkPolicy {
		return onWeb(nil, []networkingv1.NetworkPolicyEgressRule{{To: to, Ports: ports}}, networkingv1.PolicyTypeEgress)
	}
	elsewhere := fromNamespaces("", "")
	elsewhere.Namespace = "y"
	crowd := State{Policies: []*networkingv1.NetworkPolicy{fromNamespaces("team", "red")}, Namespaces: map[string]map[string]string{}}
	for i := range mostNamespaces + 1 {
		crowd.Namespaces[fmt.Sprint(i)] = map[string]string{"team": "red"}
	}
	small := map[string]map[string]string{"x": {}, "y": {"team": "red"}, "z": {"team": "red"}}
	for name, c := range map[string]struct {
		state State
		want  scope
	}{
		"a policy without peers":             {State{Policies: []*networkingv1.NetworkPolicy{denyWeb()}}, scope{}},
		"peers in the same namespace":        {State{Policies: []*networkingv1.NetworkPolicy{egress(friends(), named)}}, scope{namespaces: []string{"x"}}},
		"peers in namespaces with a label":   {State{Policies: []*networkingv1.NetworkPolicy{fromNamespaces("team", "red")}}, scope{namespaces: []string{"y", "z"}}},
		"peers in all namespaces":            {State{Policies: []*networkingv1.NetworkPolicy{fromNamespaces("", "")}}, scope{all: true}},
		"a policy for pods of other nodes":   {State{Policies: []*networkingv1.NetworkPolicy{elsewhere}}, scope{}},
		"ports by number to addresses":       {State{Policies: []*networkingv1.NetworkPolicy{egress(block, nil)}}, scope{}},
		"ports by name to addresses":         {State{Policies: []*networkingv1.NetworkPolicy{egress(block, named)}}, scope{all: true}},
		"ports by name to anybody":           {State{Policies: []*networkingv1.NetworkPolicy{egress(nil, named)}}, scope{all: true}},
		"peers in more namespaces than pays": {crowd, scope{all: true}},
	} {
		if c.state.Namespaces == nil {
			c.state.Namespaces = small
		}
		got := scopeOf(c.state, map[string]bool{"x": true})
		if got.all != c.want.all || !slices.Equal(got.namespaces, c.want.namespaces) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

// askedFor returns the namespaces of which the pods of other nodes were listed.
func (e enforced) askedFor() (namespaces []string) {
	for _, action := range e.api.Actions() {
		list, ok := action.(ktesting.ListAction)
		if !ok || action.GetResource().Resource != "pods" {
			continue
		}
		restriction := list.GetListRestrictions().Fields
		if node, of := restriction.RequiresExactMatch(nodeNameField); of {
			if node != e.node {
				e.t.Errorf("it asked for the pods of node %s", node)
			}
			continue
		}
		namespaces = append(namespaces, action.GetNamespace())
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces)
}

func TestPodsAreWatchedWhereAPolicyOfALocalPodNeedsThem(t *testing.T) {
	red, peer := namespace("y"), apiPod("peer", "two", "peer", "10.0.1.2")
	red.Labels["team"], peer.Namespace = "red", "y"
	e := run(t, namespace("x"), red, namespace("z"), fromNamespaces("team", "red"), peer)
	e.await("table", true)
	if got := e.askedFor(); len(got) > 0 {
		t.Errorf("without a pod, it asked for pods of %q", got)
	}
	web := Sandbox{ID: "s", Namespace: "x", UID: "web", Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	must(t, e.Attach(within(t), web))
	e.await("10.0.0.2 : goto", true)
	e.await(" { 10.0.1.2 }", true)
	if got := e.askedFor(); !slices.Equal(got, []string{"y"}) {
		t.Errorf("it asked for pods of %q", got)
	}
	_, err := e.api.NetworkingV1().NetworkPolicies("x").Update(within(t), fromNamespaces("", ""), metav1.UpdateOptions{})
	must(t, err)
	late := apiPod("late", "two", "peer", "10.0.1.3")
	late.Namespace = "z"
	_, err = e.api.CoreV1().Pods("z").Create(within(t), late, metav1.CreateOptions{})
	must(t, err)
	e.await("{ 10.0.1.3 }", true)
	if got := e.askedFor(); !slices.Equal(got, []string{metav1.NamespaceAll, "y"}) {
		t.Errorf("it asked for pods of %q", got)
	}
}

func TestWatchThatIsNeededNoMoreEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w, err := newWatch(fake.NewClientset(), "one", func() {}, func() {})
	must(t, err)
	defer w.wait()
	defer cancel()
	begin := time.Now()
	cover := func(at time.Duration, namespaces ...string) {
		t.Helper()
		_, err := w.cover(ctx, scope{namespaces: namespaces}, begin)
		must(t, err)
		for _, watched := range w.peers {
			if !cache.WaitForCacheSync(within(t).Done(), watched.informer.HasSynced) {
				t.Fatal("the pods were not listed in time")
			}
		}
		if complete, err := w.cover(ctx, scope{namespaces: namespaces}, begin.Add(at)); err != nil || !complete {
			t.Fatalf("complete: %t, %v", complete, err)
		}
	}
	cover(0, "x", "y")
	cover(lingers, "x")
	if len(w.peers) != 2 {
		t.Errorf("after %s, it watches %d namespaces", lingers, len(w.peers))
	}
	cover(lingers+time.Second, "x")
	if len(w.peers) != 1 || w.peers["x"] == nil {
		t.Errorf("later, it watches %d namespaces", len(w.peers))
	}
}
