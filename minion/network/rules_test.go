package network

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// render shows the chains as iptables-save would.
func render(p Plan, f Family) string {
	var out strings.Builder
	for _, chain := range p.Rules(f) {
		fmt.Fprintf(&out, "*%s\n", chain.Table)
		for _, parent := range chain.Parents {
			fmt.Fprintf(&out, "-A %s %s\n", parent, quote(p.jump(chain)))
		}
		for _, rule := range chain.Rules {
			fmt.Fprintf(&out, "-A %s %s\n", chain.Name, quote(rule))
		}
	}
	return out.String()
}

// renderPods shows the rules of a pod with host ports, and of one with addresses of pools.
func renderPods(p Plan, f Family) string {
	var out strings.Builder
	pod := endpoint{Addresses: addresses("10.244.1.2", "fd00:244:1::2"), LinkLocal: netip.MustParseAddr("fe80::2"), Sandbox: Sandbox{Pod: "default/web", Ports: []Port{
		{Protocol: "TCP", HostPort: 8080, ContainerPort: 80},
		{Protocol: "UDP", HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 53, ContainerPort: 5353},
		{Protocol: "TCP", HostIP: netip.MustParseAddr("2001:db8::1"), HostPort: 8081, ContainerPort: 80}, // by its family only
	}}}
	static := endpoint{Addresses: addresses("198.51.100.7"), Sandbox: Sandbox{Pod: "default/known", Address: netip.MustParseAddr("198.51.100.7")}}
	for _, r := range append(p.podRules(f, pod), p.podRules(f, static)...) {
		fmt.Fprintf(&out, "*%s\n-I %s 1 %s\n", r.table, r.chain, quote(r.rule))
	}
	return out.String()
}

func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if strings.Contains(word, " ") {
			quoted[i] = fmt.Sprintf("%q", word)
		}
	}
	return strings.Join(quoted, " ")
}

func TestRulesAreTheGoldenOnes(t *testing.T) {
	both := Plan{Cluster: "k8sm", Node: "agent-1", PodCIDRs: prefixes("10.244.1.0/24", "fd00:244:1::/64"), ClusterCIDR: "10.244.0.0/16,fd00:244::/48",
		Beyond: prefixes("198.51.100.9/32", "2001:db8:7::9/128")}
	for name, plan := range map[string]Plan{
		"both_families": both,
		"vxlan": {Cluster: "k8sm", Node: "agent-1", PodCIDRs: prefixes("10.244.1.0/24"), ClusterCIDR: "10.244.0.0/16",
			Network: api.PodNetwork{Mode: api.NetworkVXLAN, VXLANPort: 8472}},
		"cluster_cidr":    {Cluster: "k8sm", Node: "agent-1", PodCIDRs: prefixes("10.244.1.0/24"), ClusterCIDR: "10.244.0.0/16"},
		"no_cluster_cidr": {Cluster: "k8sm", Node: "agent-1", PodCIDRs: prefixes("10.244.1.0/24")},
	} {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", name+".txt")
			got := render(plan, IPv4) + renderPods(plan, IPv4)
			if len(plan.PodCIDRs) > 1 {
				got += "ip6tables:\n" + render(plan, IPv6) + renderPods(plan, IPv6)
			}
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("rules differ (-golden +got):\n%s", diff)
			}
		})
	}
}

func TestNamesFitTheKernelsLimits(t *testing.T) {
	plan := Plan{Cluster: strings.Repeat("c", 60), Node: strings.Repeat("n", 200) + ".example.org", PodCIDRs: prefixes("10.0.0.0/24")}
	if name := plan.link(strings.Repeat("f", 64)); len(name) > 15 {
		t.Errorf("interface name %s has %d bytes, at most 15 are allowed", name, len(name))
	}
	for _, chain := range plan.Rules(IPv4) {
		if len(chain.Name) > 28 {
			t.Errorf("chain name %s has %d bytes, at most 28 are allowed", chain.Name, len(chain.Name))
		}
		for _, rule := range append(chain.Rules, plan.jump(chain)) {
			if comment := rule[3]; len(comment) > 255 {
				t.Errorf("comment has %d bytes, at most 255 are allowed: %s", len(comment), comment)
			}
		}
	}
}

func TestTwoNodesOnOneMachineShareNothing(t *testing.T) {
	one, other := Plan{Cluster: "k8sm", Node: "host-5051"}, Plan{Cluster: "k8sm", Node: "host-5052"}
	if one.LinkPrefix() == other.LinkPrefix() || one.Rules(IPv4)[0].Name == other.Rules(IPv4)[0].Name {
		t.Errorf("%+v and %+v share a name", one, other)
	}
}
