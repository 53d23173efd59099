package api

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// NetworkMode says how pods on different nodes reach each other.
type NetworkMode string

// The modes of the pod network.
const (
	// NetworkAuto uses routes to nodes on a shared link, and VXLAN to nodes behind a router.
	NetworkAuto NetworkMode = "auto"
	// NetworkRoutes uses routes only. All nodes must share a link.
	NetworkRoutes NetworkMode = "routes"
	// NetworkVXLAN uses tunnels between machines (https://www.rfc-editor.org/rfc/rfc7348).
	NetworkVXLAN NetworkMode = "vxlan"
	// NetworkCNI uses a CNI plugin on the machine for the whole pod network (https://www.cni.dev/docs/spec/).
	NetworkCNI NetworkMode = "cni"
	// NetworkNone relies on the routers between the machines.
	NetworkNone NetworkMode = "none"
)

// Defaults of the pod network. The port is Linux's own default, from before VXLAN had a registered port, because Docker's overlay
// networks use the registered one.
const (
	DefaultNetworkMode = NetworkAuto
	DefaultVXLANVNI    = 5050
	DefaultVXLANPort   = 8472
	DefaultCNIConfDir  = "/etc/cni/net.d"
	DefaultCNIBinDir   = "/opt/cni/bin"
)

// AnnotationPodPrefixes, on a node, lists prefixes of its pods besides its pod CIDRs, such as "192.0.2.7/32,192.0.2.9/32". Other
// nodes route them to this node. The scheduler writes it, because it assigns the addresses of pools. So all nodes agree about each
// address, even if its previous node is down.
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
			return nil, fmt.Errorf("%q is not a prefix such as 192.0.2.7/32", part)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// PodNetwork configures the pod network of a cluster. Empty fields mean the defaults.
type PodNetwork struct {
	Mode NetworkMode `json:"mode,omitempty"`
	// VXLANVNI is the VXLAN network identifier of the cluster, and VXLANPort the UDP port for its packets.
	VXLANVNI  int `json:"vxlanVNI,omitempty"`
	VXLANPort int `json:"vxlanPort,omitempty"`
	// CNIConfDir and CNIBinDir are each node's directories of CNI configurations and plugins.
	CNIConfDir string `json:"cniConfDir,omitempty"`
	CNIBinDir  string `json:"cniBinDir,omitempty"`
}

// Settled returns the configuration with defaults filled in.
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

// Validate returns an error for settings that a minion cannot use. It names the flags of `km apiserver`.
func (p PodNetwork) Validate() error {
	switch p = p.Settled(); p.Mode {
	case NetworkAuto, NetworkRoutes, NetworkVXLAN, NetworkCNI, NetworkNone:
	default:
		return fmt.Errorf("cannot use --network=%s: use auto, routes, vxlan, cni or none", p.Mode)
	}
	for flag, dir := range map[string]string{"cni-conf-dir": p.CNIConfDir, "cni-bin-dir": p.CNIBinDir} {
		if !path.IsAbs(dir) {
			return fmt.Errorf("cannot use --%s=%s: use an absolute path that is the same on all nodes", flag, dir)
		}
	}
	if p.VXLANVNI < 1 || p.VXLANVNI >= 1<<24 {
		return fmt.Errorf("cannot use --vxlan-vni=%d: use a number from 1 to %d", p.VXLANVNI, 1<<24-1)
	}
	if p.VXLANPort < 1 || p.VXLANPort >= 1<<16 {
		return fmt.Errorf("cannot use --vxlan-port=%d: use a port from 1 to 65535", p.VXLANPort)
	}
	return nil
}

// ParseRanges parses one range of addresses, or two of different families separated by a comma.
func ParseRanges(text string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, part := range strings.Split(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("%q is not a CIDR, such as 10.244.0.0/16", part)
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("%s has host bits set: the range is %s", prefix, prefix.Masked())
		}
		list = append(list, prefix)
	}
	if len(list) > 2 || len(list) == 2 && list[0].Addr().Is4() == list[1].Addr().Is4() {
		return nil, fmt.Errorf("%q must be one range, or one IPv4 and one IPv6 range", text)
	}
	return list, nil
}
