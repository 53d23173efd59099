package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/coreos/go-iptables/iptables"
	dockernetwork "github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
)

// Config is what a Network is made of.
type Config struct {
	// Cluster and Node label what is made.
	Cluster, Node string
	// ClusterCIDR is the range of all pods' addresses; empty if it is not known.
	ClusterCIDR string
	// Docker is the Engine; it stays the caller's to close.
	Docker *client.Client
}

// Network is the pod network of one node. Its methods may be called concurrently.
type Network struct {
	cfg Config
	ipt IPTables

	mu   sync.Mutex // guards plan, and makes changes one at a time
	plan *Plan      // what Setup last made; nil while the network is not ready
}

// New returns a Network that is not set up. It fails if this machine has no iptables.
func New(cfg Config) (*Network, error) {
	ipt, err := iptables.New(iptables.IPFamily(iptables.ProtocolIPv4), iptables.Timeout(5))
	if err != nil {
		return nil, fmt.Errorf("cannot find iptables, which the pod network needs (Debian: apt-get install iptables): %w", err)
	}
	return &Network{cfg: cfg, ipt: ipt}, nil
}

// Setup makes the network for the node's pod CIDRs, of which the first IPv4 one is used. It may be called again, with the
// same value or another one, by this process or one after it: what is there already is kept or mended. Another value
// needs that no pod is left on the network.
func (n *Network) Setup(ctx context.Context, podCIDRs []string) error {
	podCIDR, err := firstIPv4(podCIDRs)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	plan := n.planFor(podCIDR.String())
	if err := enable(sysctlForward); err != nil {
		return err
	}
	if err := n.ensureDockerNetwork(ctx, plan, podCIDR); err != nil {
		return err
	}
	plan.BridgeFilter = bridgeFilter() // an Engine that manages iptables has loaded its module by now
	if err := errors.Join(plan.apply(n.ipt), plan.addRoute()); err != nil {
		return err
	}
	n.plan = &plan
	logrus.WithField("node", n.cfg.Node).Infof("the pod network %s is ready: %s on bridge %s", plan.Network(), podCIDR, plan.Bridge())
	return nil
}

// Adopt sets the network up again that an earlier process left, with its range, so that a kubelet that starts finds it
// ready: one that does not looks again only seconds later. Without such a network it does nothing.
func (n *Network) Adopt(ctx context.Context) error {
	existing, err := n.inspect(ctx, n.planFor("").Network())
	if err != nil || existing == nil || len(existing.IPAM.Config) == 0 {
		return err
	}
	return n.Setup(ctx, []string{existing.IPAM.Config[0].Subnet})
}

// DockerNetwork returns the name of the Docker network that pods join, or an error that says why there is none yet.
func (n *Network) DockerNetwork() (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plan == nil {
		return "", errors.New("the pod network is not set up: the node has been given no pod CIDR yet")
	}
	return n.plan.Network(), nil
}

// Teardown removes all that Setup makes, also what an earlier process made. The pods' containers must be gone.
func (n *Network) Teardown(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	plan, err := n.planToRemove(ctx)
	if err != nil {
		return err
	}
	n.plan = nil
	problems := errors.Join(plan.remove(n.ipt), plan.removeRoute())
	return errors.Join(problems, n.removeDockerNetwork(ctx, plan.Network()))
}

// removeDockerNetwork removes the Docker network. An Engine that ran many containers at a time may count some on it that
// are gone, and then refuses until it is restarted; the node's next start goes on with the network as it is.
func (n *Network) removeDockerNetwork(ctx context.Context, name string) error {
	err := n.cfg.Docker.NetworkRemove(ctx, name)
	if err == nil || cerrdefs.IsNotFound(err) {
		return nil
	}
	err = fmt.Errorf("cannot remove Docker network %s: %w", name, err)
	if left, inspectErr := n.inspect(ctx, name); inspectErr == nil && left != nil && len(left.Containers) == 0 {
		err = fmt.Errorf("%w; nothing is on it, so the Engine has miscounted: it mends that when it is restarted, and a node that starts here uses the network again", err)
	}
	return err
}

func (n *Network) planFor(podCIDR string) Plan {
	return Plan{Cluster: n.cfg.Cluster, Node: n.cfg.Node, PodCIDR: podCIDR, ClusterCIDR: n.cfg.ClusterCIDR}
}

// planToRemove is the plan of what is there: with the range of the Docker network if that exists. Nothing else that has
// to be removed depends on the range.
func (n *Network) planToRemove(ctx context.Context) (Plan, error) {
	existing, err := n.inspect(ctx, n.planFor("").Network())
	if err != nil || existing == nil || len(existing.IPAM.Config) == 0 {
		return n.planFor(""), err
	}
	return n.planFor(existing.IPAM.Config[0].Subnet), nil
}

// inspect returns the Docker network of that name, nil if there is none, and an error if it is not this node's.
func (n *Network) inspect(ctx context.Context, name string) (*dockernetwork.Inspect, error) {
	existing, err := n.cfg.Docker.NetworkInspect(ctx, name, dockernetwork.InspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look at Docker network %s: %w", name, err)
	}
	if existing.Labels[api.DockerLabelFramework] != n.cfg.Cluster || existing.Labels[api.DockerLabelNode] != n.cfg.Node {
		return nil, fmt.Errorf("cannot use Docker network %s: it is not of node %s (remove it: docker network rm %s)", name, n.cfg.Node, name)
	}
	return &existing, nil
}

// ensureDockerNetwork makes the Docker network, after removing one of another range.
func (n *Network) ensureDockerNetwork(ctx context.Context, plan Plan, podCIDR netip.Prefix) error {
	existing, err := n.inspect(ctx, plan.Network())
	if err != nil {
		return err
	}
	if existing != nil {
		if len(existing.IPAM.Config) > 0 && existing.IPAM.Config[0].Subnet == podCIDR.String() {
			return nil
		}
		if err := n.cfg.Docker.NetworkRemove(ctx, plan.Network()); err != nil {
			return fmt.Errorf("cannot give Docker network %s the new range %s: %w", plan.Network(), podCIDR, err)
		}
	}
	_, err = n.cfg.Docker.NetworkCreate(ctx, plan.Network(), dockernetwork.CreateOptions{
		Driver: "bridge",
		IPAM: &dockernetwork.IPAM{Config: []dockernetwork.IPAMConfig{
			{Subnet: podCIDR.String(), Gateway: podCIDR.Addr().Next().String()},
		}},
		Labels: map[string]string{api.DockerLabelFramework: n.cfg.Cluster, api.DockerLabelNode: n.cfg.Node},
		Options: map[string]string{
			"com.docker.network.bridge.name":                 plan.Bridge(),
			"com.docker.network.bridge.enable_ip_masquerade": "false", // ours knows of the other nodes' pods
			"com.docker.network.driver.mtu":                  strconv.Itoa(outwardMTU()),
		},
	})
	if err != nil {
		return fmt.Errorf("cannot make Docker network %s with range %s: %w", plan.Network(), podCIDR, err)
	}
	return nil
}

func firstIPv4(cidrs []string) (netip.Prefix, error) {
	for _, cidr := range cidrs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("cannot read pod CIDR: %w", err)
		}
		if prefix.Addr().Is4() {
			return prefix.Masked(), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("cannot set up the pod network: no IPv4 range in the node's pod CIDRs %v", cidrs)
}
