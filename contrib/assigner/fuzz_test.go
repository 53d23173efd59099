package assigner

import (
	"net/netip"
	"testing"

	"sigs.k8s.io/yaml"
)

// FuzzPools reads the file of pools.
func FuzzPools(f *testing.F) {
	for _, seed := range []string{
		"pools:\n- name: a\n  addresses: [10.0.0.0/24, 10.0.1.5-10.0.1.9, 10.0.2.1]\n  exclude: [10.0.0.7]\n", "pools: []", "", "pools:", "{", "pools: [{name: A}]",
		"pools: [{name: a, addresses: [10.0.0.0/8]}]", "pools: [{name: a, addresses: [\"fd00::/112\"]}, {name: b, addresses: [\"fd00::1\"]}]",
		"pools: [{name: a, addresses: [10.0.0.1, \"fd00::1\"]}]", "pools: [{name: a, addresses: [10.0.0.1%eth0]}]", "pools: [{name: a, addresses: [\"::ffff:10.0.0.1\"]}]",
		"pools: [{name: a, addresses: [10.0.0.9-10.0.0.1]}]", "pools: [{name: a, addresses: [0.0.0.0/0]}]", "pools: [{name: a, addresses: [\"::/0\"]}]", "pools: [{name: a, addresses: [10.0.0.0/32]}]",
		"pools: [{name: a, addresses: [10.0.0.1], namespaces: [web]}]", "pools: [{name: a, addresses: [10.0.0.1], namespaces: []}]", "pools: [{name: a, addresses: [10.0.0.1], namespaces: [\"\"]}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pools, err := ParsePools(data)
		if err != nil {
			return
		}
		compiled, err := compile(pools)
		if err != nil || len(compiled) != len(pools) {
			t.Fatalf("%q is taken, but not as pools: %v", data, err)
		}
		for _, p := range compiled {
			address, ok := p.find(func(netip.Addr) bool { return true })
			if !ok || p.size < 1 || p.size > maxPool || address.Is6() != p.ipv6() || !p.set.Contains(address) {
				t.Errorf("%q: the first of %d addresses of pool %s is %s", data, p.size, p.Name, address)
			}
		}
		written, err := yaml.Marshal(map[string]any{"pools": pools})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParsePools(written); err != nil || len(again) != len(pools) {
			t.Errorf("%q is written as %q, which cannot be read: %v", data, written, err)
		}
	})
}
