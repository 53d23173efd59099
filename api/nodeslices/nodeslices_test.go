package nodeslices

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

func addresses(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestNodeIsWhatOthersNeedOfIt(t *testing.T) {
	object := func(agent string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{api.AnnotationPodPrefixes: "203.0.113.7/32", api.AnnotationAgentAddress: agent}},
			Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.244.1.9/24", "fd00:1::/64", "nonsense"}},
			Status: corev1.NodeStatus{
				Addresses: []corev1.NodeAddress{
					{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
					{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.2"},
					{Type: corev1.NodeInternalIP, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
				},
				Images: []corev1.ContainerImage{{SizeBytes: 1}},
			},
		}
	}
	want := Node{
		Name: "n1", Addresses: addresses("192.0.2.1", "2001:db8::1"), PodCIDRs: prefixes("10.244.1.0/24", "fd00:1::/64"), PodPrefixes: "203.0.113.7/32",
	}
	for _, agent := range []string{"", "nonsense", "192.0.2.1:5051"} {
		if got := Of(object(agent)); !got.Equal(want) {
			t.Errorf("with agent %q it is %+v, want %+v", agent, got, want)
		}
	}
	want.Agent = netip.MustParseAddr("192.0.2.9")
	if got := Of(object("192.0.2.9:5051")); !got.Equal(want) {
		t.Errorf("with an agent elsewhere it is %+v, want %+v", got, want)
	}
}

func TestNodesDifferInEachOfTheirFields(t *testing.T) {
	node := Node{Name: "n1", Addresses: addresses("192.0.2.1"), PodCIDRs: prefixes("10.244.1.0/24"), PodPrefixes: "203.0.113.7/32", Agent: addresses("192.0.2.9")[0]}
	for what, change := range map[string]func(*Node){
		"name":     func(n *Node) { n.Name = "n2" },
		"address":  func(n *Node) { n.Addresses = nil },
		"pod CIDR": func(n *Node) { n.PodCIDRs = nil },
		"prefixes": func(n *Node) { n.PodPrefixes = "" },
		"agent":    func(n *Node) { n.Agent = netip.Addr{} },
	} {
		other := node
		change(&other)
		if node.Equal(other) {
			t.Errorf("nodes with another %s are equal", what)
		}
	}
	if !node.Equal(node) {
		t.Error("a node is not equal to itself")
	}
}

// encoded is Encode for nodes that can be encoded.
func encoded(t testing.TB, nodes ...Node) string {
	t.Helper()
	text, err := Encode(nodes)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSliceIsALineForEachNode(t *testing.T) {
	nodes := []Node{
		{Name: "b", PodPrefixes: "203.0.113.7/32", Agent: addresses("192.0.2.9")[0]},
		{Name: "a", Addresses: addresses("192.0.2.1", "2001:db8::1"), PodCIDRs: prefixes("10.244.1.0/24")},
	}
	const want = `{"name":"a","addresses":["192.0.2.1","2001:db8::1"],"podCIDRs":["10.244.1.0/24"]}
{"name":"b","podPrefixes":"203.0.113.7/32","agent":"192.0.2.9"}
`
	text := encoded(t, nodes...)
	if text != want {
		t.Errorf("it is\n%s", text)
	}
	slices.Reverse(nodes)
	if again, err := Decode(text); err != nil || !slices.EqualFunc(again, nodes, Node.Equal) {
		t.Errorf("it is read as %+v, %v", again, err)
	}
	later := `{"name":"a","addresses":["192.0.2.1","2001:db8::1"],"podCIDRs":["10.244.1.0/24"],"zone":"z1"}`
	if got, err := Decode(later); err != nil || len(got) != 1 || !got[0].Equal(nodes[0]) {
		t.Errorf("with a field of a later version it is read as %+v, %v", got, err)
	}
}

// FuzzSlice reads slices that anybody may have written: what can be read is written as it was.
func FuzzSlice(f *testing.F) {
	f.Add(encoded(f, Node{Name: "a", Addresses: addresses("192.0.2.1"), PodCIDRs: prefixes("10.244.1.0/24")}, Node{Name: "b", PodPrefixes: "<x>"}))
	f.Add("{\"name\":\"b\",\"agent\":\"fe80::1%eth0\"}\n{\"name\":\"a\"}\n{\"name\":\"a\"}")
	f.Add("{}\n")
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		nodes, err := Decode(text)
		if err != nil {
			return
		}
		once := encoded(t, nodes...)
		again, err := Decode(once)
		if err != nil || len(again) != len(nodes) {
			t.Fatalf("%q became %q, which has %d of %d nodes: %v", text, once, len(again), len(nodes), err)
		}
		if twice := encoded(t, again...); twice != once {
			t.Errorf("%q became %q", once, twice)
		}
	})
}

func numbered(i int) Node {
	return Node{Name: fmt.Sprintf("agent-%d.example", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})},
		PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}}
}

// planned is Plan for nodes that can be encoded.
func planned(t *testing.T, have Texts, nodes []Node) Texts {
	t.Helper()
	texts, err := Plan(have, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// assigned says which slice each node has, and fails if one has two, or if a slice is empty or too full.
func assigned(t *testing.T, texts Texts) map[string]string {
	t.Helper()
	of := map[string]string{}
	for name, text := range texts {
		nodes, err := Decode(text)
		if err != nil || len(nodes) == 0 || len(nodes) > SliceSize {
			t.Errorf("slice %s has %d nodes: %v", name, len(nodes), err)
		}
		for _, node := range nodes {
			if other, twice := of[node.Name]; twice {
				t.Errorf("node %s is in slices %s and %s", node.Name, name, other)
			}
			of[node.Name] = name
		}
	}
	return of
}

func TestNodesKeepTheirSlices(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	nodes, texts := map[int]Node{}, Texts{}
	for step := range 200 {
		for range random.IntN(40) {
			i := random.IntN(600)
			if _, there := nodes[i]; there && (random.IntN(2) == 0 || step > 150) {
				delete(nodes, i)
			} else if step <= 150 {
				nodes[i] = numbered(i)
			}
		}
		before := assigned(t, texts)
		after := planned(t, texts, slices.Collect(maps.Values(nodes)))
		now := assigned(t, after)
		if len(now) != len(nodes) {
			t.Fatalf("step %d: %d of %d nodes are in slices", step, len(now), len(nodes))
		}
		for _, node := range nodes {
			if was := before[node.Name]; was != "" && was != now[node.Name] {
				t.Fatalf("step %d: node %s moves from %s to %s", step, node.Name, was, now[node.Name])
			}
		}
		texts = after
	}
	if texts = planned(t, texts, nil); len(texts) > 0 {
		t.Errorf("without nodes there are slices: %v", texts)
	}
}

func TestChangeOfANodeTouchesOneSlice(t *testing.T) {
	var nodes []Node
	for i := range 10 * SliceSize {
		nodes = append(nodes, numbered(i))
	}
	texts := planned(t, nil, nodes)
	if len(texts) != 10 {
		t.Errorf("%d nodes are in %d slices", len(nodes), len(texts))
	}
	if changes := Changes(texts, planned(t, texts, nodes)); len(changes) > 0 {
		t.Errorf("without a change these differ: %v", changes)
	}
	for what, change := range map[string]func([]Node) []Node{
		"another prefix": func(list []Node) []Node { list[77].PodPrefixes = "203.0.113.7/32"; return list },
		"a new node":     func(list []Node) []Node { return append(list, numbered(9999)) },
		"a node gone":    func(list []Node) []Node { return slices.Delete(list, 77, 78) },
	} {
		if changes := Changes(texts, planned(t, texts, change(slices.Clone(nodes)))); len(changes) != 1 {
			t.Errorf("%s changes %v", what, changes)
		}
	}
}

func TestSlicesThatOthersHaveSpoiledAreRepaired(t *testing.T) {
	nodes := []Node{numbered(1), numbered(2)}
	right := planned(t, nil, nodes)
	for what, have := range map[string]Texts{
		"unreadable":         {"nodes-0": "{"},
		"a node twice":       {"nodes-0": encoded(t, nodes...), "nodes-1": encoded(t, nodes[1])},
		"the same one twice": {"nodes-0": encoded(t, nodes[0], nodes[1], nodes[1])},
		"a node too many":    {"nodes-0": encoded(t, append(nodes, numbered(3))...)},
		"another address":    {"nodes-0": strings.ReplaceAll(encoded(t, nodes...), "192.0.0.1", "192.0.0.66")},
		"an empty slice":     {"nodes-0": encoded(t, nodes...), "nodes-1": ""},
	} {
		if got := planned(t, have, nodes); !maps.Equal(got, right) {
			t.Errorf("%s: it becomes %v", what, got)
		}
	}
	if got := planned(t, Texts{"other": encoded(t, nodes...)}, nodes); got["other"] != right["nodes-0"] || len(got) != 1 {
		t.Errorf("slices with other names become %v", got)
	}
}

func TestSlicesThatLoseNodesAreWrittenFirst(t *testing.T) {
	one, two, three := numbered(1), numbered(2), numbered(3)
	have := Texts{"nodes-0": encoded(t, one), "nodes-1": encoded(t, two, three), "nodes-2": encoded(t, numbered(4)), "nodes-3": encoded(t, numbered(5))}
	want := Texts{"nodes-0": encoded(t, one, two), "nodes-1": encoded(t, three), "nodes-3": encoded(t, numbered(5)), "nodes-4": encoded(t, numbered(6))}
	if got := Changes(have, want); !slices.Equal(got, []string{"nodes-1", "nodes-2", "nodes-0", "nodes-4"}) {
		t.Errorf("the order is %v", got)
	}
}
