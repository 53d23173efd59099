package minion

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/network"
	"github.com/k8sm/k8sm/minion/policy"
)

// attached is a network that records attached sandboxes.
type attached struct {
	cri.Network
	ids []string
}

func (a *attached) Attach(_ context.Context, s network.Sandbox) ([]netip.Addr, error) {
	a.ids = append(a.ids, s.ID)
	return []netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil
}

func (a *attached) Detach(_ context.Context, id string) error {
	a.ids = slices.DeleteFunc(a.ids, func(one string) bool { return one == id })
	return nil
}

func TestSandboxIsDetachedIfPoliciesAreNotReadyInTime(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to look at nftables")
	}
	policies, err := policy.New(policy.Config{Cluster: "k8sm", Node: "one"}) // never run, so never ready
	if err != nil {
		t.Fatal(err)
	}
	inner := &attached{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = policed{inner, policies}.Attach(ctx, network.Sandbox{ID: "s", Pod: "default/web"})
	if !errors.Is(err, context.Canceled) || len(inner.ids) > 0 {
		t.Errorf("attached are %v, %v", inner.ids, err)
	}
}

func TestPoliciesSeeOnlyThePodsOwnLabels(t *testing.T) {
	address := netip.MustParseAddr("10.0.0.2")
	told := network.Sandbox{ID: "s", Pod: "shop/web", UID: "u", Labels: map[string]string{"app": "web", "io.kubernetes.pod.name": "web"}}
	want := policy.Sandbox{ID: "s", Namespace: "shop", UID: "u", Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{address}}
	if diff := cmp.Diff(want, policySandbox(told, []netip.Addr{address}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(told.Labels) != 2 {
		t.Error("the original sandbox was changed")
	}
}
