package policy

import (
	"fmt"
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/knftables"
)

// city is a cluster of 5,000 pods in 50 namespaces on 50 nodes, each namespace with four policies.
func city() State {
	s := State{Node: "0", Namespaces: map[string]map[string]string{}}
	for i := range 50 {
		namespace := fmt.Sprint("ns", i)
		s.Namespaces[namespace] = map[string]string{"team": fmt.Sprint(i % 10)}
		for j := range 4 {
			app := metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(j)}}
			team := metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(i % 10)}}
			s.Policies = append(s.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("p", j)},
				Spec: networkingv1.NetworkPolicySpec{PodSelector: app, Ingress: []networkingv1.NetworkPolicyIngressRule{
					{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &app}, {NamespaceSelector: &team}}}}}})
		}
	}
	for i := range 5000 {
		s.Pods = append(s.Pods, Pod{Namespace: fmt.Sprint("ns", i%50), UID: types.UID(fmt.Sprint(i)), Node: fmt.Sprint(i / 100),
			Labels: map[string]string{"app": fmt.Sprint(i % 4)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}})
	}
	return s
}

// BenchmarkCompile makes the rules of one of a city's nodes.
func BenchmarkCompile(b *testing.B) {
	s := city()
	for b.Loop() {
		Compile(s)
	}
}

// BenchmarkKernelTakesOnePod has the kernel take the change that a new pod elsewhere is, with what is written for it.
func BenchmarkKernelTakesOnePod(b *testing.B) {
	inNamespace(b)
	table := kernelTable(b)
	s := city()
	without, with := Compile(s), s
	with.Pods = append(with.Pods, Pod{Namespace: "ns0", UID: "new", Node: "7", Labels: map[string]string{"app": "0"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.200.0.1")}})
	rules := [2]Ruleset{Compile(with), without}
	must(b, table.Apply(b.Context(), without))
	tx := knftables.NewFake(knftables.InetFamily, "t").NewTransaction()
	change{without, rules[0]}.write(tx)
	turn := 0
	for b.Loop() {
		must(b, table.Apply(b.Context(), rules[turn]))
		turn = 1 - turn
	}
	b.ReportMetric(float64(tx.NumOperations()), "operations")
}
