package minion

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// FuzzAgentFlags reads what an agent discloses of its flags.
func FuzzAgentFlags(f *testing.F) {
	for _, seed := range []string{"", "[0-1000, 31000-32000]", "[10250-10250]", "[10249-99999999999999999999]", "-", "[1 - 20000]", "1-2-3"} {
		f.Add("network/ports,cgroups/cpu", seed)
	}
	f.Fuzz(func(t *testing.T, isolation, ranges string) {
		problem := portsProblem(map[string]string{
			"isolation": isolation, "enforce_container_ports": "true", "check_agent_port_range_only": "false", "container_ports_isolated_range": ranges,
		})
		if problem != "" && (!strings.Contains(isolation, "network/ports") || ranges != "" && !containsPort(ranges, kubeletPort)) {
			t.Errorf("isolation %q of the ports %q: %s", isolation, ranges, problem)
		}
		if containsPort(ranges, kubeletPort) && !regexp.MustCompile(`\d+\s*-\s*\d+`).MatchString(ranges) {
			t.Errorf("%q has port %d", ranges, kubeletPort)
		}
	})
}

// FuzzLastWords reads the log of a program that does not start.
func FuzzLastWords(f *testing.F) {
	for _, seed := range []string{"", "\n", "E0101 12:00:00.000000       1 run.go:74] \"command failed\" err=\"no\"\n", "a] ", "err=", strings.Repeat("x", 20<<10)} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "kubelet.log")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if words := lastWords(path); !strings.Contains(string(text), words) || strings.Contains(words, "\n") {
			t.Errorf("the last words of %q are %q", text, words)
		}
	})
}

// FuzzPeers reads what the objects of other nodes say of their pods' addresses: no range is of two nodes.
func FuzzPeers(f *testing.F) {
	f.Add("10.0.0.2", "10.244.1.0/24", "192.0.2.7/32", "10.96.0.0/12")
	f.Add("", "", "10.244.0.0/16", "")
	f.Add("fd00::2", "fd00:1::/64", "x", "10.96.0.0/12,fd00:2::/108")
	f.Add("10.0.0.2", "10.244.1.7/24", "0.0.0.0/0, ::/0", "10.96.0.0/12")
	f.Fuzz(func(t *testing.T, address, podCIDR, further, serviceCIDR string) {
		node := func(name, address string, podCIDR string) *corev1.Node {
			return &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{api.AnnotationPodPrefixes: further}},
				Spec:       corev1.NodeSpec{PodCIDRs: []string{podCIDR}},
				Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}},
			}
		}
		nodes := []*corev1.Node{node("n1", "10.0.0.1", "10.244.0.0/24"), node("n2", address, podCIDR), node("n3", "10.0.0.3", "10.244.3.0/24")}
		var around surroundings
		around.takeCluster(slicedNodes(nodes), api.MinionConfig{ServiceCIDR: serviceCIDR})
		peers, _ := peersOf(slicedNodes(nodes), "n1", around)
		given := []string{"10.244.0.0/24", "10.244.3.0/24"} // by the control plane, which is believed
		if prefix, err := netip.ParsePrefix(podCIDR); err == nil {
			given = append(given, prefix.Masked().String())
		}
		for i, peer := range peers {
			for _, other := range peers[:i] {
				for _, prefix := range peer.Prefixes {
					if at := slices.IndexFunc(other.Prefixes, prefix.Overlaps); at >= 0 &&
						(!slices.Contains(given, prefix.String()) || !slices.Contains(given, other.Prefixes[at].String())) {
						t.Errorf("%s of node %s overlaps %s of node %s", prefix, peer.Node, other.Prefixes[at], other.Node)
					}
				}
			}
		}
	})
}
