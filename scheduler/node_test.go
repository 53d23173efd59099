package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler/match"
)

func TestNodeTellsNoAddressThatIsItsMachinesOwn(t *testing.T) {
	name := v1.NodeAddress{Type: v1.NodeHostName, Address: "a1"}
	for ip, want := range map[string][]v1.NodeAddress{
		"10.0.0.1": {{Type: v1.NodeInternalIP, Address: "10.0.0.1"}, name}, "127.0.0.1": {name}, "::1": {name}, "": {name},
	} {
		if diff := cmp.Diff(want, addresses(&agent{Agent: match.Agent{Node: "a1"}, last: offers.Offer{Hostname: "host", IP: ip}})); diff != "" {
			t.Errorf("of an agent at %q: %s", ip, diff)
		}
	}
}
