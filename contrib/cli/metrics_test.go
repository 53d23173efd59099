package cli

import (
	"slices"
	"testing"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/contrib/dns"
	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/k8sm/k8sm/contrib/metrics"
)

func TestMetricsServerRunsUnlessItIsOffOrNobodyReachesTheControlPlane(t *testing.T) {
	for name, test := range map[string]struct {
		plane   controlplane.Config
		enabled bool
		address string
		want    bool
	}{
		"reachable":   {controlplane.Config{BindAddress: "10.0.0.5"}, true, "10.0.0.5", true},
		"advertised":  {controlplane.Config{BindAddress: "0.0.0.0", AdvertiseAddress: "10.0.0.6"}, true, "10.0.0.6", true},
		"on loopback": {controlplane.Config{BindAddress: "127.0.0.1"}, true, "127.0.0.1", false},
		"off":         {controlplane.Config{BindAddress: "10.0.0.5"}, false, "10.0.0.5", false},
	} {
		plane := test.plane
		plane.StateDir, plane.ClusterName = "/s", "mine"
		replicas := dns.Replicas{Count: 2, MetricsPort: 7000}
		got := metricsOf(&common{}, &plane, replicas, metrics.Beside{Process: membership.Process{Enabled: test.enabled}})
		if got.Enabled != test.want || plane.Metrics != test.want {
			t.Errorf("%s: a server runs: %t, the control plane expects one: %t", name, got.Enabled, plane.Metrics)
		}
		if got.Address != test.address || got.Dir != "/s" || got.ClusterName != "mine" || !slices.Equal(got.DNS, []string{"127.0.0.1:7000", "127.0.0.1:7001"}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
