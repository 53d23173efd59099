package assigner

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go4.org/netipx"
)

// Change is what an import does to one pool.
type Change struct {
	Pool string
	// Before and After are its numbers of addresses; 0 if it does not exist.
	Before, After int
	// Added and Removed are the numbers of addresses that it gains and loses.
	Added, Removed int
	// Namespaces are those whose pods may have its addresses; nil for all. NamespacesChanged says that they were others before.
	Namespaces        []string
	NamespacesChanged bool
	// Keep is the number of pods of other namespaces, which keep their addresses until they end.
	Keep int
}

// Import replaces all pools. If one of them conflicts with the surroundings, or a pod would have an address outside its pool, it
// changes nothing and returns an error that names all conflicts. It returns the changes; with dryRun, it makes none.
func (a *Assigner) Import(ctx context.Context, pools []Pool, around Surroundings, dryRun bool) ([]Change, error) {
	next, err := compile(pools)
	if err != nil {
		return nil, err
	}
	if err := around.check(next); err != nil {
		return nil, err
	}
	value, err := json.Marshal(pools)
	if err != nil {
		return nil, err
	}
	for range attempts {
		s, err := a.look(ctx)
		if err != nil {
			return nil, err
		}
		if err := s.spare(next); err != nil {
			return nil, err
		}
		changes := difference(s.pools, next)
		s.countKept(changes)
		if dryRun || len(changes) == 0 && s.poolsAt != 0 {
			return changes, nil
		}
		// No address has been assigned since: the check depends on the holders.
		r, err := a.kv.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(poolsKey), "=", s.poolsAt),
			clientv3.Compare(clientv3.ModRevision(addressKeys), "<", s.revision+1).WithPrefix(),
		).Then(clientv3.OpPut(poolsKey, string(value))).Commit()
		if err != nil {
			return nil, fmt.Errorf("cannot write the address pools: %w", err)
		}
		if r.Succeeded {
			return changes, nil
		}
	}
	return nil, errBusy
}

// spare returns an error if a pod would have an address outside its pool.
func (s *seen) spare(next []pool) error {
	after := seen{pools: next}
	var lost []string
	for _, address := range slices.SortedFunc(maps.Keys(s.holders), netip.Addr.Compare) {
		h := s.holders[address]
		if p, ok := after.pool(h.Pool); !ok || !p.set.Contains(address) {
			lost = append(lost, fmt.Sprintf("%s of pool %s, in use by pod %s", address, h.Pool, h.Pod()))
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("cannot take away addresses that pods have: %s; delete these pods first, or leave the addresses in their pool",
		strings.Join(lost, "; "))
}

// countKept sets Keep of the changes.
func (s *seen) countKept(changes []Change) {
	for i := range changes {
		c := &changes[i]
		for _, h := range s.holders {
			if h.Pool == c.Pool && !(Pool{Namespaces: c.Namespaces}).admits(h.Namespace) {
				c.Keep++
			}
		}
	}
}

// difference lists the changed pools, by name.
func difference(before, after []pool) []Change {
	changes := map[string]*Change{}
	sets, namespaces := map[string][2]*netipx.IPSet{}, map[string][]string{} // the latter before
	for i, pools := range [][]pool{before, after} {
		for _, p := range pools {
			c := changes[p.Name]
			if c == nil {
				c = &Change{Pool: p.Name}
				changes[p.Name] = c
			}
			if i == 0 {
				c.Before, namespaces[p.Name] = p.size, p.Namespaces
			} else {
				c.After, c.Namespaces = p.size, p.Namespaces
			}
			pair := sets[p.Name]
			pair[i] = p.set
			sets[p.Name] = pair
		}
	}
	var list []Change
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		c := changes[name]
		shared := common(sets[name][0], sets[name][1])
		c.Added, c.Removed = c.After-shared, c.Before-shared
		c.NamespacesChanged = !sameNames(namespaces[name], c.Namespaces)
		if c.Added+c.Removed > 0 || c.NamespacesChanged {
			list = append(list, *c)
		}
	}
	return list
}

// sameNames reports whether two lists have the same names, in any order.
func sameNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// common counts the addresses in both sets; nil is empty.
func common(a, b *netipx.IPSet) int {
	if a == nil || b == nil {
		return 0
	}
	var both netipx.IPSetBuilder
	both.AddSet(a)
	both.Intersect(b)
	set, err := both.IPSet()
	if err != nil {
		return 0
	}
	size, err := count(set.Ranges())
	if err != nil {
		return 0
	}
	return size
}

// PoolUse is a pool and the holders of its addresses.
type PoolUse struct {
	Pool
	Size    int          `json:"size"`
	Used    int          `json:"used"`
	Free    int          `json:"free"`
	Holders []AddressUse `json:"holders"`
}

// AddressUse is an address and its pod.
type AddressUse struct {
	Address netip.Addr `json:"address"`
	Holder
}

// List returns the pools sorted by name, and their holders sorted by address.
func (a *Assigner) List(ctx context.Context) ([]PoolUse, error) {
	s, err := a.look(ctx)
	if err != nil {
		return nil, err
	}
	list := []PoolUse{}
	for _, p := range s.pools {
		use := PoolUse{Pool: p.Pool, Size: p.size, Holders: []AddressUse{}}
		for _, address := range slices.SortedFunc(maps.Keys(s.holders), netip.Addr.Compare) {
			if h := s.holders[address]; h.Pool == p.Name {
				use.Holders = append(use.Holders, AddressUse{address, h})
			}
		}
		use.Used = len(use.Holders)
		use.Free = p.size - use.Used
		list = append(list, use)
	}
	slices.SortFunc(list, func(a, b PoolUse) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
