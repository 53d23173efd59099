package machines

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink"
)

const sysctlForward = "/proc/sys/net/ipv4/ip_forward"

// enableForwarding enables IP forwarding on this machine. It stays enabled.
func enableForwarding() error {
	if value, err := os.ReadFile(sysctlForward); err == nil && strings.TrimSpace(string(value)) == "1" {
		return nil
	}
	if err := os.WriteFile(sysctlForward, []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot set %s to 1, which nodes need to get out: %w", sysctlForward, err)
	}
	return nil
}

// chain is an iptables chain of ours; one rule of the built-in chain parent jumps to it.
type chain struct {
	table, name, parent string
	rules               [][]string
}

// iptablesFor returns the iptables of a range's family.
func iptablesFor(prefix netip.Prefix) (*iptables.IPTables, error) {
	family := iptables.ProtocolIPv4
	if prefix.Addr().Is6() {
		family = iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(family), iptables.Timeout(5))
	if err != nil {
		return nil, fmt.Errorf("cannot find iptables, which several nodes need (Debian: apt-get install iptables): %w", err)
	}
	return ipt, nil
}

// chains renders the rules of this machine for a range of the machines:
//
//   - Packets from machines to elsewhere are masqueraded, because there is no route back.
//   - Machines reach each other (bridged packets pass here if br_netfilter is on) and the outside, from their own addresses only:
//     pod addresses mean nothing there. From outside, only answers come in.
//   - Only machines reach this machine's address on the bridge: a listener there is as private as on loopback.
func (m *Machines) chains(prefix netip.Prefix) []chain {
	rule := func(spec ...string) []string {
		return append([]string{"-m", "comment", "--comment", "k8sm nodes of cluster " + m.cfg.Cluster}, spec...)
	}
	bridge, name, cidr, own := m.bridge(), "K8SM-NODES-"+m.mark, prefix.String(), gateway(prefix).String()
	var in [][]string
	for _, port := range m.cfg.Ports {
		in = append(in, rule("-i", bridge, "-d", own, "-p", port.Protocol, "--dport", strconv.Itoa(port.Number), "-j", "ACCEPT"))
	}
	return []chain{
		{"nat", name, "POSTROUTING", [][]string{rule("-s", cidr, "!", "-o", bridge, "-j", "MASQUERADE")}},
		{"filter", name, "FORWARD", [][]string{
			rule("-i", bridge, "-o", bridge, "-j", "ACCEPT"),
			rule("-i", bridge, "-s", cidr, "-j", "ACCEPT"),
			rule("-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"),
			rule("-i", bridge, "-j", "DROP"),
			rule("-o", bridge, "-j", "DROP"),
		}},
		{"filter", name + "-IN", "INPUT", append(in,
			rule("-i", bridge, "-j", "RETURN"),
			rule("-i", "lo", "-j", "RETURN"),
			rule("-d", own, "-j", "DROP"),
		)},
	}
}

// guard writes the rules.
func (m *Machines) guard() error {
	for _, prefix := range m.ranges {
		ipt, err := iptablesFor(prefix)
		if err == nil {
			err = place(ipt, m.chains(prefix))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// place writes the chains, replacing their content.
func place(ipt *iptables.IPTables, chains []chain) error {
	for _, c := range chains {
		if err := ipt.ClearChain(c.table, c.name); err != nil {
			return fmt.Errorf("cannot make the chain %s: %w", c.name, err)
		}
		for _, rule := range c.rules {
			if err := ipt.Append(c.table, c.name, rule...); err != nil {
				return fmt.Errorf("cannot fill the chain %s: %w", c.name, err)
			}
		}
		if err := ipt.InsertUnique(c.table, c.parent, 1, "-j", c.name); err != nil {
			return fmt.Errorf("cannot have %s jump to %s: %w", c.parent, c.name, err)
		}
	}
	return nil
}

// unguard removes the rules, and the routes for the closed ranges.
func (m *Machines) unguard() error {
	var problems []error
	for _, prefix := range m.ranges {
		ipt, err := iptablesFor(prefix)
		if err != nil {
			return err
		}
		for _, c := range m.chains(prefix) {
			problems = append(problems, ipt.DeleteIfExists(c.table, c.parent, "-j", c.name))
			if exists, err := ipt.ChainExists(c.table, c.name); err != nil || exists {
				problems = append(problems, err, ipt.ClearAndDeleteChain(c.table, c.name))
			}
		}
	}
	for _, text := range m.cfg.Closed {
		for _, cidr := range splitRanges(text) {
			if err := netlink.RouteDel(closed(cidr)); err != nil && !errors.Is(err, syscall.ESRCH) {
				problems = append(problems, fmt.Errorf("cannot remove the route to %s: %w", cidr, err))
			}
		}
	}
	return errors.Join(problems...)
}

// GuardAgent lets only the machine itself and this one reach a TCP port of the machine. A Mesos agent authenticates its callers, but
// pods have nothing to ask it.
func (m *Machines) GuardAgent(machine *Machine, port int) error {
	ipt, err := iptablesFor(m.ranges[0])
	if err != nil {
		return err
	}
	rule := []string{"!", "-s", m.Gateway.String(), "!", "-i", "lo", "-p", "tcp", "-d", machine.Address.String(), "--dport", strconv.Itoa(port), "-j", "DROP"}
	return machine.Enter(func() error {
		return place(ipt, []chain{{"filter", "K8SM-AGENT", "INPUT", [][]string{rule}}})
	})
}
