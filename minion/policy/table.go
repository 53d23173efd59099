package policy

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"
)

// Table is the nftables table of one node. Its methods must not be called concurrently.
type Table struct {
	nft knftables.Interface
	// applied is the kernel's current content; nil if unknown.
	applied *Ruleset
	// runs counts the transactions that have changed the table.
	runs int
}

// basePriority is the priority of the base chains: they run basePriority the filter chains of others, which saves work on dropped packets.
const basePriority = knftables.FilterPriority + "-10"

// TableName returns the table's name for a cluster's node. It differs between the nodes of one machine.
func TableName(cluster, node string) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s", cluster, node)
	return fmt.Sprintf("k8sm-policy-%08x", h.Sum32())
}

// OpenTable returns the table of a cluster's node, without touching it. It fails if the machine has no nftables.
func OpenTable(cluster, node string) (*Table, error) {
	nft, err := knftables.New(knftables.InetFamily, TableName(cluster, node))
	if err != nil {
		return nil, fmt.Errorf("cannot use nftables, which network policies need (Debian: apt-get install nftables): %w", err)
	}
	return &Table{nft: nft}, nil
}

// Apply puts the rules in force, in one transaction: the kernel has either the old rules or all of the new ones. After an error it
// has the old ones.
func (t *Table) Apply(ctx context.Context, r Ruleset) error {
	if t.applied != nil && t.apply(ctx, r) == nil {
		return nil
	}
	return t.apply(ctx, r) // rebuild: another program may have removed what this changes
}

func (t *Table) apply(ctx context.Context, r Ruleset) error {
	was := emptyTable()
	tx := t.nft.NewTransaction()
	if t.applied != nil {
		was = *t.applied
	} else { // the content is unknown: replace it
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		tx.Add(&knftables.Table{})
	}
	change{was, r}.write(tx)
	if err := t.run(ctx, tx); err != nil {
		t.applied = nil
		return fmt.Errorf("cannot put network policies in force: %w", err)
	}
	t.applied = &r
	// In a transaction of their own: some kernels take a chain to be in use until the transaction that deletes the last jump has
	// ended.
	tx = t.nft.NewTransaction()
	change{was, r}.writeDeletions(tx)
	if err := t.run(ctx, tx); err != nil {
		t.applied = nil // the rules are in force; the next Apply rebuilds the table
	}
	return nil
}

func (t *Table) run(ctx context.Context, tx *knftables.Transaction) error {
	if tx.NumOperations() == 0 {
		return nil
	}
	if err := t.nft.Run(ctx, tx); err != nil {
		return err
	}
	t.runs++
	return nil
}

// Intact reports whether the kernel has what Apply wrote. It compares names and numbers only.
func (t *Table) Intact(ctx context.Context) (bool, error) {
	if t.applied == nil {
		return false, nil
	}
	rules, err := t.nft.ListRules(ctx, "")
	if knftables.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the rules of network policies: %w", err)
	}
	counts := map[string]int{}
	for _, rule := range rules {
		counts[rule.Chain]++
	}
	for name, chain := range t.applied.Chains {
		if counts[name] != len(chain) {
			return false, nil
		}
	}
	for name, set := range t.applied.Sets {
		elements, err := t.nft.ListElements(ctx, set.object(), name)
		if err != nil && !knftables.IsNotFound(err) {
			return false, fmt.Errorf("cannot read the addresses of network policies: %w", err)
		}
		if err != nil || len(elements) != len(set.Elements) {
			return false, nil
		}
	}
	return true, nil
}

func (s Set) object() string {
	if s.Verdicts {
		return "map"
	}
	return "set"
}

// Forget makes the next Apply rebuild the table.
func (t *Table) Forget() { t.applied = nil }

// Remove removes the table, if it exists.
func (t *Table) Remove(ctx context.Context) error {
	t.applied = nil
	tx := t.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := t.run(ctx, tx); err != nil {
		return fmt.Errorf("cannot remove the rules of network policies: %w", err)
	}
	return nil
}

// emptyTable is the content of a new table.
func emptyTable() Ruleset { return Ruleset{Chains: map[string][]string{}, Sets: map[string]Set{}} }

// change is the difference between two rulesets.
type change struct{ from, to Ruleset }

// write adds what is new and changes what differs. It deletes no chains and sets, which are still referred to.
func (c change) write(tx *knftables.Transaction) {
	for _, name := range slices.Sorted(maps.Keys(c.to.Sets)) {
		if _, ok := c.from.Sets[name]; !ok {
			tx.Add(c.to.Sets[name].define(name))
		}
	}
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(c.to.Chains)) {
		rules, ok := c.from.Chains[name]
		if ok && slices.Equal(rules, c.to.Chains[name]) {
			continue
		}
		changed = append(changed, name)
		tx.Add(chain(name))
		if ok {
			tx.Flush(chain(name))
		}
	}
	for _, name := range changed { // all jump targets exist by now
		for _, rule := range c.to.Chains[name] {
			tx.Add(&knftables.Rule{Chain: name, Rule: rule})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.to.Sets)) {
		c.writeElements(tx, name)
	}
}

func (c change) writeElements(tx *knftables.Transaction, name string) {
	from, to := c.from.Sets[name], c.to.Sets[name]
	for _, key := range missing(from.Elements, to.Elements) {
		tx.Delete(from.element(name, key))
	}
	for _, key := range missing(to.Elements, from.Elements) {
		tx.Add(to.element(name, key))
	}
}

// missing returns the sorted keys whose values differ in the other map.
func missing(of, in map[string]string) (keys []string) {
	for key, value := range of {
		if other, ok := in[key]; !ok || value != other {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// writeDeletions deletes the chains and sets that nothing refers to any more.
func (c change) writeDeletions(tx *knftables.Transaction) {
	var gone []string
	for _, name := range slices.Sorted(maps.Keys(c.from.Chains)) {
		if _, ok := c.to.Chains[name]; !ok {
			gone = append(gone, name)
			tx.Flush(chain(name)) // it may jump to other chains that are deleted
		}
	}
	for _, name := range gone {
		tx.Delete(chain(name))
	}
	for _, name := range slices.Sorted(maps.Keys(c.from.Sets)) {
		if _, ok := c.to.Sets[name]; !ok {
			tx.Delete(c.from.Sets[name].define(name))
		}
	}
}

func (s Set) define(name string) knftables.Object {
	if s.Verdicts {
		return &knftables.Map{Name: name, Type: s.typeText()}
	}
	return &knftables.Set{Name: name, Type: s.typeText()}
}

func (s Set) element(name, key string) *knftables.Element {
	element := &knftables.Element{Key: strings.Split(key, " . ")}
	if s.Verdicts {
		element.Map, element.Value = name, []string{s.Elements[key]}
	} else {
		element.Set = name
	}
	return element
}

// chain converts a name to a chain. The name says whether it is a base chain.
func chain(name string) *knftables.Chain {
	c := &knftables.Chain{Name: name}
	if slices.ContainsFunc(directions, func(d direction) bool { return d.name == name }) {
		c.Type, c.Hook, c.Priority = knftables.PtrTo(knftables.FilterType), knftables.PtrTo(knftables.ForwardHook), knftables.PtrTo(basePriority)
	}
	return c
}
