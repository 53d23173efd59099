package cri

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/network"
)

// sandboxPlan is the input for the translation of one sandbox.
type sandboxPlan struct {
	owner      owner
	host       host
	image      string // of the sandbox program
	resolvConf string // the pod's resolv.conf on the host
	handler    string
	config     *runtimeapi.PodSandboxConfig
}

// translate returns the configuration of the sandbox's Docker container: a process that waits and holds the pod's namespaces,
// without any right that it does not need.
func (p sandboxPlan) translate() (*container.Config, *container.HostConfig, error) {
	linux := p.config.GetLinux()
	sc := linux.GetSecurityContext()
	labels, err := p.owner.labels(kindSandbox, p.config.GetLabels(), sandboxRecord{
		Metadata: p.config.GetMetadata(), Labels: p.config.GetLabels(), Annotations: p.config.GetAnnotations(),
		Handler: p.handler, Namespaces: sc.GetNamespaceOptions(), ResolvConf: p.resolvConf,
	})
	if err != nil {
		return nil, nil, err
	}
	c := &container.Config{Image: p.image, Labels: labels, StopSignal: "SIGTERM"}
	if sc.GetRunAsUser() != nil {
		c.User = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10)
		if group := sc.GetRunAsGroup(); group != nil {
			c.User += ":" + strconv.FormatInt(group.GetValue(), 10)
		}
	}
	hc := &container.HostConfig{
		LogConfig:      container.LogConfig{Type: "none"},
		ReadonlyRootfs: true,
		CapDrop:        []string{"ALL"},
		OomScoreAdj:    p.host.oomScore(sandboxOOMScore),
		Sysctls:        maps.Clone(linux.GetSysctls()),
		Runtime:        p.handler,
	}
	hc.CgroupParent = p.host.cgroupParent(linux.GetCgroupParent())
	hc.CPUShares = 2 // it only waits
	profiles := profiles{seccomp: sc.GetSeccomp(), appArmor: sc.GetApparmor(), selinux: sc.GetSelinuxOptions()}
	if hc.SecurityOpt, err = profiles.securityOpts(p.host); err != nil {
		return nil, nil, err
	}
	hc.SecurityOpt = append(hc.SecurityOpt, "no-new-privileges")
	if err := applyNamespaces(hc, sc.GetNamespaceOptions(), ""); err != nil {
		return nil, nil, err
	}
	if hc.UTSMode.IsHost() {
		return c, hc, nil // neither a name nor a network of its own
	}
	c.Hostname = p.config.GetHostname()
	c.NetworkDisabled = true // an empty namespace for the pod network: setting up the Engine's network would be most of its work
	return c, hc, nil
}

// sandboxOOMScore is the kubelet's value for sandboxes: they are killed last, because a pod cannot outlive its sandbox.
const sandboxOOMScore = -998

// hostPorts returns the pod's host ports: those of its containers, and those that the scheduler chose, from an annotation.
func hostPorts(config *runtimeapi.PodSandboxConfig) ([]network.Port, error) {
	chosen, err := api.ParsePortMappings(config.GetAnnotations()[api.AnnotationPortMappings])
	if err != nil {
		return nil, refuse("cannot publish the pod's ports: %v", err)
	}
	var ports []network.Port
	for _, m := range config.GetPortMappings() {
		if m.GetHostPort() <= 0 {
			continue
		}
		if max(m.GetHostPort(), m.GetContainerPort()) > math.MaxUint16 || m.GetContainerPort() <= 0 {
			return nil, refuse("cannot map host port %d to port %d: ports are 1 to 65535", m.GetHostPort(), m.GetContainerPort())
		}
		port := network.Port{Protocol: m.GetProtocol().String(), HostPort: uint16(m.GetHostPort()), ContainerPort: uint16(m.GetContainerPort())}
		if m.GetHostIp() != "" {
			if port.HostIP, err = netip.ParseAddr(m.GetHostIp()); err != nil {
				return nil, refuse("cannot map host port %d: %v", m.GetHostPort(), err)
			}
		}
		ports = append(ports, port)
	}
	for _, m := range chosen {
		taken := slices.ContainsFunc(ports, func(other network.Port) bool {
			return int32(other.HostPort) == m.HostPort && other.Protocol == m.Protocol
		})
		if taken {
			return nil, refuse("cannot publish the pod's ports: host port %d/%s is set twice, by the containers and by annotation %s",
				m.HostPort, m.Protocol, api.AnnotationPortMappings)
		}
		ports = append(ports, network.Port{Protocol: m.Protocol, HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort)})
	}
	return ports, nil
}

// assignedAddress returns the pool address that the scheduler assigned to the pod; not valid if there is none.
func assignedAddress(config *runtimeapi.PodSandboxConfig) (netip.Addr, error) {
	text := config.GetAnnotations()[api.AnnotationIPAssigned]
	if text == "" {
		return netip.Addr{}, nil
	}
	address, err := netip.ParseAddr(text)
	if err != nil || !address.IsGlobalUnicast() {
		return netip.Addr{}, refuse("cannot assign address %q of annotation %s to the pod: it is not a host address", text, api.AnnotationIPAssigned)
	}
	return address, nil
}

// resolvConf renders the pod's DNS settings (resolv.conf(5)); ok is false if there are none, which means the host's apply.
func resolvConf(dns *runtimeapi.DNSConfig) (text string, ok bool) {
	if len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) == 0 {
		return "", false
	}
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return b.String(), true
}
