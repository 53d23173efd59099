package controlplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/k8sm/k8sm/api"
)

// maxServiceBits is the limit of kube-apiserver for the host bits of a service range.
const maxServiceBits = 20

// maxNodeBits is the limit of kube-controller-manager for the bits that number the nodes.
const maxNodeBits = 16

// ranges are the cluster's address ranges, parsed and checked. Services and pods have one range, or one per family
// (https://kubernetes.io/docs/concepts/services-networking/dual-stack/).
type ranges struct{ services, pods []netip.Prefix }

// ranges parses the flags and checks that they fit together: overlapping ranges would send packets to the wrong destination.
func (c Config) ranges() (r ranges, err error) {
	const services, pods = "--service-cluster-ip-range", "--cluster-cidr"
	if r.services, err = api.ParseRanges(c.ServiceCIDR); err != nil {
		return r, fmt.Errorf("cannot use %s=%s: %w", services, c.ServiceCIDR, err)
	}
	if r.pods, err = api.ParseRanges(c.ClusterCIDR); err != nil {
		return r, fmt.Errorf("cannot use %s=%s: %w", pods, c.ClusterCIDR, err)
	}
	if families(r.services) != families(r.pods) {
		return r, fmt.Errorf("cannot use %s=%s with %s=%s: use the same IP families in the same order for both", services, c.ServiceCIDR, pods, c.ClusterCIDR)
	}
	for i, service := range r.services {
		if pod := r.pods[i]; service.Overlaps(pod) {
			return r, fmt.Errorf("cannot use %s=%s: it overlaps %s=%s", services, service, pods, pod)
		}
		if size := service.Addr().BitLen() - service.Bits(); size > maxServiceBits {
			return r, fmt.Errorf("cannot use %s=%s: a range of services may not be larger than /%d", services, service, service.Addr().BitLen()-maxServiceBits)
		}
		if err := c.fitNodes(r.pods[i]); err != nil {
			return r, err
		}
	}
	return r, c.fitAdvertised(r)
}

// validateExternalIPs checks the ranges of external addresses: no service may take over an address of the cluster's own.
func (c Config) validateExternalIPs() error {
	cluster, err := c.ranges()
	if err != nil {
		return err
	}
	for _, text := range c.ServiceExternalIPs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("cannot use --service-external-ips=%s: not a CIDR, such as 203.0.113.0/28", text)
		}
		if prefix != prefix.Masked() {
			return fmt.Errorf("cannot use --service-external-ips=%s: it has host bits set: the range is %s", text, prefix.Masked())
		}
		for _, own := range slices.Concat(cluster.services, cluster.pods) {
			if prefix.Overlaps(own) {
				return fmt.Errorf("cannot use --service-external-ips=%s: it overlaps %s, which the cluster's services or pods have", text, own)
			}
		}
		if server, err := netip.ParseAddr(c.Advertised()); err == nil && prefix.Contains(server) {
			return fmt.Errorf("cannot use --service-external-ips=%s: it contains the API server's own address", text)
		}
	}
	return nil
}

// fitNodes checks that the nodes' ranges fit into the pods' range.
func (c Config) fitNodes(pods netip.Prefix) error {
	flag, mask, least := "--node-cidr-mask-size-ipv4", c.NodeMaskIPv4, 30
	if pods.Addr().Is6() {
		flag, mask, least = "--node-cidr-mask-size-ipv6", c.NodeMaskIPv6, 126
	}
	if mask < pods.Bits() || mask > min(pods.Bits()+maxNodeBits, least) {
		return fmt.Errorf("cannot use %s=%d: use %d to %d, because each node gets such a part of --cluster-cidr=%s",
			flag, mask, pods.Bits(), min(pods.Bits()+maxNodeBits, least), pods)
	}
	return nil
}

// fitAdvertised checks that the API server's address fits the ranges.
func (c Config) fitAdvertised(r ranges) error {
	address, err := netip.ParseAddr(c.Advertised())
	if err != nil {
		return fmt.Errorf("cannot use --advertise-address=%s: not an IP address", c.Advertised())
	}
	for flag, list := range map[string][]netip.Prefix{"--service-cluster-ip-range": r.services, "--cluster-cidr": r.pods} {
		for _, prefix := range list {
			if prefix.Contains(address) {
				return fmt.Errorf("cannot use %s=%s: it contains the API server's own address %s; addresses of machines must be outside of it", flag, prefix, address)
			}
		}
	}
	if !address.IsLoopback() && address.Unmap().Is4() != r.services[0].Addr().Is4() {
		return fmt.Errorf("cannot use --service-cluster-ip-range=%s: its first range must have the IP family of --advertise-address=%s", c.ServiceCIDR, address)
	}
	return nil
}

// families returns the IP families of the ranges, in order.
func families(list []netip.Prefix) string {
	var out strings.Builder
	for _, prefix := range list {
		out.WriteString(strconv.Itoa(prefix.Addr().BitLen()) + " ")
	}
	return out.String()
}

// maskFlags sets kube-controller-manager's flags for the nodes' ranges. It rejects flags of families that pods do not have.
func (c Config) maskFlags(into flags) {
	pods, _ := api.ParseRanges(c.ClusterCIDR) // Validate has checked it
	for _, prefix := range pods {
		if prefix.Addr().Is4() {
			into["node-cidr-mask-size-ipv4"] = strconv.Itoa(c.NodeMaskIPv4)
		} else {
			into["node-cidr-mask-size-ipv6"] = strconv.Itoa(c.NodeMaskIPv6)
		}
	}
}
