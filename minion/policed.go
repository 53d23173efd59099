package minion

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/network"
	"github.com/k8sm/k8sm/minion/policy"
	"github.com/k8sm/k8sm/minion/status"
	"github.com/k8sm/k8sm/minion/supervise"
)

// policed is a network that enforces a sandbox's network policies before it reports the sandbox ready. Until then only the pause
// program runs in it.
type policed struct {
	cri.Network
	policies *policy.Enforcer
}

func (p policed) Attach(ctx context.Context, sandbox network.Sandbox) ([]netip.Addr, error) {
	addresses, err := p.Network.Attach(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	if err := p.policies.Attach(ctx, policySandbox(sandbox, addresses)); err != nil {
		return nil, errors.Join(err, p.Detach(context.WithoutCancel(ctx), sandbox.ID))
	}
	return addresses, nil
}

func (p policed) Detach(ctx context.Context, id string) error {
	if err := p.Network.Detach(ctx, id); err != nil {
		return err
	}
	p.policies.Detach(id)
	return nil
}

func (p policed) Keep(ctx context.Context, ids []string) error {
	if err := p.Network.Keep(ctx, ids); err != nil {
		return err
	}
	p.policies.Keep(ids)
	return nil
}

// policySandbox converts a sandbox, and drops the kubelet's own labels.
func policySandbox(s network.Sandbox, addresses []netip.Addr) policy.Sandbox {
	labels := maps.Clone(s.Labels)
	maps.DeleteFunc(labels, func(key, _ string) bool { return strings.HasPrefix(key, "io.kubernetes.pod.") })
	namespace, _, _ := strings.Cut(s.Pod, "/")
	return policy.Sandbox{ID: s.ID, Namespace: namespace, UID: types.UID(s.UID), Labels: labels, Addresses: addresses}
}

// preparePolicies makes the enforcer of network policies. If they are off, it removes the rules of an earlier minion.
func (n *node) preparePolicies(ctx context.Context) (err error) {
	if !n.cluster.EnforcesNetworkPolicies() {
		return policy.Remove(ctx, n.boot.Cluster, n.boot.Node)
	}
	if n.policies, err = policy.New(policy.Config{Cluster: n.boot.Cluster, Node: n.boot.Node, DNS: n.dns(), Synced: n.synced(status.NetworkPolicies)}); err != nil {
		return fmt.Errorf("%w; or start the control plane with --network-policy=false", err)
	}
	n.network.Each(func(s network.Sandbox, addresses []netip.Addr) { n.policies.Adopt(policySandbox(s, addresses)) })
	return nil
}

// dns returns the addresses of the cluster's DNS for pods. It skips invalid ones, which the kubelet rejects.
func (n *node) dns() (addresses []netip.Addr) {
	for _, text := range n.cluster.ClusterDNS {
		if address, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, address.Unmap())
		}
	}
	return addresses
}

// podNetwork returns the network to which the CRI server attaches sandboxes.
func (n *node) podNetwork() cri.Network {
	if n.policies == nil {
		return n.network
	}
	return policed{n.network, n.policies}
}

// enforcePolicies starts the enforcement. It returns nil if policies are off.
func (n *node) enforcePolicies(ctx context.Context, api kubernetes.Interface) *supervise.Part {
	if n.policies == nil {
		return nil
	}
	return supervise.Start(ctx, "network policy enforcement", func(ctx context.Context) error { return n.policies.Run(ctx, api) })
}
