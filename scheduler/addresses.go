package scheduler

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

const (
	addressRetry = 5 * time.Second  // between requests for refused addresses: an operator may have loaded another pool
	addressSweep = 10 * time.Minute // between two KeepAddresses
	addressFirst = 30 * time.Second // first KeepAddresses after the subscription: by then, tasks of removed pods are killed
	routeRetry   = 10 * time.Second // a node without its annotation by then is annotated again
)

// AssignAddresses requests addresses from pools, first come first served. AddressesAssigned answers.
type AssignAddresses struct{ Claims []api.AddressClaim }

func (a AssignAddresses) String() string {
	texts := make([]string, len(a.Claims))
	for i, claim := range a.Claims {
		texts[i] = fmt.Sprintf("%s of %s", claim.Pod, claim.Pool) + with(" ", claim.IP)
	}
	return "assign addresses: " + strings.Join(texts, ", ")
}

// ReleaseAddress releases the address of a pod that has ended. AddressReleased answers.
type ReleaseAddress struct{ Pod types.UID }

func (a ReleaseAddress) String() string { return "release the address of " + string(a.Pod) }

// KeepAddresses releases the addresses of all pods but these. AddressReleased answers.
type KeepAddresses struct{ Pods []types.UID }

func (a KeepAddresses) String() string { return fmt.Sprintf("keep the addresses of %v only", a.Pods) }

// SetPodPrefixes annotates a node with the pool addresses of its pods (api.AnnotationPodPrefixes), so that other nodes route them
// there.
type SetPodPrefixes struct{ Node, Prefixes string }

func (a SetPodPrefixes) String() string {
	if a.Prefixes == "" {
		return "route no addresses to node " + a.Node
	}
	return fmt.Sprintf("route %s to node %s", a.Prefixes, a.Node)
}

// Object implements ClusterAction.
func (a SetPodPrefixes) Object() string { return "node/" + a.Node }

// AddressesAssigned answers AssignAddresses; Answers has the order of its claims.
type AddressesAssigned struct {
	Action  AssignAddresses
	Answers []api.AddressAnswer
}

// AddressReleased answers ReleaseAddress and KeepAddresses.
type AddressReleased struct{ OK bool }

func (AddressesAssigned) event() {}
func (AddressReleased) event()   {}

// addressing is the state of pool addresses: which pods have one, and which wait for one.
type addressing struct {
	core    *Core
	waiting map[types.UID]*pod // for an address
	// holders have, or may have, an address, which is released when the pod has ended. The task is the last one of a removed pod.
	holders map[types.UID]*task
	asking  bool      // AssignAddresses is under way
	fresh   bool      // some waiting pod was not in any request yet
	again   time.Time // when to request refused addresses again
	sweep   time.Time // when to send KeepAddresses; zero before the first subscription
	moved   bool      // a pod with an address was bound or removed
	written map[string]writtenPrefixes
}

func newAddressing(c *Core) addressing {
	return addressing{core: c, waiting: map[types.UID]*pod{}, holders: map[types.UID]*task{}, written: map[string]writtenPrefixes{}}
}

// begin schedules the first KeepAddresses, after the first subscription.
func (ad *addressing) begin(now time.Time) { ad.sweep = now.Add(addressFirst) }

// has notes that a pod has an address.
func (ad *addressing) has(uid types.UID) {
	if _, known := ad.holders[uid]; !known {
		ad.holders[uid] = nil
	}
}

// podGone notes that a pod was removed from the API; it keeps its address as long as its last task may run.
func (ad *addressing) podGone(uid types.UID, last *task) {
	if _, holds := ad.holders[uid]; holds {
		ad.holders[uid], ad.moved = last, true
	}
}

// bound notes that a pod was bound, so that its address is routed to its node.
func (ad *addressing) bound(p *pod) { ad.moved = ad.moved || p.claimed.address != "" }

// await makes the pod wait for an address.
func (ad *addressing) await(p *pod) { ad.waiting[p.Obj.UID], ad.fresh = p, true }

// all iterates over the waiting pods, in no order.
func (ad *addressing) all() iter.Seq2[types.UID, *pod] { return maps.All(ad.waiting) }

// awaits reports whether the pod waits for an address.
func (ad *addressing) awaits(p *pod) bool { return ad.waiting[p.Obj.UID] == p }

// waits returns the number of pods that wait for an address.
func (ad *addressing) waits() int { return len(ad.waiting) }

// drop ends the pod's wait.
func (ad *addressing) drop(p *pod) { delete(ad.waiting, p.Obj.UID) }

// writtenPrefixes is what was last written to a node, and when.
type writtenPrefixes struct {
	prefixes string
	at       time.Time
}

// claimed is the state of a pod's address claim.
type claimed struct {
	claim    *api.AddressClaim // nil for none, or if the pod is bound
	address  string            // that the pod has; "" for none
	granted  api.AddressClaim  // the claim that address was assigned for
	refused  string            // why no address was assigned
	reported bool              // reportUnaddressed has reported the pod
}

// awaitsAddress reports whether the pod needs an address from a pool before it can be placed.
func (p *pod) awaitsAddress() bool {
	return p.claimed.claim != nil && p.claimed.address == "" && p.Node == "" && !p.Asks.Wrong()
}

// readClaim reads from the annotations which address the pod wants or, if it is bound, has.
func (p *pod) readClaim() (problem string) {
	x, obj := &p.claimed, p.Obj
	before := x.claim
	x.claim = nil
	assigned := obj.Annotations[api.AnnotationIPAssigned]
	switch {
	case obj.Spec.NodeName != "":
		if x.address = ""; hasTask(obj) { // else its creator chose the node, and may have written the address too
			x.address = assigned
		}
		return ""
	case p.Node != "": // we bound it, but the API has not shown that yet
		return ""
	case assigned != "":
		return "its annotation " + api.AnnotationIPAssigned + " is reserved for the scheduler: remove it"
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

// hasTask reports whether the pod's annotation names a task of the pod. Whoever creates a pod cannot know its UID.
func hasTask(obj *v1.Pod) bool {
	uid, _, err := api.TaskID(obj.Annotations[api.AnnotationTaskID]).Parse()
	return err == nil && uid == obj.UID
}

// wrongClaim returns what is wrong with the annotations of an address claim; "" for nothing.
func wrongClaim(pool, ip string, hostNetwork bool) string {
	if pool == "" {
		return fmt.Sprintf("its annotation %s=%q needs the annotation %s with the name of the pool", api.AnnotationIP, ip, api.AnnotationIPPool)
	}
	if hostNetwork {
		return fmt.Sprintf("its annotation %s conflicts with hostNetwork: the pod has its node's address", api.AnnotationIPPool)
	}
	if _, err := netip.ParseAddr(ip); ip != "" && err != nil {
		return fmt.Sprintf("its annotation %s=%q is not an IP address", api.AnnotationIP, ip)
	}
	return ""
}

// reportUnaddressed reports, once, a pod that somebody else has bound and that so gets no pool address: its sandbox may have been
// created before we saw the pod.
func (p *pod) reportUnaddressed() []Action {
	notes := p.Obj.Annotations
	if p.Obj.Spec.NodeName == "" || notes[api.AnnotationIPPool] == "" || notes[api.AnnotationIPAssigned] != "" ||
		notes[api.AnnotationTaskID] != "" || p.claimed.reported || finished(p.Obj) {
		return nil
	}
	p.claimed.reported = true
	return []Action{Report{Pod: p.Obj, Message: fmt.Sprintf("its annotation %s is ignored: somebody else has bound it to node %s, and it has an address of that node",
		api.AnnotationIPPool, p.Obj.Spec.NodeName)}}
}

// ask requests the addresses that pods wait for, one batch at a time.
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
		ad.again = now.Add(addressRetry)
	}
	if len(act.Claims) == 0 {
		return nil
	}
	ad.asking = true
	return []Action{act}
}

// assigned handles the result of AssignAddresses and requeues the pods that got addresses.
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
			ad.fresh = true // its claim has changed meanwhile
			continue
		}
		p.claimed.address, p.claimed.granted, p.claimed.refused = answer.IP, claim, answer.Problem
		if answer.IP != "" {
			ad.core.requestCycle()
			ad.core.pods.requeue(now, p)
		}
	}
}

// released handles the result of a release: waiting pods are tried again at once or, after a failure, KeepAddresses is sent soon.
func (ad *addressing) released(now time.Time, ok bool) {
	if ok {
		ad.again = now
		return
	}
	ad.sweep = now.Add(addressFirst)
}

// tick releases the addresses of pods that have ended or want none any more. A removed pod keeps its address while its task may
// still run.
func (ad *addressing) tick(now time.Time) []Action {
	ad.moved = true // nodes may have come or gone
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

// holds reports whether a pod with an address keeps it.
func (ad *addressing) holds(uid types.UID) bool {
	p := ad.core.pods.get(uid)
	if p == nil {
		last := ad.holders[uid]
		return last != nil && ad.core.tasks.get(last.id) == last
	}
	return p.task != nil || !finished(p.Obj) && (p.claimed.claim != nil || p.Node != "")
}

// annotateNodes annotates the nodes with the pool addresses of their pods. An address belongs to a node from the binding until the pod has
// ended, so that two nodes never have the same one, even if one of them is partitioned.
func (ad *addressing) annotateNodes(now time.Time) []Action {
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
			delete(ad.written, name)
			continue
		}
		if before := ad.written[name]; before.prefixes == want && now.Before(before.at.Add(routeRetry)) {
			continue
		}
		ad.written[name] = writtenPrefixes{want, now}
		acts = append(acts, SetPodPrefixes{Node: name, Prefixes: want})
	}
	return acts
}

// addressText describes the address that a binding gives the pod.
func addressText(annotations map[string]string) string {
	return with(" with address ", annotations[api.AnnotationIPAssigned])
}
