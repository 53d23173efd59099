package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// IPTables is the part of github.com/coreos/go-iptables that this package needs. ClearChain also creates the chain.
//
// List returns rules in the format of iptables -S. The first line is the chain itself.
type IPTables interface {
	List(table, chain string) ([]string, error)
	ClearChain(table, chain string) error
	Insert(table, chain string, position int, rule ...string) error
	DeleteIfExists(table, chain string, rule ...string) error
	ClearAndDeleteChain(table, chain string) error
}

// tables are the iptables of a family.
type tables struct {
	Family
	IPTables
}

// openTables finds the iptables program for the family.
func openTables(f Family) (tables, error) {
	program, protocol := "iptables", iptables.ProtocolIPv4
	if f == IPv6 {
		program, protocol = "ip6tables", iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(protocol), iptables.Timeout(5))
	if err != nil {
		return tables{}, fmt.Errorf("cannot find %s, which the pod network needs (Debian: apt-get install iptables): %w", program, err)
	}
	return tables{f, ipt}, nil
}

// apply writes the chains, replacing their rules. It inserts the jumps at the top of their chains again, because other programs,
// such as Docker, insert rules there that would come first.
func (p Plan) apply(ipt tables) error {
	for _, chain := range p.Rules(ipt.Family) {
		if err := p.applyChain(ipt, chain); err != nil {
			return fmt.Errorf("cannot write iptables chain %s: %w", chain.Name, explain(ipt, err))
		}
	}
	return nil
}

func (p Plan) applyChain(ipt tables, chain Chain) error {
	if err := ipt.ClearChain(chain.Table, chain.Name); err != nil {
		return err
	}
	for i, rule := range chain.Rules {
		if err := ipt.Insert(chain.Table, chain.Name, i+1, rule...); err != nil {
			return err
		}
	}
	for _, parent := range chain.Parents {
		if err := putFirst(ipt, chainRule{chain.Table, parent, p.jump(chain)}); err != nil {
			return err
		}
	}
	return nil
}

// putFirst makes the rule the first in its chain, without duplicates.
func putFirst(ipt tables, r chainRule) error {
	if err := ipt.DeleteIfExists(r.table, r.chain, r.rule...); err != nil {
		return err
	}
	return ipt.Insert(r.table, r.chain, 1, r.rule...)
}

// applyPod writes a pod's rules.
func (p Plan) applyPod(ipt tables, e endpoint) error {
	for _, r := range p.podRules(ipt.Family, e) {
		if err := putFirst(ipt, r); err != nil {
			return fmt.Errorf("cannot write an iptables rule for pod %s: %w", e.Sandbox.Pod, explain(ipt, err))
		}
	}
	return nil
}

// missing describes the first difference between the chains and what apply and applyPod wrote; "" if there is none. It compares
// rules by their comments, because the kernel lists the rest in another notation.
func (p Plan) missing(ipt tables, endpoints map[string]endpoint) string {
	var pods []chainRule
	for _, e := range endpoints {
		pods = append(pods, p.podRules(ipt.Family, e)...)
	}
	for _, chain := range p.Rules(ipt.Family) {
		var want []string
		for _, rule := range chain.Rules {
			want = append(want, rule[3])
		}
		for _, r := range pods {
			if r.table == chain.Table && r.chain == chain.Name {
				want = append(want, r.rule[3])
			}
		}
		if have := comments(ipt, chain.Table, chain.Name, ""); !sameElements(have, want) {
			return fmt.Sprintf("chain %s has %d of %d rules", chain.Name, len(have), len(want))
		}
		for _, parent := range chain.Parents {
			if jumps := comments(ipt, chain.Table, parent, chain.Name); len(jumps) == 0 {
				return fmt.Sprintf("the jump from %s to %s is missing", parent, chain.Name)
			}
		}
	}
	return ""
}

// comments lists the comments of the rules in a chain, or only of those that jump to target. It returns none if the chain is
// missing.
func comments(ipt tables, table, chain, target string) (list []string) {
	lines, err := ipt.List(table, chain)
	if err != nil {
		return nil
	}
	for _, line := range lines[min(1, len(lines)):] {
		_, rest, _ := strings.Cut(line, "--comment ")
		comment, _, _ := strings.Cut(strings.TrimPrefix(rest, `"`), `"`)
		if target == "" || strings.HasSuffix(line, "-j "+target) {
			list = append(list, strings.ReplaceAll(comment, `\'`, "'"))
		}
	}
	return list
}

func sameElements(a, b []string) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// applyBeyond adds the rules for the plan's Beyond, and removes those of the earlier plan.
func (p Plan) applyBeyond(ipt tables, earlier Plan) error {
	var problems []error
	before, after := earlier.beyond(ipt.Family), p.beyond(ipt.Family)
	for _, prefix := range after {
		if !slices.Contains(before, prefix) {
			problems = append(problems, putFirst(ipt, p.beyondRule(prefix)))
		}
	}
	for _, prefix := range before {
		if r := p.beyondRule(prefix); !slices.Contains(after, prefix) {
			problems = append(problems, ipt.DeleteIfExists(r.table, r.chain, r.rule...))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("cannot change iptables chain %s: %w", p.leavingChain(), explain(ipt, err))
	}
	return nil
}

// removePod removes a pod's rules. It continues after an error and returns all errors.
func (p Plan) removePod(ipt tables, e endpoint) error {
	var problems []error
	for _, r := range p.podRules(ipt.Family, e) {
		err := ipt.DeleteIfExists(r.table, r.chain, r.rule...)
		if err == nil {
			continue
		}
		if _, missing := ipt.List(r.table, r.chain); missing == nil { // the chain is gone if the machine was rebooted
			problems = append(problems, fmt.Errorf("cannot remove an iptables rule of pod %s: %w", e.Sandbox.Pod, err))
		}
	}
	return errors.Join(problems...)
}

// remove removes what apply wrote, as far as it exists, each chain before its jump target. It continues after an error and returns
// all errors.
func (p Plan) remove(ipt tables) error {
	var problems []error
	for _, chain := range slices.Backward(p.Rules(ipt.Family)) {
		err := ipt.ClearChain(chain.Table, chain.Name) // iptables can delete a jump only while its target exists
		if err == nil {
			for _, parent := range chain.Parents {
				err = errors.Join(err, ipt.DeleteIfExists(chain.Table, parent, p.jump(chain)...))
			}
			err = errors.Join(err, ipt.ClearAndDeleteChain(chain.Table, chain.Name))
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("cannot remove iptables chain %s: %w", chain.Name, err))
		}
	}
	return errors.Join(problems...)
}

// firewallChain is created by kube-proxy for the kubelet, so kube-proxy --cleanup leaves it behind.
const firewallChain = "KUBE-FIREWALL"

// HasServiceRules reports whether a kube-proxy has made rules on this machine.
func HasServiceRules() bool {
	ipt, err := openTables(IPv4)
	if err != nil {
		return false // New says so, too
	}
	_, err = ipt.List("nat", "KUBE-SERVICES")
	return err == nil
}

// RemoveEmptyFirewall removes chain KUBE-FIREWALL for IPv4 and IPv6, unless it has rules. Call it when no kube-proxy runs on the
// machine any more.
func RemoveEmptyFirewall() error {
	var problems []error
	for _, protocol := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		if err := removeEmptyFirewall(protocol); err != nil {
			problems = append(problems, fmt.Errorf("cannot remove iptables chain %s: %w", firewallChain, err))
		}
	}
	return errors.Join(problems...)
}

func removeEmptyFirewall(protocol iptables.Protocol) error {
	ipt, err := iptables.New(iptables.IPFamily(protocol), iptables.Timeout(5))
	if err != nil {
		return err
	}
	chains, err := ipt.ListChains("filter")
	if err != nil || !slices.Contains(chains, firewallChain) {
		return err
	}
	if rules, err := ipt.List("filter", firewallChain); err != nil || len(rules) > 1 { // the first line is the chain itself
		return err
	}
	return errors.Join(
		ipt.DeleteIfExists("filter", "INPUT", "-j", firewallChain),
		ipt.DeleteIfExists("filter", "OUTPUT", "-j", firewallChain),
		ipt.DeleteChain("filter", firewallChain))
}
