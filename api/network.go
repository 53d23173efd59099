package api

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// NetworkMode is how pods of different nodes reach each other.
type NetworkMode string

// The modes of the pod network.
const (
	// NetworkAuto is by routes to nodes on a shared link, and by VXLAN to those behind a router.
	NetworkAuto NetworkMode = "auto"
	// NetworkRoutes is by routes of each machine to the others. All nodes have to share a link.
	NetworkRoutes NetworkMode = "routes"
	// NetworkVXLAN is by a tunnel between machines (https://www.rfc-editor.org/rfc/rfc7348).
	NetworkVXLAN NetworkMode = "vxlan"
	// NetworkCNI leaves all of the pod network to a CNI plugin of the machine (https://www.cni.dev/docs/spec/).
	NetworkCNI NetworkMode = "cni"
	// NetworkNone leaves it to the routers between the machines.
	NetworkNone NetworkMode = "none"
)

// What a pod network is that nobody has configured. The port is the one that Linux has taken since before VXLAN was given one
// of its own, which Docker's overlay networks use.
const (
	DefaultNetworkMode = NetworkAuto
	DefaultVXLANVNI    = 5050
	DefaultVXLANPort   = 8472
	DefaultCNIConfDir  = "/etc/cni/net.d"
	DefaultCNIBinDir   = "/opt/cni/bin"
)

// AnnotationPodPrefixes, on a node, are ranges of addresses that pods of this node have besides its pod CIDRs, such as
// "192.0.2.7/32,192.0.2.9/32": other nodes send packets for them there. The scheduler writes it, since it gives out addresses
// of pools: so the nodes never disagree about one, whatever became of the node that had it last.
const AnnotationPodPrefixes = "k8sm.io/pod-prefixes"

// FormatPodPrefixes returns the value of AnnotationPodPrefixes, in the order of the addresses.
func FormatPodPrefixes(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, prefix := range slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}

// ParsePodPrefixes is the inverse of FormatPodPrefixes. Spaces, empty parts and bits beyond a range are ignored.
func ParsePodPrefixes(text string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is not a range of addresses such as 192.0.2.7/32", part)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// PodNetwork is how the pod network of a cluster is built. Empty fields mean the defaults.
type PodNetwork struct {
	Mode NetworkMode `json:"mode,omitempty"`
	// VXLANVNI is the number of the cluster's VXLAN segment, and VXLANPort the UDP port that machines take its packets on.
	VXLANVNI  int `json:"vxlanVNI,omitempty"`
	VXLANPort int `json:"vxlanPort,omitempty"`
	// CNIConfDir and CNIBinDir are the directories, on each node, of CNI configurations and plugins.
	CNIConfDir string `json:"cniConfDir,omitempty"`
	CNIBinDir  string `json:"cniBinDir,omitempty"`
}

// Settled is the same with the defaults filled in.
func (p PodNetwork) Settled() PodNetwork {
	if p.Mode == "" {
		p.Mode = DefaultNetworkMode
	}
	if p.VXLANVNI == 0 {
		p.VXLANVNI = DefaultVXLANVNI
	}
	if p.VXLANPort == 0 {
		p.VXLANPort = DefaultVXLANPort
	}
	if p.CNIConfDir == "" {
		p.CNIConfDir = DefaultCNIConfDir
	}
	if p.CNIBinDir == "" {
		p.CNIBinDir = DefaultCNIBinDir
	}
	return p
}

// Validate tells what a minion could not do, by the names of the flags of `km apiserver`.
func (p PodNetwork) Validate() error {
	switch p = p.Settled(); p.Mode {
	case NetworkAuto, NetworkRoutes, NetworkVXLAN, NetworkCNI, NetworkNone:
	default:
		return fmt.Errorf("cannot use --network=%s: give auto, routes, vxlan, cni or none", p.Mode)
	}
	for flag, dir := range map[string]string{"cni-conf-dir": p.CNIConfDir, "cni-bin-dir": p.CNIBinDir} {
		if !path.IsAbs(dir) {
			return fmt.Errorf("cannot use --%s=%s: give an absolute path, which is the same on all nodes", flag, dir)
		}
	}
	if p.VXLANVNI < 1 || p.VXLANVNI >= 1<<24 {
		return fmt.Errorf("cannot use --vxlan-vni=%d: give a number from 1 to %d", p.VXLANVNI, 1<<24-1)
	}
	if p.VXLANPort < 1 || p.VXLANPort >= 1<<16 {
		return fmt.Errorf("cannot use --vxlan-port=%d: give a port from 1 to 65535", p.VXLANPort)
	}
	return nil
}

// ParseRanges reads one range of addresses, or two of different families with a comma between them.
func ParseRanges(text string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, part := range strings.Split(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("%q is not a range of addresses, such as 10.244.0.0/16", part)
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("%s is an address in a range, not a range: that is %s", prefix, prefix.Masked())
		}
		list = append(list, prefix)
	}
	if len(list) > 2 || len(list) == 2 && list[0].Addr().Is4() == list[1].Addr().Is4() {
		return nil, fmt.Errorf("%q is not one range, or one IPv4 and one IPv6 range", text)
	}
	return list, nil
}
