package assigner

import (
	"strings"
	"testing"
)

func TestPoolsThatCannotWorkAreRefusedWithWhatIsWrong(t *testing.T) {
	for text, says := range map[string]string{
		"":         "no list under the key pools",
		"pools: 3": "not a list of pools",
		"pool: []": "unknown field",
		"pools: [{name: a, addresses: [10.0.0.1], adresses: []}]":                                  "unknown field",
		"pools: [{name: A_b, addresses: [10.0.0.1]}]":                                              `pool 1 has the name "A_b"`,
		"pools: [{addresses: [10.0.0.1]}]":                                                         "pool 1 has the name",
		"pools: [{name: a}]":                                                                       "pool a: it has no address",
		"pools: [{name: a, addresses: [10.0.0.1], exclude: [10.0.0.0/24]}]":                        "pool a: it has no address",
		"pools: [{name: a, addresses: [10.0.0.1]}, {name: a, addresses: [10.0.0.2]}]":              "pool a is there twice",
		"pools: [{name: a, addresses: [10.0.0.0/28]}, {name: b, addresses: [10.0.0.9-10.0.0.30]}]": "pools a and b both have 10.0.0.9-10.0.0.14",
		"pools: [{name: a, addresses: [10.0.0.300]}]":                                              `"10.0.0.300" is neither`,
		"pools: [{name: a, addresses: [10.0.0.0/33]}]":                                             "is no CIDR",
		"pools: [{name: a, addresses: [10.0.0.1/24]}]":                                             "write 10.0.0.0/24",
		"pools: [{name: a, addresses: [10.0.0.9-10.0.0.1]}]":                                       "its last address comes before its first",
		"pools: [{name: a, addresses: ['10.0.0.9-2001:db8::1']}]":                                  "is of another family",
		"pools: [{name: a, addresses: [10.0.0.9, '2001:db8::1']}]":                                 "both IPv4 and IPv6",
		"pools: [{name: a, addresses: ['::ffff:10.0.0.1']}]":                                       "write IPv4 addresses as such",
		"pools: [{name: a, addresses: ['fe80::1%eth0']}]":                                          "no zones",
		"pools: [{name: a, addresses: [127.0.0.1]}]":                                               "loopback",
		"pools: [{name: a, addresses: [223.255.255.0-224.0.0.1]}]":                                 "multicast",
		"pools: [{name: a, addresses: [169.254.0.0/24]}]":                                          "link-local",
		"pools: [{name: a, addresses: ['2001:db8::/64']}]":                                         "more than 16777216 addresses",
		"pools: [{name: a, addresses: [10.0.0.0/8, 11.0.0.0/24]}]":                                 "more than 16777216 addresses",
		"pools: [{name: a, addresses: [10.0.0.1], namespaces: []}]":                                "pool a: its list of namespaces is empty",
		"pools: [{name: a, addresses: [10.0.0.1], namespaces: [web, web]}]":                        "pool a: it has namespace web twice",
		"pools: [{name: a, addresses: [10.0.0.1], namespaces: ['team-*']}]":                        `"team-*" is not the name of a namespace`,
		"pools: [{name: a, addresses: [10.0.0.1], namespaces: web}]":                               "not a list of pools",
	} {
		if _, err := ParsePools([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

func TestPoolHasTheAddressesThatHostsHave(t *testing.T) {
	for text, want := range map[string]int{
		"10.0.0.0/24": 254, "10.0.0.0/30": 2, "10.0.0.0/31": 2, "10.0.0.7/32": 1, "10.0.0.7": 1, "10.0.0.0-10.0.0.255": 256, "2001:db8::/120": 256,
	} {
		pools, err := compile([]Pool{{Name: "a", Addresses: []string{text, text}}})
		if err != nil || pools[0].size != want {
			t.Errorf("%s: %v, %v, want %d", text, pools, err, want)
		}
	}
	pools, err := compile([]Pool{{Name: "a", Addresses: []string{"10.0.0.0/24"}, Exclude: []string{"10.0.0.0/25", "10.0.0.200-10.0.0.209"}}})
	if err != nil || pools[0].size != 117 {
		t.Errorf("with exceptions: %v, %v", pools, err)
	}
}
