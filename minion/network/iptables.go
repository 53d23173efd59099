package network

import (
	"errors"
	"fmt"
)

// IPTables is what this package needs of github.com/coreos/go-iptables. ClearChain also makes the chain.
type IPTables interface {
	ClearChain(table, chain string) error
	ChainExists(table, chain string) (bool, error)
	Append(table, chain string, rule ...string) error
	Insert(table, chain string, position int, rule ...string) error
	DeleteIfExists(table, chain string, rule ...string) error
	ClearAndDeleteChain(table, chain string) error
}

// apply puts the chains in place, whatever was in them before. The jumps are made anew at the top of their chains, since
// other programs, Docker among them, insert rules there that would come first.
func (p Plan) apply(ipt IPTables) error {
	for _, chain := range p.Rules() {
		if err := p.applyChain(ipt, chain); err != nil {
			return fmt.Errorf("cannot write iptables chain %s: %w", chain.Name, err)
		}
	}
	return nil
}

func (p Plan) applyChain(ipt IPTables, chain Chain) error {
	if err := ipt.ClearChain(chain.Table, chain.Name); err != nil {
		return err
	}
	for _, rule := range chain.Rules {
		if err := ipt.Append(chain.Table, chain.Name, rule...); err != nil {
			return err
		}
	}
	if err := ipt.DeleteIfExists(chain.Table, chain.Parent, p.jump(chain)...); err != nil {
		return err
	}
	return ipt.Insert(chain.Table, chain.Parent, 1, p.jump(chain)...)
}

// remove takes away what apply made. It goes on after an error, and returns all of them.
func (p Plan) remove(ipt IPTables) error {
	var problems []error
	for _, chain := range p.Rules() {
		exists, err := ipt.ChainExists(chain.Table, chain.Name)
		if err == nil && exists { // without its target a jump cannot be named, nor be there
			err = errors.Join(
				ipt.DeleteIfExists(chain.Table, chain.Parent, p.jump(chain)...),
				ipt.ClearAndDeleteChain(chain.Table, chain.Name))
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("cannot remove iptables chain %s: %w", chain.Name, err))
		}
	}
	return errors.Join(problems...)
}
