package scheduler

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

const (
	addressAgain = 5 * time.Second  // an operator may have loaded another pool
	addressSweep = 10 * time.Minute // between two comparisons of who has addresses with the pods that there are
	addressFirst = 30 * time.Second // after the subscription: tasks of pods that are gone have been found and killed by then
	leadAgain    = 10 * time.Second // a node that does not say by then what it was made to is made to again
)

// AssignAddresses asks for addresses of pools, first come first served. AddressesAssigned answers.
type AssignAddresses struct{ Claims []api.AddressClaim }

func (a AssignAddresses) String() string {
	texts := make([]string, len(a.Claims))
	for i, claim := range a.Claims {
		texts[i] = fmt.Sprintf("%s of %s", claim.Pod, claim.Pool) + with(" ", claim.IP)
	}
	return "assign addresses: " + strings.Join(texts, ", ")
}

// ReleaseAddress gives back the address of a pod that is over. AddressReleased answers.
type ReleaseAddress struct{ Pod types.UID }

func (a ReleaseAddress) String() string { return "release the address of " + string(a.Pod) }

// KeepAddresses gives back the addresses of all pods but these. AddressReleased answers.
type KeepAddresses struct{ Pods []types.UID }

func (a KeepAddresses) String() string { return fmt.Sprintf("keep the addresses of %v only", a.Pods) }

// LeadTo makes a node say which addresses of pools its pods have (api.AnnotationPodPrefixes).
type LeadTo struct{ Node, Prefixes string }

func (a LeadTo) String() string {
	if a.Prefixes == "" {
		return "lead no more addresses to node " + a.Node
	}
	return fmt.Sprintf("lead %s to node %s", a.Prefixes, a.Node)
}

// Object implements ClusterAction.
func (a LeadTo) Object() string { return "node/" + a.Node }

// AddressesAssigned answers AssignAddresses, each claim in its place.
type AddressesAssigned struct {
	Action  AssignAddresses
	Answers []api.AddressAnswer
}

// AddressReleased answers ReleaseAddress and KeepAddresses.
type AddressReleased struct{ OK bool }

func (AddressesAssigned) event() {}
func (AddressReleased) event()   {}

// addressing is what the core knows of addresses of pools.
type addressing struct {
	core    *Core
	waiting map[types.UID]*pod // for an address
	// holders have one, or may have: each is released when its pod is over. The task is the last one of a pod that is gone.
	holders map[types.UID]*task
	asking  bool      // AssignAddresses is under way
	fresh   bool      // a pod waits that was not asked for
	again   time.Time // when to ask for those that were refused
	sweep   time.Time // when to keep only what pods have; zero before the first subscription
	moved   bool      // a pod with an address has come to a node, or has gone
	led     map[string]led
}

func newAddressing(c *Core) addressing {
	return addressing{core: c, waiting: map[types.UID]*pod{}, holders: map[types.UID]*task{}, led: map[string]led{}}
}

// begin has addresses be kept by what pods have from a while after the first subscription on.
func (ad *addressing) begin(now time.Time) { ad.sweep = now.Add(addressFirst) }

// has notes that a pod has an address.
func (ad *addressing) has(uid types.UID) {
	if _, known := ad.holders[uid]; !known {
		ad.holders[uid] = nil
	}
}

// gone takes in that a pod's object is gone; it has its address as long as its last task may run.
func (ad *addressing) podGone(uid types.UID, last *task) {
	if _, holds := ad.holders[uid]; holds {
		ad.holders[uid], ad.moved = last, true
	}
}

// bound takes in that a pod was bound: packets to its address go to its node from now on.
func (ad *addressing) bound(p *pod) { ad.moved = ad.moved || p.claimed.address != "" }

// await has the pod be given an address.
func (ad *addressing) await(p *pod) { ad.waiting[p.Obj.UID], ad.fresh = p, true }

// all goes through the pods that wait, in no order.
func (ad *addressing) all() iter.Seq2[types.UID, *pod] { return maps.All(ad.waiting) }

// awaits tells whether the pod waits for an address.
func (ad *addressing) awaits(p *pod) bool { return ad.waiting[p.Obj.UID] == p }

// waits counts the pods that wait for an address.
func (ad *addressing) waits() int { return len(ad.waiting) }

// drop takes the pod off.
func (ad *addressing) drop(p *pod) { delete(ad.waiting, p.Obj.UID) }

// led is what a node was made to say, and when.
type led struct {
	prefixes string
	at       time.Time
}

// claimed is a pod's part in that.
type claimed struct {
	claim   *api.AddressClaim // nil if it wants none, or is bound
	address string            // that it has; "" for none
	granted api.AddressClaim  // what it has that for
	refused string            // why it has none
	told    bool              // that it gets none, because somebody else has bound it
}

// awaitsAddress tells whether the pod needs an address of a pool before it can have a place.
func (p *pod) awaitsAddress() bool {
	return p.claimed.claim != nil && p.claimed.address == "" && p.Node == "" && !p.Asks.Wrong()
}

// readClaim finds out which address the pod wants; of a bound pod, which it has.
func (p *pod) readClaim() (problem string) {
	x, obj := &p.claimed, p.Obj
	before := x.claim
	x.claim = nil
	assigned := obj.Annotations[api.AnnotationIPAssigned]
	switch {
	case obj.Spec.NodeName != "":
		x.address = assigned
		return ""
	case p.Node != "": // it was bound a moment ago, and has not been seen so yet
		return ""
	case assigned != "":
		return "its annotation " + api.AnnotationIPAssigned + " is for the scheduler to write: remove it"
	}
	pool, ip := obj.Annotations[api.AnnotationIPPool], obj.Annotations[api.AnnotationIP]
	if pool+ip == "" {
		x.address = ""
		return ""
	}
	if problem := wrongClaim(pool, ip, obj.Spec.HostNetwork); problem != "" {
		x.address = ""
		return problem
	}
	x.claim = &api.AddressClaim{Pod: refOf(obj).Key, UID: obj.UID, Pool: pool, IP: ip}
	if x.granted != *x.claim {
		x.address = ""
	}
	if before == nil || *before != *x.claim {
		x.refused = ""
	}
	return ""
}

func wrongClaim(pool, ip string, hostNetwork bool) string {
	if pool == "" {
		return fmt.Sprintf("its annotation %s=%q needs the annotation %s, which names the address's pool", api.AnnotationIP, ip, api.AnnotationIPPool)
	}
	if hostNetwork {
		return fmt.Sprintf("its annotation %s cannot be followed: it is on the network of its node (hostNetwork)", api.AnnotationIPPool)
	}
	if _, err := netip.ParseAddr(ip); ip != "" && err != nil {
		return fmt.Sprintf("its annotation %s=%q is no IP address", api.AnnotationIP, ip)
	}
	return ""
}

// tellUnaddressed tells once of a pod that somebody else has bound: its sandbox may have been made before we knew of it.
func (p *pod) tellUnaddressed() []Action {
	notes := p.Obj.Annotations
	if p.Obj.Spec.NodeName == "" || notes[api.AnnotationIPPool] == "" || notes[api.AnnotationIPAssigned] != "" ||
		notes[api.AnnotationTaskID] != "" || p.claimed.told || finished(p.Obj) {
		return nil
	}
	p.claimed.told = true
	return []Action{Report{Pod: p.Obj, Message: fmt.Sprintf("its annotation %s is not followed: somebody else has bound it to node %s, and it has an address of that node",
		api.AnnotationIPPool, p.Obj.Spec.NodeName)}}
}

// ask asks for the addresses that pods wait for, one batch at a time.
func (ad *addressing) ask(now time.Time) []Action {
	due := !now.Before(ad.again)
	if len(ad.waiting) == 0 || !ad.core.session.synced() || ad.asking || !ad.fresh && !due {
		return nil
	}
	ad.fresh = false
	var act AssignAddresses
	for _, p := range slices.SortedFunc(maps.Values(ad.waiting), before) {
		if p.claimed.refused == "" || due {
			act.Claims = append(act.Claims, *p.claimed.claim)
		}
	}
	if due {
		ad.again = now.Add(addressAgain)
	}
	if len(act.Claims) == 0 {
		return nil
	}
	ad.asking = true
	return []Action{act}
}

// assigned lets the pods go on that have got addresses.
func (ad *addressing) assigned(now time.Time, done AddressesAssigned) {
	ad.asking = false
	for i, claim := range done.Action.Claims {
		answer, p := done.Answers[i], ad.core.pods.get(claim.UID)
		if answer.IP != "" {
			ad.has(claim.UID)
		}
		if p == nil {
			continue
		}
		if p.claimed.claim == nil || *p.claimed.claim != claim {
			ad.fresh = true // it wants something else by now
			continue
		}
		p.claimed.address, p.claimed.granted, p.claimed.refused = answer.IP, claim, answer.Problem
		if answer.IP != "" {
			ad.core.stir()
			ad.core.pods.requeue(now, p)
		}
	}
}

// released gives others another try at once, or this another one before long.
func (ad *addressing) released(now time.Time, ok bool) {
	if ok {
		ad.again = now
		return
	}
	ad.sweep = now.Add(addressFirst)
}

// tick gives back the addresses of pods that are over, or want none any more. Those whose task may still run are
// not over, even if their objects are gone.
func (ad *addressing) tick(now time.Time) []Action {
	ad.moved = true // or may be: nodes come and go
	var acts []Action
	for _, uid := range slices.Sorted(maps.Keys(ad.holders)) {
		if !ad.holds(uid) {
			delete(ad.holders, uid)
			acts = append(acts, ReleaseAddress{Pod: uid})
		}
	}
	if ad.sweep.IsZero() || now.Before(ad.sweep) {
		return acts
	}
	ad.sweep = now.Add(addressSweep)
	keep := map[types.UID]bool{}
	for uid := range ad.holders {
		keep[uid] = true
	}
	for uid, p := range ad.core.pods.all() {
		if !finished(p.Obj) && (p.claimed.claim != nil || p.claimed.address != "" || p.Obj.Annotations[api.AnnotationIPPool] != "") {
			keep[uid] = true
		}
	}
	return append(acts, KeepAddresses{Pods: slices.Sorted(maps.Keys(keep))})
}

// holds tells whether a pod that has an address is to keep it.
func (ad *addressing) holds(uid types.UID) bool {
	p := ad.core.pods.get(uid)
	if p == nil {
		last := ad.holders[uid]
		return last != nil && ad.core.tasks.get(last.id) == last
	}
	return p.task != nil || !finished(p.Obj) && (p.claimed.claim != nil || p.Node != "")
}

// lead makes the nodes say where pods with addresses of pools are. An address is a node's from the binding until
// the pod is over, so that no two nodes ever have one, even if one of them is cut off.
func (ad *addressing) lead(now time.Time) []Action {
	moved := ad.moved
	if ad.moved = false; !moved || !ad.core.session.synced() {
		return nil
	}
	wanted := map[string][]netip.Prefix{}
	for uid := range ad.holders {
		p := ad.core.pods.get(uid)
		if p == nil || p.Node == "" || finished(p.Obj) {
			continue
		}
		if address, err := netip.ParseAddr(p.claimed.address); err == nil {
			wanted[p.Node] = append(wanted[p.Node], netip.PrefixFrom(address, address.BitLen()))
		}
	}
	var acts []Action
	for _, name := range ad.core.agents.nodeNames() {
		want, node := api.FormatPodPrefixes(wanted[name]), ad.core.agents.node(name)
		if _, ours := api.AgentOfProviderID(node.Spec.ProviderID); !ours || node.Annotations[api.AnnotationPodPrefixes] == want {
			delete(ad.led, name)
			continue
		}
		if before := ad.led[name]; before.prefixes == want && now.Before(before.at.Add(leadAgain)) {
			continue
		}
		ad.led[name] = led{want, now}
		acts = append(acts, LeadTo{Node: name, Prefixes: want})
	}
	return acts
}

// addressText tells which address a binding gives.
func addressText(annotations map[string]string) string {
	return with(" with address ", annotations[api.AnnotationIPAssigned])
}
