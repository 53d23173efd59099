package controlplane

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/k8sm/k8sm/api"
)

// maxServiceBits is how many bits kube-apiserver lets service addresses of a range differ in.
const maxServiceBits = 20

// maxNodeBits is how many bits kube-controller-manager lets the nodes' ranges differ in.
const maxNodeBits = 16

// ranges are the cluster's, read and found to fit together. Each kind has one of a family or one of both
// (https://kubernetes.io/docs/concepts/services-networking/dual-stack/).
type ranges struct{ services, pods []netip.Prefix }

// ranges reads the flags and tells which of them does not fit: what overlaps would send packets to the wrong ones.
func (c Config) ranges() (r ranges, err error) {
	const services, pods = "--service-cluster-ip-range", "--cluster-cidr"
	if r.services, err = api.ParseRanges(c.ServiceCIDR); err != nil {
		return r, fmt.Errorf("cannot use %s=%s: %w", services, c.ServiceCIDR, err)
	}
	if r.pods, err = api.ParseRanges(c.ClusterCIDR); err != nil {
		return r, fmt.Errorf("cannot use %s=%s: %w", pods, c.ClusterCIDR, err)
	}
	if families(r.services) != families(r.pods) {
		return r, fmt.Errorf("cannot use %s=%s with %s=%s: give both a range of the same families, in the same order", services, c.ServiceCIDR, pods, c.ClusterCIDR)
	}
	for i, service := range r.services {
		if pod := r.pods[i]; service.Overlaps(pod) {
			return r, fmt.Errorf("cannot use %s=%s: it overlaps %s=%s", services, service, pods, pod)
		}
		if size := service.Addr().BitLen() - service.Bits(); size > maxServiceBits {
			return r, fmt.Errorf("cannot use %s=%s: a range of services may be /%d at most", services, service, service.Addr().BitLen()-maxServiceBits)
		}
		if err := c.fitNodes(r.pods[i]); err != nil {
			return r, err
		}
	}
	return r, c.fitAdvertised(r)
}

// fitNodes tells whether the nodes' ranges fit into the pods'.
func (c Config) fitNodes(pods netip.Prefix) error {
	flag, mask, least := "--node-cidr-mask-size-ipv4", c.NodeMaskIPv4, 30
	if pods.Addr().Is6() {
		flag, mask, least = "--node-cidr-mask-size-ipv6", c.NodeMaskIPv6, 126
	}
	if mask < pods.Bits() || mask > min(pods.Bits()+maxNodeBits, least) {
		return fmt.Errorf("cannot use %s=%d: give from %d to %d, as each node gets such a part of --cluster-cidr=%s",
			flag, mask, pods.Bits(), min(pods.Bits()+maxNodeBits, least), pods)
	}
	return nil
}

// fitAdvertised tells whether the API server's own address can be one among nodes.
func (c Config) fitAdvertised(r ranges) error {
	address, err := netip.ParseAddr(c.Advertised())
	if err != nil {
		return fmt.Errorf("cannot use --advertise-address=%s: not an IP address", c.Advertised())
	}
	for flag, list := range map[string][]netip.Prefix{"--service-cluster-ip-range": r.services, "--cluster-cidr": r.pods} {
		for _, prefix := range list {
			if prefix.Contains(address) {
				return fmt.Errorf("cannot use %s=%s: it has the API server's own address %s in it; nodes have addresses outside of it", flag, prefix, address)
			}
		}
	}
	if !address.IsLoopback() && address.Unmap().Is4() != r.services[0].Addr().Is4() {
		return fmt.Errorf("cannot use --service-cluster-ip-range=%s: its first range has to be of the family of --advertise-address=%s", c.ServiceCIDR, address)
	}
	return nil
}

// families tells of what families ranges are, in their order.
func families(list []netip.Prefix) string {
	var out strings.Builder
	for _, prefix := range list {
		out.WriteString(strconv.Itoa(prefix.Addr().BitLen()) + " ")
	}
	return out.String()
}

// maskFlags are kube-controller-manager's flags for the nodes' ranges; it takes none of a family that pods have no range of.
func (c Config) maskFlags(into flags) {
	pods, _ := api.ParseRanges(c.ClusterCIDR) // Validate has read it
	for _, prefix := range pods {
		if prefix.Addr().Is4() {
			into["node-cidr-mask-size-ipv4"] = strconv.Itoa(c.NodeMaskIPv4)
		} else {
			into["node-cidr-mask-size-ipv6"] = strconv.Itoa(c.NodeMaskIPv6)
		}
	}
}
