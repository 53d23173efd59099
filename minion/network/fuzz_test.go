package network

import (
	"errors"
	"strings"
	"testing"
)

// printed is an iptables that lists these lines, whatever the chain.
type printed struct {
	IPTables
	lines []string
}

func (l printed) List(string, string) ([]string, error) {
	if l.lines == nil {
		return nil, errors.New("no such chain")
	}
	return l.lines, nil
}

// FuzzIPTablesOutput reads what iptables -S prints.
func FuzzIPTablesOutput(f *testing.F) {
	for _, seed := range []string{
		"-N K8SM\n-A K8SM -m comment --comment \"it\\'s\" -j MARK", "", "-N K8SM", "-N K8SM\n-A K8SM --comment word -j K8SM-X", "-N X\n-A X --comment \"", "-N X\n-A X --comment",
	} {
		f.Add(seed, "K8SM-X")
	}
	f.Fuzz(func(t *testing.T, text, target string) {
		lines := strings.Split(text, "\n")
		ipt := tables{IPTables: printed{lines: lines}}
		all, some := comments(ipt, "nat", "K8SM"), jumps(ipt, "nat", "K8SM", target)
		if len(all) != len(lines)-1 || len(some) > len(all) {
			t.Errorf("%q has the comments %q, and the jumps %q to %s", text, all, some, target)
		}
	})
}

// FuzzPodCIDRs reads a node's ranges.
func FuzzPodCIDRs(f *testing.F) {
	f.Add("10.244.1.0/24", "fd00::/64")
	f.Add("", "")
	f.Add("10.244.1.0/24", "10.244.2.0/24")
	f.Fuzz(func(t *testing.T, first, second string) {
		prefixes, err := parsePodCIDRs([]string{first, second})
		if err == nil && (len(prefixes) > 2 || len(prefixes) == 2 && prefixes[0].Addr().Is4() == prefixes[1].Addr().Is4()) {
			t.Errorf("%q and %q are read as %v", first, second, prefixes)
		}
	})
}
