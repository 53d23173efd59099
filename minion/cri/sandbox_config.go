package cri

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api"
)

// sandboxPlan is all that the translation of one sandbox depends on.
type sandboxPlan struct {
	owner      owner
	host       host
	image      string // of the sandbox program
	network    string // the Docker network for pods that do not use the host's
	resolvConf string // the pod's resolv.conf on the host
	handler    string
	config     *runtimeapi.PodSandboxConfig
}

// translate returns the Docker container that is the sandbox: a process that waits and holds the pod's namespaces, with
// no right that waiting does not need.
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
		NetworkMode:    container.NetworkMode(p.network),
		LogConfig:      container.LogConfig{Type: "none"},
		ReadonlyRootfs: true,
		CapDrop:        []string{"ALL"},
		OomScoreAdj:    p.host.oomScore(sandboxOOMScore),
		Sysctls:        maps.Clone(linux.GetSysctls()),
		Runtime:        p.handler,
	}
	hc.CgroupParent = p.host.cgroupParent(linux.GetCgroupParent())
	hc.CPUShares = 2 // it waits
	profiles := profiles{seccomp: sc.GetSeccomp(), appArmor: sc.GetApparmor(), selinux: sc.GetSelinuxOptions()}
	if hc.SecurityOpt, err = profiles.securityOpts(p.host); err != nil {
		return nil, nil, err
	}
	hc.SecurityOpt = append(hc.SecurityOpt, "no-new-privileges")
	if err := applyNamespaces(hc, sc.GetNamespaceOptions(), ""); err != nil {
		return nil, nil, err
	}
	if hc.UTSMode.IsHost() {
		return c, hc, nil // neither a name nor ports of its own
	}
	c.Hostname = p.config.GetHostname()
	mappings, err := portMappings(p.config)
	if err != nil {
		return nil, nil, err
	}
	c.ExposedPorts, hc.PortBindings, err = hostPorts(mappings)
	return c, hc, err
}

// sandboxOOMScore is what the kubelet asks for its own sandboxes: killed last, for a pod cannot outlive its sandbox.
const sandboxOOMScore = -998

// portMappings returns the pod's mappings that have a host port: those of its containers, and those that the scheduler
// has chosen, which stand in an annotation.
func portMappings(config *runtimeapi.PodSandboxConfig) ([]*runtimeapi.PortMapping, error) {
	chosen, err := api.ParsePortMappings(config.GetAnnotations()[api.AnnotationPortMappings])
	if err != nil {
		return nil, refuse("cannot publish the pod's ports: %v", err)
	}
	mappings := slices.DeleteFunc(slices.Clone(config.GetPortMappings()), func(m *runtimeapi.PortMapping) bool {
		return m.GetHostPort() <= 0
	})
	for _, m := range chosen {
		protocol := runtimeapi.Protocol(runtimeapi.Protocol_value[m.Protocol])
		taken := slices.ContainsFunc(mappings, func(other *runtimeapi.PortMapping) bool {
			return other.GetHostPort() == m.HostPort && other.GetProtocol() == protocol
		})
		if taken {
			return nil, refuse("cannot publish the pod's ports: host port %d/%s is given twice, by the containers and by annotation %s",
				m.HostPort, m.Protocol, api.AnnotationPortMappings)
		}
		mappings = append(mappings, &runtimeapi.PortMapping{ContainerPort: m.ContainerPort, HostPort: m.HostPort, Protocol: protocol})
	}
	return mappings, nil
}

// hostPorts returns mappings in Docker's words.
func hostPorts(mappings []*runtimeapi.PortMapping) (nat.PortSet, nat.PortMap, error) {
	var exposed nat.PortSet
	var bindings nat.PortMap
	for _, m := range mappings {
		protocol := strings.ToLower(m.GetProtocol().String())
		port, err := nat.NewPort(protocol, strconv.Itoa(int(m.GetContainerPort())))
		if err != nil {
			return nil, nil, refuse("cannot map host port %d: %v", m.GetHostPort(), err)
		}
		if exposed == nil {
			exposed, bindings = nat.PortSet{}, nat.PortMap{}
		}
		exposed[port] = struct{}{}
		bindings[port] = append(bindings[port], nat.PortBinding{HostIP: m.GetHostIp(), HostPort: strconv.Itoa(int(m.GetHostPort()))})
	}
	return exposed, bindings, nil
}

// resolvConf renders the pod's DNS settings (resolv.conf(5)); ok is false if there are none, which means the host's.
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
