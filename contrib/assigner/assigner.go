package assigner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// Folder is the folder of an Assigner in the cluster's state (state.Store.Folder).
const Folder = "assigner"

// The keys. At addressKeys, an address has its Holder as JSON; at podKeys, a pod's UID has its address. Both are written in one
// transaction, so that no address has two pods and no pod two addresses.
const (
	poolsKey    = "pools" // []Pool as JSON
	addressKeys = "addresses/"
	podKeys     = "pods/"
)

// attempts is how often a transaction is retried that fails because of concurrent changes.
const attempts = 50

// errBusy says that etcd refused all attempts.
var errBusy = errors.New("the addresses keep being changed by others, or this scheduler does not lead any more")

// Assigner assigns the addresses. Its methods may be called concurrently, even in several processes.
type Assigner struct {
	kv clientv3.KV

	mu       sync.Mutex // guards reserved
	reserved []Taken    // that no pod may have, even if a pool has them
}

// New returns an assigner on a folder of its own in etcd.
func New(kv clientv3.KV) *Assigner { return &Assigner{kv: kv} }

// reserve sets the ranges that no pod gets an address of.
func (a *Assigner) reserve(taken []Taken) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reserved = taken
}

// Holder is the pod that has an address.
type Holder struct {
	Pool      string    `json:"pool"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
}

// Pod is the holder's name with its namespace.
func (h Holder) Pod() api.PodKey { return api.PodKey{Namespace: h.Namespace, Name: h.Name} }

// seen is a consistent snapshot of etcd.
type seen struct {
	revision int64 // revision of the snapshot
	pools    []pool
	poolsAt  int64 // revision of the pools; 0 if there are none
	reserved []Taken
	holders  map[netip.Addr]Holder
	writtenA map[netip.Addr]int64 // revision of each
	pods     map[types.UID]netip.Addr
	writtenP map[types.UID]int64
}

// look reads a consistent snapshot.
func (a *Assigner) look(ctx context.Context) (*seen, error) {
	r, err := a.kv.Txn(ctx).If().Then(
		clientv3.OpGet(poolsKey), clientv3.OpGet(addressKeys, clientv3.WithPrefix()), clientv3.OpGet(podKeys, clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return nil, fmt.Errorf("cannot read the address pools: %w", err)
	}
	if !r.Succeeded {
		return nil, errBusy
	}
	a.mu.Lock()
	reserved := a.reserved
	a.mu.Unlock()
	s := &seen{
		reserved: reserved,
		revision: r.Header.Revision, holders: map[netip.Addr]Holder{}, writtenA: map[netip.Addr]int64{},
		pods: map[types.UID]netip.Addr{}, writtenP: map[types.UID]int64{},
	}
	if s.pools, s.poolsAt, err = parseStored(r.Responses[0].GetResponseRange().Kvs); err != nil {
		return nil, err
	}
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		var h Holder
		address, err := netip.ParseAddr(strings.TrimPrefix(string(kv.Key), addressKeys))
		if err == nil {
			err = json.Unmarshal(kv.Value, &h)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read who has an address, at %s in etcd: %w", kv.Key, err)
		}
		s.holders[address], s.writtenA[address] = h, kv.ModRevision
	}
	for _, kv := range r.Responses[2].GetResponseRange().Kvs {
		uid := types.UID(strings.TrimPrefix(string(kv.Key), podKeys))
		s.writtenP[uid] = kv.ModRevision
	}
	for address, h := range s.holders {
		s.pods[h.UID] = address
	}
	return s, nil
}

// readPools reads the pools alone.
func (a *Assigner) readPools(ctx context.Context) ([]pool, error) {
	r, err := a.kv.Get(ctx, poolsKey)
	if err != nil {
		return nil, fmt.Errorf("cannot read the address pools: %w", err)
	}
	pools, _, err := parseStored(r.Kvs)
	return pools, err
}

// parseStored parses the value at poolsKey, and returns the revision that wrote it; 0 if there is none.
func parseStored(kvs []*mvccpb.KeyValue) (pools []pool, revision int64, err error) {
	for _, kv := range kvs {
		var stored []Pool
		if err = json.Unmarshal(kv.Value, &stored); err == nil {
			pools, err = compile(stored)
		}
		if revision = kv.ModRevision; err != nil {
			return nil, revision, fmt.Errorf("cannot read the address pools that etcd has: %w", err)
		}
	}
	return pools, revision, nil
}

// reservedFor says what the address is reserved for; "" for nothing.
func (s *seen) reservedFor(address netip.Addr) string {
	for _, taken := range s.reserved {
		if taken.Prefix.Contains(address) {
			return taken.What
		}
	}
	return ""
}

// free reports whether a pod may get the address.
func (s *seen) free(address netip.Addr) bool {
	_, taken := s.holders[address]
	return !taken && s.reservedFor(address) == ""
}

// pool returns the pool with the name.
func (s *seen) pool(name string) (pool, bool) {
	for _, p := range s.pools {
		if p.Name == name {
			return p, true
		}
	}
	return pool{}, false
}

// refusal says why a claim cannot be met at present.
type refusal string

func (r refusal) Error() string { return string(r) }

// choose returns the address for the claim; had says that its pod already has it.
func (s *seen) choose(claim api.AddressClaim) (address netip.Addr, had bool, err error) {
	p, ok := s.pool(claim.Pool)
	if !ok {
		return address, false, refusal(fmt.Sprintf("there is no address pool %s (annotation %s)", claim.Pool, api.AnnotationIPPool))
	}
	has, had := s.pods[claim.UID]
	had = had && s.holders[has].Pool == claim.Pool
	if had && (claim.IP == "" || claim.IP == has.String()) {
		return has, true, nil
	}
	if !p.admits(claim.Pod.Namespace) {
		return address, false, refusal(fmt.Sprintf("address pool %s (annotation %s) is not for pods in namespace %s: use another pool, "+
			"or have the namespace added to the pool (km assigner import)", p.Name, api.AnnotationIPPool, claim.Pod.Namespace))
	}
	if claim.IP == "" {
		if address, ok = p.find(s.free); !ok {
			return address, false, refusal(fmt.Sprintf("address pool %s has no free address: all %d are in use", p.Name, p.size))
		}
		return address, false, nil
	}
	address, err = netip.ParseAddr(claim.IP)
	if err != nil || !p.set.Contains(address) {
		return address, false, refusal(fmt.Sprintf("address %s (annotation %s) is not in pool %s", claim.IP, api.AnnotationIP, p.Name))
	}
	if had && has == address {
		return address, true, nil
	}
	if what := s.reservedFor(address); what != "" {
		return address, false, refusal(fmt.Sprintf("address %s of pool %s is %s: exclude it from the pool", address, p.Name, what))
	}
	if h, taken := s.holders[address]; taken {
		return address, false, refusal(fmt.Sprintf("address %s of pool %s is in use by pod %s", address, p.Name, h.Pod()))
	}
	return address, false, nil
}

// Assign answers the claims in order, first come first served. A pod keeps an address that meets its claim; if it claims another
// one, it loses the old one.
func (a *Assigner) Assign(ctx context.Context, claims []api.AddressClaim) []api.AddressAnswer {
	answers := make([]api.AddressAnswer, len(claims))
	s, err := a.look(ctx)
	for i, claim := range claims {
		answers[i].UID = claim.UID
		var address netip.Addr
		refused := err
		if refused == nil {
			address, s, refused = a.assign(ctx, s, claim)
		}
		if refused == nil {
			answers[i].IP = address.String()
			continue
		}
		answers[i].Problem = refused.Error()
		if !errors.As(refused, new(refusal)) {
			err = refused // an error of etcd, which fails all further claims, too
		}
	}
	return answers
}

// assign answers one claim. The returned snapshot is newer than the given one if there were concurrent changes.
func (a *Assigner) assign(ctx context.Context, s *seen, claim api.AddressClaim) (netip.Addr, *seen, error) {
	for range attempts {
		address, had, err := s.choose(claim)
		if err != nil || had {
			return address, s, err
		}
		took, err := a.take(ctx, s, claim, address)
		if err != nil || took {
			return address, s, err
		}
		if s, err = a.look(ctx); err != nil {
			return netip.Addr{}, s, err
		}
	}
	return netip.Addr{}, s, errBusy
}

// take assigns the address to the pod, unless anything that the choice depends on has changed.
func (a *Assigner) take(ctx context.Context, s *seen, claim api.AddressClaim, address netip.Addr) (bool, error) {
	h := Holder{Pool: claim.Pool, Namespace: claim.Pod.Namespace, Name: claim.Pod.Name, UID: claim.UID}
	value, err := json.Marshal(h)
	if err != nil {
		return false, err
	}
	conditions := []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(poolsKey), "=", s.poolsAt),
		clientv3.Compare(clientv3.CreateRevision(keyOf(address)), "=", 0),
		clientv3.Compare(clientv3.ModRevision(podKeys+string(claim.UID)), "=", s.writtenP[claim.UID]),
	}
	writes := []clientv3.Op{clientv3.OpPut(keyOf(address), string(value)), clientv3.OpPut(podKeys+string(claim.UID), address.String())}
	had, other := s.pods[claim.UID]
	if other {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(keyOf(had)), "=", s.writtenA[had]))
		writes = append(writes, clientv3.OpDelete(keyOf(had)))
	}
	r, err := a.kv.Txn(ctx).If(conditions...).Then(writes...).Commit()
	if err != nil {
		return false, fmt.Errorf("cannot give out an address: %w", err)
	}
	if !r.Succeeded {
		return false, nil
	}
	if other {
		delete(s.holders, had)
		delete(s.writtenA, had)
	}
	s.holders[address], s.pods[claim.UID] = h, address
	s.writtenA[address], s.writtenP[claim.UID] = r.Header.Revision, r.Header.Revision
	return true, nil
}

func keyOf(address netip.Addr) string { return addressKeys + address.String() }

// Release releases the pod's address. It succeeds if the pod has none.
func (a *Assigner) Release(ctx context.Context, pod types.UID) error {
	_, err := a.release(ctx, func(h Holder) bool { return h.UID == pod })
	return err
}

// Keep releases the addresses of all pods except these, and returns their holders.
func (a *Assigner) Keep(ctx context.Context, pods []types.UID) (released []api.PodKey, err error) {
	keep := map[types.UID]bool{}
	for _, uid := range pods {
		keep[uid] = true
	}
	return a.release(ctx, func(h Holder) bool { return !keep[h.UID] })
}

// release releases the addresses of the selected holders, except those that have got another holder since.
func (a *Assigner) release(ctx context.Context, meant func(Holder) bool) (released []api.PodKey, err error) {
	for range attempts {
		s, err := a.look(ctx)
		if err != nil {
			return released, err
		}
		failed := false
		for _, address := range slices.SortedFunc(maps.Keys(s.holders), netip.Addr.Compare) {
			h := s.holders[address]
			if !meant(h) {
				continue
			}
			gave, err := a.giveBack(ctx, s, address)
			if err != nil {
				return released, err
			}
			if failed = failed || !gave; gave {
				released = append(released, h.Pod())
			}
		}
		if !failed {
			return released, nil
		}
	}
	return released, errBusy
}

func (a *Assigner) giveBack(ctx context.Context, s *seen, address netip.Addr) (bool, error) {
	r, err := a.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(keyOf(address)), "=", s.writtenA[address])).
		Then(clientv3.OpDelete(keyOf(address)), clientv3.OpDelete(podKeys+string(s.holders[address].UID))).Commit()
	if err != nil {
		return false, fmt.Errorf("cannot give back address %s: %w", address, err)
	}
	return r.Succeeded, nil
}
