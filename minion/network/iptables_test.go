package network

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// fakeIPTables behaves as the kernel's: chains have to exist, rules of one chain keep their order, a chain that is jumped
// to or not empty cannot be deleted.
type fakeIPTables struct {
	chains map[string][]string // "table/chain" to its rules
}

func newFakeIPTables() *fakeIPTables {
	return &fakeIPTables{chains: map[string][]string{
		"raw/PREROUTING": nil, "nat/PREROUTING": nil, "nat/OUTPUT": nil, "nat/POSTROUTING": nil, "filter/FORWARD": nil, "filter/INPUT": nil,
	}}
}

// Restore changes everything or nothing.
func (f *fakeIPTables) Restore(input string) error {
	next, table := fakeIPTables{chains: map[string][]string{}}, ""
	for name, rules := range f.chains {
		next.chains[name] = slices.Clone(rules)
	}
	for line := range strings.Lines(input) {
		line = strings.TrimSpace(line)
		command, rest, _ := strings.Cut(line, " ")
		chain, rule, _ := strings.Cut(rest, " ")
		words, key := strings.Fields(rule), table+"/"+chain
		var err error
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			next.chains[table+"/"+command[1:]] = nil
		case command == "-A", command == "-I":
			if err = next.check(table, chain, words); command == "-A" {
				next.chains[key] = append(next.chains[key], rule)
			} else {
				next.chains[key] = slices.Insert(next.chains[key], 0, rule)
			}
		case command == "-D":
			i := slices.Index(next.chains[key], rule)
			if i < 0 {
				return fmt.Errorf("no rule %s in chain %s", rule, chain)
			}
			next.chains[key] = slices.Delete(next.chains[key], i, i+1)
		case command == "-X":
			err = next.removeChain(table, chain)
		case command != "COMMIT":
			err = fmt.Errorf("what is %s?", line)
		}
		if err != nil {
			return err
		}
	}
	f.chains = next.chains
	return nil
}

func (f *fakeIPTables) check(table, chain string, rule []string) error {
	if _, ok := f.chains[table+"/"+chain]; !ok {
		return fmt.Errorf("no chain %s in table %s", chain, table)
	}
	target := rule[slices.Index(rule, "-j")+1]
	if _, ok := f.chains[table+"/"+target]; strings.HasPrefix(target, "K8SM") && !ok {
		return fmt.Errorf("no chain %s in table %s", target, table)
	}
	return nil
}

func (f *fakeIPTables) Insert(table, chain string, position int, rule ...string) error {
	if err := f.check(table, chain, rule); err != nil {
		return err
	}
	key := table + "/" + chain
	f.chains[key] = slices.Insert(f.chains[key], position-1, quote(rule))
	return nil
}

func (f *fakeIPTables) DeleteIfExists(table, chain string, rule ...string) error {
	if err := f.check(table, chain, rule); err != nil {
		return err
	}
	key := table + "/" + chain
	if i := slices.Index(f.chains[key], quote(rule)); i >= 0 {
		f.chains[key] = slices.Delete(f.chains[key], i, i+1)
	}
	return nil
}

func (f *fakeIPTables) removeChain(table, chain string) error {
	for name, rules := range f.chains {
		for _, rule := range rules {
			if strings.HasPrefix(name, table+"/") && strings.HasSuffix(rule, "-j "+chain) {
				return fmt.Errorf("chain %s is in use by %s", chain, name)
			}
		}
	}
	delete(f.chains, table+"/"+chain)
	return nil
}

func (f *fakeIPTables) List(table, chain string) ([]string, error) {
	lines := []string{"-N " + chain}
	for _, rule := range f.chains[table+"/"+chain] {
		lines = append(lines, "-A "+chain+" "+rule)
	}
	return lines, nil
}

func (f *fakeIPTables) ChainExists(table, chain string) (bool, error) {
	_, ok := f.chains[table+"/"+chain]
	return ok, nil
}

// listing is an IPTables that can be looked into; List's first line is the chain itself.
type listing interface {
	IPTables
	ChainExists(table, chain string) (bool, error)
}

// inNamespace runs the rest of the test in a network namespace of its own, beside other tests: they wait much.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	t.Parallel()
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and the namespace with it
	namespace, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Close() })
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		t.Fatal(err)
	}
}

// TestRulesOnFakeAndKernel is the conformance suite of the fake: both pass the same cases.
func TestRulesOnFakeAndKernel(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) listing{
		"fake": func(*testing.T) listing { return newFakeIPTables() },
		"kernel": func(t *testing.T) listing {
			inNamespace(t)
			ipt, err := openTables(IPv4)
			must(t, err)
			return ipt.IPTables.(listing)
		},
	} {
		t.Run(name, func(t *testing.T) { conform(t, open(t)) })
	}
}

func conform(t *testing.T, open listing) {
	ipt := tables{IPv4, open}
	mine := Plan{Cluster: "k8sm", Node: "agent-1", PodCIDRs: prefixes("10.244.1.0/24"), ClusterCIDR: "10.244.0.0/16"}
	other := Plan{Cluster: "k8sm", Node: "agent-2", PodCIDRs: prefixes("10.244.2.0/24"), ClusterCIDR: "10.244.0.0/16"}
	foreign := []string{"-i", "docker0", "-j", "DROP"}
	must(t, ipt.Insert("filter", "FORWARD", 1, foreign...))

	must(t, mine.remove(ipt)) // nothing there yet
	must(t, other.apply(ipt, nil))
	must(t, mine.apply(ipt, nil))
	once := snapshot(t, ipt, mine)
	must(t, ipt.Insert("filter", "FORWARD", 1, foreign...)) // as a Docker Engine that starts
	must(t, mine.apply(ipt, nil))
	if first := rules(t, ipt, "filter", "FORWARD")[0]; !strings.Contains(first, mine.Rules(IPv4)[3].Name) {
		t.Errorf("applied again, our jump is not the first of FORWARD but %q is", first)
	}
	must(t, ipt.DeleteIfExists("filter", "FORWARD", foreign...))
	if diff := cmp.Diff(once, snapshot(t, ipt, mine)); diff != "" {
		t.Errorf("applying twice differs from once (-once +twice):\n%s", diff)
	}

	must(t, mine.remove(ipt))
	for _, chain := range mine.Rules(IPv4) {
		if exists, err := open.ChainExists(chain.Table, chain.Name); exists || err != nil {
			t.Errorf("chain %s is left: %v %v", chain.Name, exists, err)
		}
	}
	if left := rules(t, ipt, "filter", "FORWARD"); len(left) != 2 {
		t.Errorf("FORWARD has %q, want the other node's jump and the foreign rule", left)
	}
	must(t, mine.remove(ipt))
	must(t, other.remove(ipt))
}

func snapshot(t *testing.T, ipt tables, p Plan) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, chain := range p.Rules(ipt.Family) {
		counts[chain.Name] = len(rules(t, ipt, chain.Table, chain.Name))
		for _, parent := range chain.Parents {
			counts[parent] = len(rules(t, ipt, chain.Table, parent))
		}
	}
	return counts
}

func rules(t *testing.T, ipt tables, table, chain string) []string {
	t.Helper()
	lines, err := ipt.List(table, chain)
	if err != nil {
		t.Fatal(err)
	}
	return lines[1:]
}

func TestAddressWithoutPodIsUnreachable(t *testing.T) {
	inNamespace(t)
	plan := Plan{Cluster: "k8sm", Node: "agent-1", PodCIDRs: prefixes("10.244.1.0/24"), ClusterCIDR: "10.244.0.0/16"}
	must(t, plan.addRoutes())
	must(t, plan.addRoutes()) // a restart
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	if len(routes) != 1 || routes[0].Type != 7 { // RTN_UNREACHABLE
		t.Errorf("routes are %v, want one unreachable one", routes)
	}
	must(t, plan.applyRoutes(nil))
	must(t, plan.applyRoutes(nil))
	if routes, err := netlink.RouteList(nil, netlink.FAMILY_V4); err != nil || len(routes) != 0 {
		t.Errorf("left behind: %v %v", routes, err)
	}
}

func TestFirewallChainOfTheProxyGoesUnlessItIsUsed(t *testing.T) {
	inNamespace(t)
	ipt, err := iptables.New()
	must(t, err)
	must(t, RemoveEmptyFirewall()) // there is none
	must(t, ipt.NewChain("filter", "KUBE-FIREWALL"))
	must(t, ipt.Append("filter", "INPUT", "-j", "KUBE-FIREWALL"))
	must(t, ipt.Append("filter", "KUBE-FIREWALL", "-s", "192.0.2.0/24", "-j", "DROP"))
	must(t, RemoveEmptyFirewall())
	if exists, err := ipt.ChainExists("filter", "KUBE-FIREWALL"); !exists || err != nil {
		t.Errorf("a chain with a rule was removed: %v", err)
	}
	must(t, ipt.ClearChain("filter", "KUBE-FIREWALL"))
	must(t, RemoveEmptyFirewall())
	if exists, err := ipt.ChainExists("filter", "KUBE-FIREWALL"); exists || err != nil {
		t.Errorf("the empty chain is left: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
