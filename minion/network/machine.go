package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/k8sm/k8sm/api"
)

// iptablesBusy is the exit code of iptables when it does not get the lock that its calls share, or the kernel has no room: RESOURCE_PROBLEM
// of xtables_exittype (include/xtables.h of iptables). It passes.
const iptablesBusy = 4

// explain adds the likely cause and remedy to an error of iptables. It finds the cause by what works, since iptables has no exit
// codes for it: a kernel without iptables does not even list a chain that each has. It returns other errors unchanged.
func explain(ipt tables, err error) error {
	if _, ok := exitStatus(err); !ok {
		return err
	}
	_, listErr := ipt.List("filter", "INPUT")
	status, _ := exitStatus(listErr)
	switch {
	case listErr == nil:
		return fmt.Errorf("this machine's kernel probably lacks a part of iptables "+
			"(load its modules: modprobe -a xt_comment xt_conntrack xt_addrtype xt_nat xt_MASQUERADE xt_tcpudp ipt_rpfilter ip6t_rpfilter): %w", err)
	case status == iptablesBusy:
		return err
	}
	return fmt.Errorf("this machine's kernel has no iptables (load its modules: modprobe -a nf_tables nft_compat, or ip_tables iptable_nat iptable_filter): %w", err)
}

// exitStatus is the code that iptables ended with. ok is false for other errors.
func exitStatus(err error) (status int, ok bool) {
	var exit interface{ ExitStatus() int } // *iptables.Error
	if errors.As(err, &exit) {
		return exit.ExitStatus(), true
	}
	var restoring *exec.ExitError
	if errors.As(err, &restoring) {
		return restoring.ExitCode(), true
	}
	return 0, false
}

// explainDevice explains why a device could not be created. kind is the name of the kernel module.
func explainDevice(err error, kind string) error {
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return fmt.Errorf("this machine's kernel has no %s devices (load its module: modprobe %s): %w", kind, kind, err)
	}
	return err
}

// checkRanges returns an error if an address of this machine lies in the range of pods or services: packets would go to the wrong
// one.
func (p Plan) checkRanges(services string) error {
	for flag, text := range map[string]string{"--cluster-cidr": p.ClusterCIDR, "--service-cluster-ip-range": services} {
		ranges, err := api.ParseRanges(text)
		if text == "" || err != nil {
			continue // the control plane has validated it
		}
		for _, prefix := range ranges {
			for _, address := range p.Addresses {
				if prefix.Contains(address) {
					return fmt.Errorf("the node's own address %s lies in %s=%s: set another range for the cluster", address, flag, prefix)
				}
			}
		}
	}
	return p.checkDevices()
}

// checkDevices returns an error if a network of this machine overlaps the node's pod CIDR.
func (p Plan) checkDevices() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list network devices: %w", err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Alias, "k8sm ") {
			continue // ours, or of another cluster that was here first
		}
		addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			continue // it is gone by now
		}
		for _, address := range addresses {
			for _, cidr := range p.PodCIDRs {
				if other, ok := prefixOf(address.IPNet); ok && other.Overlaps(cidr) {
					return fmt.Errorf("the node's pod CIDR %s overlaps the network %s on this machine's device %s: set another --cluster-cidr, or change the device's address",
						cidr, other, link.Attrs().Name)
				}
			}
		}
	}
	return nil
}

func prefixOf(network *net.IPNet) (netip.Prefix, bool) {
	address, ok := netip.AddrFromSlice(network.IP)
	bits, _ := network.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), bits).Masked(), ok
}
