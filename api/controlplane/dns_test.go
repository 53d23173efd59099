package controlplane

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestPodsAreToldOfTheTenthServiceAddressUnlessNoneReachesThisMachine(t *testing.T) {
	for name, test := range map[string]struct {
		change       func(*Config)
		pods, serves []string
	}{
		"on loopback":   {func(*Config) {}, nil, nil},
		"reachable":     {func(c *Config) { c.AdvertiseAddress = "10.0.0.9" }, []string{"10.96.0.10"}, []string{"10.96.0.10"}},
		"another range": {func(c *Config) { c.BindAddress, c.ServiceCIDR = "10.0.0.9", "10.9.8.0/24" }, []string{"10.9.8.10"}, []string{"10.9.8.10"}},
		"two ranges": {func(c *Config) { c.BindAddress, c.ServiceCIDR = "fd00::9", "fd96::/112,10.96.0.0/16" },
			[]string{"fd96::a"}, []string{"fd96::a"}},
		"a service's":      {func(c *Config) { c.ClusterDNS = []string{"10.96.0.53"} }, []string{"10.96.0.53"}, []string{"10.96.0.53"}},
		"servers of yours": {func(c *Config) { c.ClusterDNS = []string{"10.0.0.2"} }, []string{"10.0.0.2"}, nil},
		"both": {func(c *Config) { c.ClusterDNS = []string{"10.96.0.53", "10.0.0.2"} },
			[]string{"10.96.0.53", "10.0.0.2"}, []string{"10.96.0.53"}},
	} {
		c := defaults("/s")
		test.change(&c)
		minions, err := c.minionConfig()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.pods, minions.ClusterDNS); diff != "" {
			t.Errorf("%s: pods are told (-want +got):\n%s", name, diff)
		}
		if got := c.DNSService(); !slices.Equal(test.serves, got) {
			t.Errorf("%s: the service has %v, want %v", name, got, test.serves)
		}
		var addresses []string
		for _, o := range c.dns() {
			if s, ok := o.(*corev1.Service); ok {
				addresses = s.Spec.ClusterIPs
				if len(s.Spec.Selector) > 0 {
					t.Errorf("%s: the service selects pods %v, and would lose its servers to them", name, s.Spec.Selector)
				}
			}
		}
		if !slices.Equal(test.serves, addresses) {
			t.Errorf("%s: the service is made with %v, want %v", name, addresses, test.serves)
		}
	}
}
