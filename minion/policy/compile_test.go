package policy

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// town is a cluster of two nodes for the golden files.
func town() State {
	pod := func(namespace, name, node string, addresses ...string) Pod {
		p := Pod{Namespace: namespace, UID: types.UID(name), Node: node, Labels: map[string]string{"app": name}}
		for _, address := range addresses {
			p.Addresses = append(p.Addresses, netip.MustParseAddr(address))
		}
		return p
	}
	s := State{Node: "one", DNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Namespaces: map[string]map[string]string{"shop": {"team": "shop"}, "ops": {"team": "ops"}}, Pods: []Pod{
		pod("shop", "web", "one", "10.0.0.2", "fd00::2"), pod("shop", "db", "one", "10.0.0.3", "fd00::3"),
		pod("shop", "web2", "two", "10.0.1.2"), pod("ops", "prometheus", "two", "10.0.1.3", "fd00:1::3"),
	}}
	s.Pods[1].Ports = []Port{{"sql", TCP, 5432}, {"metrics", TCP, 9187}}
	s.Pods[0].Ports = []Port{{"metrics", TCP, 8080}}
	return s
}

// TestRulesAreTheGoldenOnes renders the policies of each file in testdata for one cluster.
func TestRulesAreTheGoldenOnes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("there are no policies")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			must(t, err)
			state := town()
			for _, document := range strings.Split(string(text), "---\n") {
				policy := new(networkingv1.NetworkPolicy)
				must(t, yaml.UnmarshalStrict([]byte(document), policy))
				state.Policies = append(state.Policies, policy)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".nft"
			got := Compile(state).String()
			if *update {
				must(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("rules differ (-golden +got):\n%s", diff)
			}
		})
	}
}

func TestAddressBelongsToOnePod(t *testing.T) {
	address := netip.MustParseAddr("10.0.0.2")
	old := Pod{Namespace: "x", UID: "old", Node: "one", Addresses: []netip.Addr{address}, Created: time.Unix(1, 0)}
	young := Pod{Namespace: "x", UID: "young", Node: "one", Addresses: []netip.Addr{address}, Created: time.Unix(2, 0)}
	for name, test := range map[string]struct {
		pods      []Pod
		sandboxes []Sandbox
		owner     types.UID
	}{
		"the youngest":              {[]Pod{old, young}, nil, "young"},
		"the one that has it here":  {[]Pod{young, old}, []Sandbox{{UID: "old", Addresses: []netip.Addr{address}}}, "old"},
		"one that nobody knows yet": {[]Pod{old}, []Sandbox{{UID: "new", Addresses: []netip.Addr{address}}}, "new"},
	} {
		var owners []types.UID
		for _, e := range (State{Node: "one", Pods: test.pods, Sandboxes: test.sandboxes}).endpoints() {
			if slices.Contains(e.Addresses, address) {
				owners = append(owners, e.UID)
			}
		}
		if !slices.Equal(owners, []types.UID{test.owner}) {
			t.Errorf("%s: %v have it", name, owners)
		}
	}
}

func TestLabelsOfTheAPIServerWinOverThoseOfTheSandbox(t *testing.T) {
	state := town()
	state.Sandboxes = []Sandbox{{ID: "s", UID: "web", Namespace: "shop", Labels: map[string]string{"app": "old"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}}
	for _, e := range state.endpoints() {
		if e.UID == "web" && (e.Labels["app"] != "web" || len(e.Addresses) != 3 || !e.local) {
			t.Errorf("%+v", e)
		}
	}
}

func TestIPBlocksAreTheirRangesLessTheExceptions(t *testing.T) {
	for _, test := range []struct {
		cidr   string
		except []string
		want   string
	}{
		{"10.0.0.0/8", nil, "10.0.0.0-10.255.255.255"},
		{"10.0.0.7/8", []string{"10.0.0.0/9"}, "10.128.0.0-10.255.255.255"},
		{"10.0.0.0/8", []string{"10.0.0.0/8"}, ""},
		{"0.0.0.0/0", []string{"255.255.255.255/32", "0.0.0.0/32"}, "0.0.0.1-255.255.255.254"},
		{"10.0.0.0/24", []string{"10.0.0.64/26", "10.0.0.66/32"}, "10.0.0.0-10.0.0.63, 10.0.0.128-10.0.0.255"},
		{"10.0.0.4/32", nil, "10.0.0.4"},
		{"fd00::/64", []string{"fd00::/65"}, "fd00::8000:0:0:0-fd00::ffff:ffff:ffff:ffff"},
	} {
		spans, err := blockSpans(&networkingv1.IPBlock{CIDR: test.cidr, Except: test.except})
		must(t, err)
		if got := families[0].of(union(spans)) + families[1].of(union(spans)); got != test.want {
			t.Errorf("%s except %s: %s, want %s", test.cidr, test.except, got, test.want)
		}
	}
	for _, block := range []networkingv1.IPBlock{{CIDR: "10.0.0.0"}, {CIDR: "10.0.0.0/8", Except: []string{"x"}}} {
		if _, err := blockSpans(&block); err == nil {
			t.Errorf("%v was read", block)
		}
	}
}

func TestRangesThatTouchAreJoined(t *testing.T) {
	var spans []span
	for _, cidr := range []string{"10.0.1.0/24", "fd00::/64", "255.255.255.255/32", "10.0.0.0/24", "10.0.0.128/25", "255.255.255.254/32"} {
		s, err := parseSpan(cidr)
		must(t, err)
		spans = append(spans, s)
	}
	joined := union(spans)
	if got := families[0].of(joined); got != "10.0.0.0-10.0.1.255, 255.255.255.254-255.255.255.255" {
		t.Error(got)
	}
	ports := joinPorts([]portRange{{80, 80}, {0, 79}, {100, 200}, {150, 160}, {65535, 65535}})
	if !slices.Equal(ports, []portRange{{0, 80}, {100, 200}, {65535, 65535}}) {
		t.Error(ports)
	}
}

func TestWhatCannotBeReadAllowsNothing(t *testing.T) {
	bad := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like"}}}
	good := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}
	unknown := corev1.Protocol("DCCP")
	for name, rule := range map[string]networkingv1.NetworkPolicyIngressRule{
		"a peer's selector":   {From: []networkingv1.NetworkPolicyPeer{{PodSelector: &bad}}},
		"a range":             {From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "everything"}}}},
		"a protocol":          {From: []networkingv1.NetworkPolicyPeer{good}, Ports: []networkingv1.NetworkPolicyPort{{Protocol: &unknown}}},
		"a protocol, for all": {Ports: []networkingv1.NetworkPolicyPort{{Protocol: &unknown, Port: new(intstr.FromInt32(80))}}},
	} {
		state := town()
		state.Policies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: bad, Ingress: []networkingv1.NetworkPolicyIngressRule{rule}}}}
		rules := Compile(state)
		if len(rules.Sets["ingress4"].Elements) != 2 {
			t.Errorf("%s: pods are not isolated:\n%s", name, rules)
		}
		if _, err := parseSpan(""); err == nil {
			t.Error("nothing was taken for a range")
		}
		for _, line := range rules.Chains["ingress/shop/p"] {
			set := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(line, "ip saddr @"), "ip6 saddr @"), " accept")
			if len(rules.Sets[set].Elements) > 0 || set == line {
				t.Errorf("%s: something is allowed:\n%s", name, rules)
			}
		}
	}
}

func TestNamesFitTheKernelsLimits(t *testing.T) {
	state := town()
	namespace, name := strings.Repeat("n", 63), strings.Repeat("p", 253)
	state.Pods[0].Namespace = namespace
	for _, end := range []string{"a", "b"} {
		state.Policies = append(state.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name[1:] + end}})
	}
	rules := Compile(state)
	count := 0
	for chain := range rules.Chains {
		if len(chain) > 255 {
			t.Errorf("chain name %s has %d bytes, at most 255 are allowed", chain, len(chain))
		}
		if strings.HasPrefix(chain, "ingress/") {
			count++
		}
	}
	if count != 2 {
		t.Errorf("two policies with long names have %d chains", count)
	}
	if one, two := TableName("k8sm", "a-5051"), TableName("k8sm", "a-5052"); one == two {
		t.Errorf("two nodes of one machine share table %s", one)
	}
}
