package network

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// IPTables is what this package needs of iptables. The kernel's is github.com/coreos/go-iptables with Restore.
//
// List returns rules in the format of iptables -S. The first line is the chain itself. Restore changes each table of its input, which is
// in the format of iptables-save, in one step, and leaves alone what the input does not name.
type IPTables interface {
	List(table, chain string) ([]string, error)
	Insert(table, chain string, position int, rule ...string) error
	DeleteIfExists(table, chain string, rule ...string) error
	Restore(input string) error
}

// tables are the iptables of a family.
type tables struct {
	Family
	IPTables
}

// iptablesPatience is how many seconds iptables waits for another program that changes rules.
const iptablesPatience = 5

// openTables finds the iptables programs for the family.
func openTables(f Family) (tables, error) {
	program, protocol := "iptables", iptables.ProtocolIPv4
	if f == IPv6 {
		program, protocol = "ip6tables", iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(protocol), iptables.Timeout(iptablesPatience))
	if err == nil {
		_, err = exec.LookPath(program + "-restore")
	}
	if err != nil {
		return tables{}, fmt.Errorf("cannot find %s, which the pod network needs (Debian: apt-get install iptables): %w", program, err)
	}
	return tables{f, kernelTables{ipt, program + "-restore"}}, nil
}

// kernelTables are those of the kernel.
type kernelTables struct {
	*iptables.IPTables
	program string // iptables-restore(8) of the family
}

// Restore implements IPTables.
func (k kernelTables) Restore(input string) error {
	cmd := exec.Command(k.program, "--noflush", fmt.Sprintf("--wait=%d", iptablesPatience))
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w: %s", k.program, err, bytes.TrimSpace(out))
	}
	return nil
}

// script is the input of Restore for the node's chains.
type script struct{ strings.Builder }

// line adds a command with the words of its rule.
func (s *script) line(command string, rule ...string) {
	s.WriteString(command)
	for _, word := range rule {
		if strings.ContainsAny(word, " '") {
			word = `"` + word + `"`
		}
		s.WriteString(" " + word)
	}
	s.WriteByte('\n')
}

// rewrite writes the node's chains anew, without rules, and removes the jumps to them. fill adds what else is to be done in a table.
func (p Plan) rewrite(ipt tables, fill func(table string, chains []Chain, to *script)) error {
	byTable := map[string][]Chain{}
	for _, chain := range p.Rules(ipt.Family) {
		byTable[chain.Table] = append(byTable[chain.Table], chain)
	}
	var s script
	for table, chains := range byTable {
		s.line("*" + table)
		for _, chain := range chains {
			s.line(":" + chain.Name + " - [0:0]")
		}
		for _, chain := range chains {
			for _, parent := range chain.Parents {
				for _, jump := range jumps(ipt, table, parent, chain.Name) {
					s.line("-D" + strings.TrimPrefix(jump, "-A"))
				}
			}
		}
		fill(table, chains, &s)
		s.line("COMMIT")
	}
	return explain(ipt, ipt.Restore(s.String()))
}

// apply writes the chains and the pods' rules in one step, so that packets meet the rules before it or after it. It inserts the jumps
// at the top of their chains again, because other programs, such as Docker, insert rules there that would come first.
func (p Plan) apply(ipt tables, endpoints map[string]endpoint) error {
	err := p.rewrite(ipt, func(table string, chains []Chain, s *script) {
		for _, chain := range chains {
			for _, rule := range chain.Rules {
				s.line("-A "+chain.Name, rule...)
			}
		}
		for _, e := range endpoints {
			for _, r := range p.podRules(ipt.Family, e) {
				if r.table == table {
					s.line("-I "+r.chain, r.rule...)
				}
			}
		}
		for _, chain := range chains {
			for _, parent := range chain.Parents {
				s.line("-I "+parent, p.jump(chain)...)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("cannot write the pods' iptables rules: %w", err)
	}
	return nil
}

// remove removes what apply wrote, as far as it exists.
func (p Plan) remove(ipt tables) error {
	err := p.rewrite(ipt, func(_ string, chains []Chain, s *script) {
		for _, chain := range chains {
			s.line("-X " + chain.Name)
		}
	})
	if err != nil {
		return fmt.Errorf("cannot remove the pods' iptables rules: %w", err)
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
		if have := comments(ipt, chain.Table, chain.Name); !sameElements(have, want) {
			return fmt.Sprintf("chain %s has %d of %d rules", chain.Name, len(have), len(want))
		}
		for _, parent := range chain.Parents {
			if len(jumps(ipt, chain.Table, parent, chain.Name)) == 0 {
				return fmt.Sprintf("the jump from %s to %s is missing", parent, chain.Name)
			}
		}
	}
	return ""
}

// listed returns the rules in a chain; none if the chain is missing.
func listed(ipt tables, table, chain string) []string {
	lines, err := ipt.List(table, chain)
	if err != nil {
		return nil
	}
	return lines[min(1, len(lines)):]
}

// jumps returns the rules in a chain that jump to target.
func jumps(ipt tables, table, chain, target string) (rules []string) {
	for _, rule := range listed(ipt, table, chain) {
		if strings.HasSuffix(rule, "-j "+target) {
			rules = append(rules, rule)
		}
	}
	return rules
}

// comments lists the comments of the rules in a chain.
func comments(ipt tables, table, chain string) (list []string) {
	for _, rule := range listed(ipt, table, chain) {
		_, rest, _ := strings.Cut(rule, "--comment ")
		comment, _, _ := strings.Cut(strings.TrimPrefix(rest, `"`), `"`)
		list = append(list, strings.ReplaceAll(comment, `\'`, "'"))
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
