package minion

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/minion/network"
)

func networkNode(name, address, podCIDR, further string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{api.AnnotationPodPrefixes: further}},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{podCIDR}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.99"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
		}},
	}
}

func slicedNodes(nodes []*corev1.Node) (list []nodeslices.Node) {
	for _, node := range nodes {
		list = append(list, nodeslices.Of(node))
	}
	return list
}

func TestPeersAreTheOtherNodesWithTheirPodsAddresses(t *testing.T) {
	cluster := api.MinionConfig{ServiceCIDR: "10.96.0.0/16,fd96::/108"}
	bare := networkNode("new", "192.0.2.9", "10.244.9.0/24", "")
	bare.Spec.PodCIDRs = nil
	nodes := []*corev1.Node{
		networkNode("c", "192.0.2.3", "10.244.3.0/24", "203.0.113.7/32, 203.0.113.9/32"),
		networkNode("self", "192.0.2.1", "10.244.1.0/24", ""),
		networkNode("b", "192.0.2.2", "10.244.2.0/24", "10.244.3.4/32,0.0.0.0/0,10.96.0.1/32,192.0.2.1/32,203.0.113.9/32"),
		networkNode("d", "192.0.2.4", "10.244.4.0/24", "nonsense"),
		bare,
	}
	var around surroundings
	around.takeCluster(slicedNodes(nodes), cluster)
	peers, problems := peersOf(slicedNodes(nodes), "self", around)
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	addresses := func(text string) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr(text), netip.MustParseAddr("2001:db8::1")}
	}
	want := []network.Peer{
		{Node: "b", Addresses: addresses("192.0.2.2"), Prefixes: prefixes("10.244.2.0/24", "203.0.113.9/32")},
		{Node: "c", Addresses: addresses("192.0.2.3"), Prefixes: prefixes("10.244.3.0/24", "203.0.113.7/32")},
		{Node: "d", Addresses: addresses("192.0.2.4"), Prefixes: prefixes("10.244.4.0/24")},
	}
	if diff := cmp.Diff(want, peers, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var told []string
	for _, problem := range problems {
		told = append(told, problem.Error())
	}
	all := strings.Join(told, "\n")
	for _, refused := range []string{"10.244.3.4/32 overlaps 10.244.3.0/24", "0.0.0.0/0 overlaps", "10.96.0.1/32 overlaps 10.96.0.0/16",
		"192.0.2.1/32 overlaps", "node c are not reached by this address: annotation k8sm.io/pod-prefixes: 203.0.113.9/32 overlaps", `node d: annotation k8sm.io/pod-prefixes: "nonsense"`} {
		if !strings.Contains(all, refused) {
			t.Errorf("no problem has %q:\n%s", refused, all)
		}
	}
	if len(problems) != 6 {
		t.Errorf("%d problems", len(problems))
	}
}
