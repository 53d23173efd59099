package minion

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api"
)

// kubeletPort is the kubelet's default port; a second kubelet on the machine takes another one.
const kubeletPort = 10250

// capacity is what a machine has, in the kubelet's units.
type capacity struct {
	milliCPU     int64
	memory, disk int64 // bytes
}

// machineCapacity measures this machine. Its disk is the file system of dir.
func machineCapacity(dir string) (capacity, error) {
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return capacity{}, fmt.Errorf("cannot read the memory size of this machine: %w", err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return capacity{}, fmt.Errorf("cannot read the size of the file system of %s: %w", dir, err)
	}
	return capacity{
		milliCPU: int64(runtime.NumCPU()) * 1000,
		memory:   int64(memory.Totalram) * int64(memory.Unit),
		disk:     int64(disk.Blocks) * disk.Bsize,
	}, nil
}

// reserve computes the kubelet's kubeReserved, so that the node's allocatable is the agent's resources less the executor's. The rest
// of the machine belongs to other frameworks. (Allocatable is capacity less reserved less eviction thresholds,
// https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/.) If the agent claims more than the machine has,
// nothing is reserved, and complaints describes the consequences.
func (c capacity) reserve(agent, executor map[string]float64, eviction map[string]string) (reserved map[string]string, complaints []string, err error) {
	reserved = map[string]string{}
	const megabyte = 1 << 20
	for _, r := range []struct {
		mesos, kubernetes, suffix string
		has                       int64
		scale                     float64
		signal                    string
	}{
		{"cpus", "cpu", "m", c.milliCPU, 1000, ""},
		{"mem", "memory", "", c.memory, megabyte, "memory.available"},
		{"disk", "ephemeral-storage", "", c.disk, megabyte, "nodefs.available"},
	} {
		var evict int64
		if threshold := eviction[r.signal]; threshold != "" {
			if evict, err = api.EvictionThreshold(threshold, r.has); err != nil {
				return nil, nil, fmt.Errorf("cannot keep %s free: %w", r.kubernetes, err)
			}
		}
		offered := int64(math.Round((agent[r.mesos] - executor[r.mesos]) * r.scale))
		if offered > r.has {
			complaints = append(complaints, fmt.Sprintf(
				"the agent offers %s %g but this machine has only %g: the kubelet will reject pods that need more",
				r.mesos, agent[r.mesos], float64(r.has)/r.scale))
		}
		if rest := r.has - evict - offered; rest > 0 {
			reserved[r.kubernetes] = strconv.FormatInt(rest, 10) + r.suffix
		}
	}
	return reserved, complaints, nil
}

// nodeIP returns the node's address: the agent's, or this machine's if the agent listens on loopback or advertises an address that
// this machine does not have (--advertise_ip). A kubelet refuses both. For a wrong advertised address it returns a complaint.
// Without a default route, the machine's first address is used.
func nodeIP(agentEndpoint string) (ip net.IP, complaint string, err error) {
	host, _, err := net.SplitHostPort(agentEndpoint)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the agent's address: %w", err)
	}
	advertised := net.ParseIP(host)
	if advertised == nil || !advertised.IsGlobalUnicast() {
		if ip, err = MachineIP(); err != nil {
			return nil, "", fmt.Errorf("cannot find an address for the node: the agent is on loopback (%s): %w", agentEndpoint, err)
		}
		return ip, "", nil
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, "", fmt.Errorf("cannot list this machine's addresses: %w", err)
	}
	if slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.Equal(advertised) }) {
		return advertised, "", nil
	}
	if ip, err = MachineIP(); err != nil {
		return nil, "", fmt.Errorf("cannot find an address for the node: this machine does not have the agent's address (%s): %w", agentEndpoint, err)
	}
	return ip, fmt.Sprintf("the agent advertises %s, which is not an address of this machine: the node uses %s; "+
		"if the API server and the other nodes cannot reach that, give the agent an --advertise_ip that its machine has", advertised, ip), nil
}

// nodeIPs returns the node's addresses, one for each IP family of pods, in the order of clusterCIDR. The address of primary's other
// family is one on the same device, or the source address of the default route.
func nodeIPs(primary net.IP, clusterCIDR string) ([]netip.Addr, error) {
	first, ok := netip.AddrFromSlice(primary)
	if first = first.Unmap(); !ok {
		return nil, fmt.Errorf("%s is not an IP address", primary)
	}
	ranges, err := api.ParseRanges(clusterCIDR)
	if clusterCIDR == "" || err != nil {
		return []netip.Addr{first}, nil // the control plane has checked it
	}
	var list []netip.Addr
	for _, prefix := range ranges {
		address := first
		if prefix.Addr().Is4() != first.Is4() {
			if address, err = companion(first); err != nil {
				return nil, fmt.Errorf("cannot find a node address for pods in %s: %w", prefix, err)
			}
		}
		list = append(list, address)
	}
	return list, nil
}

// companion returns an address of the other family on the device that has the given address.
func companion(address netip.Addr) (netip.Addr, error) {
	kind, beyond := "IPv6", net.ParseIP("2001:db8::1")
	if address.Is6() {
		kind, beyond = "IPv4", net.IPv4(192, 0, 2, 1)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot list this machine's network devices: %w", err)
	}
	for _, link := range links {
		all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil || !slices.ContainsFunc(all, func(a netlink.Addr) bool { return a.IP.Equal(address.AsSlice()) }) {
			continue
		}
		for _, other := range all {
			found, _ := netip.AddrFromSlice(other.IP)
			if found = found.Unmap(); found.Is4() != address.Is4() && found.IsGlobalUnicast() && other.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) == 0 {
				return found, nil
			}
		}
	}
	if routes, err := netlink.RouteGet(beyond); err == nil && len(routes) > 0 && routes[0].Src.IsGlobalUnicast() {
		found, _ := netip.AddrFromSlice(routes[0].Src)
		return found.Unmap(), nil
	}
	return netip.Addr{}, fmt.Errorf("this machine has no global %s address: add one to the device that has %s", kind, address)
}

// MachineIP returns the address by which others and pods on this machine reach it: the source address of its default route, or else
// its first address.
func MachineIP() (net.IP, error) {
	// Asking the kernel for a route sends no packet.
	if routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1)); err == nil && len(routes) > 0 && routes[0].Src.IsGlobalUnicast() {
		return routes[0].Src, nil
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("cannot list this machine's addresses: %w", err)
	}
	for _, address := range addresses {
		if address.IP.IsGlobalUnicast() {
			return address.IP, nil
		}
	}
	return nil, errors.New("this machine has only loopback addresses")
}

// listenFree listens on the wanted port if it is free, else on any other. Close the listener to let another program use the port;
// until then no second call returns it.
func listenFree(address string, wanted int) (net.Listener, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(wanted)))
	if err != nil && wanted != 0 {
		return listenFree(address, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find a free port on %s: %w", address, err)
	}
	return listener, nil
}
