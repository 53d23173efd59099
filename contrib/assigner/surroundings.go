package assigner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
)

// Surroundings are the parts of a cluster's network that pools must not use.
type Surroundings struct {
	// Taken are ranges that belong to others.
	Taken []Taken
	// IPv4 and IPv6 say which families pods have addresses of; a pool must be of one of these.
	IPv4, IPv6 bool
}

// Taken is a range and its use.
type Taken struct {
	Prefix netip.Prefix
	What   string
}

// check returns an error that lists all conflicts of the pools.
func (s Surroundings) check(pools []pool) error {
	var problems []error
	for _, p := range pools {
		if p.ipv6() && !s.IPv6 || !p.ipv6() && !s.IPv4 {
			problems = append(problems, fmt.Errorf("pool %s is of an IP family that the cluster's pods do not use, so nodes could not route to it", p.Name))
		}
		for _, taken := range s.Taken {
			if p.set.OverlapsPrefix(taken.Prefix) {
				problems = append(problems, fmt.Errorf("pool %s overlaps %s, which is %s", p.Name, taken.Prefix, taken.What))
			}
		}
	}
	return errors.Join(problems...)
}

// takeServers adds the API servers, and the masters that a scheduler has published, if there is one.
func (s *Surroundings) takeServers(ctx context.Context, client kubernetes.Interface) error {
	servers, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: api.APIServerSlices})
	if err != nil {
		return fmt.Errorf("cannot read the API servers' addresses: %w", err)
	}
	s.takeAll(api.SliceAddresses(servers.Items), apiServerText)
	object, err := client.CoreV1().ConfigMaps(api.AddressPoolsNamespace).Get(ctx, api.AddressPoolsName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the masters' addresses: %w", err)
	}
	published, err := api.ReadAddressPools(object.Data)
	if published != nil {
		s.takeAll(published.Masters, masterText)
	}
	return err
}

// takeAll adds addresses.
func (s *Surroundings) takeAll(addresses []netip.Addr, what string) {
	for _, address := range addresses {
		s.Taken = append(s.Taken, Taken{netip.PrefixFrom(address, address.BitLen()), what})
	}
}

const (
	masterText    = "an address of a Mesos master or of ZooKeeper"
	apiServerText = "the API server's address"
)

// LookAround reads the cluster's ranges: those of pods and services from the minions' configuration, and the nodes' addresses and
// pod CIDRs.
func LookAround(ctx context.Context, client kubernetes.Interface) (Surroundings, error) {
	var s Surroundings
	object, err := client.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
	if err != nil {
		return s, fmt.Errorf("cannot read the cluster's address ranges: %w", err)
	}
	var told api.MinionConfig
	if err := json.Unmarshal([]byte(object.Data[api.MinionConfigKey]), &told); err != nil {
		return s, fmt.Errorf("cannot read the cluster's address ranges in ConfigMap %s/%s: %w", api.MinionConfigNamespace, api.MinionConfigName, err)
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return s, fmt.Errorf("cannot read the nodes' address ranges: %w", err)
	}
	err = errors.Join(s.take(told.ClusterCIDR, "the cluster's pod range"), s.take(told.ServiceCIDR, "the cluster's service range"))
	for _, node := range nodes.Items {
		err = errors.Join(err, s.take(strings.Join(node.Spec.PodCIDRs, ","), "the pod range of node "+node.Name))
		for _, address := range node.Status.Addresses {
			if ip, parseErr := netip.ParseAddr(address.Address); parseErr == nil &&
				(address.Type == corev1.NodeInternalIP || address.Type == corev1.NodeExternalIP) {
				s.Taken = append(s.Taken, Taken{netip.PrefixFrom(ip, ip.BitLen()), "an address of node " + node.Name})
			}
		}
		if agent, parseErr := netip.ParseAddrPort(node.Annotations[api.AnnotationAgentAddress]); parseErr == nil {
			s.Taken = append(s.Taken, Taken{netip.PrefixFrom(agent.Addr(), agent.Addr().BitLen()), "the agent's address of node " + node.Name})
		}
	}
	for _, cidr := range strings.Split(told.ClusterCIDR, ",") {
		s.IPv6 = s.IPv6 || strings.Contains(cidr, ":")
		s.IPv4 = s.IPv4 || strings.Contains(cidr, ".")
	}
	return s, err
}

// take adds ranges, separated by commas.
func (s *Surroundings) take(cidrs, what string) error {
	for _, cidr := range strings.Split(cidrs, ",") {
		if cidr = strings.TrimSpace(cidr); cidr == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", what, err)
		}
		s.Taken = append(s.Taken, Taken{prefix.Masked(), what})
	}
	return nil
}
