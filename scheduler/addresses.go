package scheduler

import (
	"fmt"
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
	// holders have one, or may have: each is released when its pod is over. The task is the last one of a pod that is gone.
	holders map[types.UID]*task
	asking  bool      // AssignAddresses is under way
	fresh   bool      // a pod waits that was not asked for
	again   time.Time // when to ask for those that were refused
	sweep   time.Time // when to keep only what pods have; zero before the first subscription
	moved   bool      // a pod with an address has come to a node, or has gone
	led     map[string]led
}

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

// askAddresses asks for the addresses that pods wait for, one batch at a time.
func (c *Core) askAddresses(now time.Time) []Action {
	x := &c.addresses
	due := !now.Before(x.again)
	if len(c.queue.awaitingAddress) == 0 || !c.synced || x.asking || !x.fresh && !due {
		return nil
	}
	x.fresh = false
	var act AssignAddresses
	for _, p := range slices.SortedFunc(maps.Values(c.queue.awaitingAddress), before) {
		if p.claimed.refused == "" || due {
			act.Claims = append(act.Claims, *p.claimed.claim)
		}
	}
	if due {
		x.again = now.Add(addressAgain)
	}
	if len(act.Claims) == 0 {
		return nil
	}
	x.asking = true
	return []Action{act}
}

// addressesAssigned lets the pods go on that have got addresses.
func (c *Core) addressesAssigned(now time.Time, done AddressesAssigned) {
	c.addresses.asking = false
	for i, claim := range done.Action.Claims {
		answer, p := done.Answers[i], c.pods[claim.UID]
		if answer.IP != "" {
			if _, known := c.addresses.holders[claim.UID]; !known {
				c.addresses.holders[claim.UID] = nil
			}
		}
		if p == nil {
			continue
		}
		if p.claimed.claim == nil || *p.claimed.claim != claim {
			c.addresses.fresh = true // it wants something else by now
			continue
		}
		p.claimed.address, p.claimed.granted, p.claimed.refused = answer.IP, claim, answer.Problem
		if answer.IP != "" {
			c.look = true
			c.requeue(now, p)
		}
	}
}

// addressReleased gives others another try at once, or this another one before long.
func (c *Core) addressReleased(now time.Time, ok bool) {
	if ok {
		c.addresses.again = now
		return
	}
	c.addresses.sweep = now.Add(addressFirst)
}

// tickAddresses gives back the addresses of pods that are over, or want none any more. Those whose task may still run are
// not over, even if their objects are gone.
func (c *Core) tickAddresses(now time.Time) []Action {
	x := &c.addresses
	var acts []Action
	for _, uid := range slices.Sorted(maps.Keys(x.holders)) {
		if !c.holdsAddress(uid) {
			delete(x.holders, uid)
			acts = append(acts, ReleaseAddress{Pod: uid})
		}
	}
	if x.sweep.IsZero() || now.Before(x.sweep) {
		return acts
	}
	x.sweep = now.Add(addressSweep)
	keep := map[types.UID]bool{}
	for uid := range x.holders {
		keep[uid] = true
	}
	for uid, p := range c.pods {
		if !finished(p.Obj) && (p.claimed.claim != nil || p.claimed.address != "" || p.Obj.Annotations[api.AnnotationIPPool] != "") {
			keep[uid] = true
		}
	}
	return append(acts, KeepAddresses{Pods: slices.Sorted(maps.Keys(keep))})
}

// holdsAddress tells whether a pod that has an address is to keep it.
func (c *Core) holdsAddress(uid types.UID) bool {
	p := c.pods[uid]
	if p == nil {
		last := c.addresses.holders[uid]
		return last != nil && c.tasks[last.id] == last
	}
	return p.task != nil || !finished(p.Obj) && (p.claimed.claim != nil || p.Node != "")
}

// leadToAddresses makes the nodes say where pods with addresses of pools are. An address is a node's from the binding until
// the pod is over, so that no two nodes ever have one, even if one of them is cut off.
func (c *Core) leadToAddresses(now time.Time) []Action {
	x := &c.addresses
	if x.moved = false; !c.synced {
		return nil
	}
	wanted := map[string][]netip.Prefix{}
	for uid := range x.holders {
		p := c.pods[uid]
		if p == nil || p.Node == "" || finished(p.Obj) {
			continue
		}
		if address, err := netip.ParseAddr(p.claimed.address); err == nil {
			wanted[p.Node] = append(wanted[p.Node], netip.PrefixFrom(address, address.BitLen()))
		}
	}
	var acts []Action
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		want, node := api.FormatPodPrefixes(wanted[name]), c.nodes[name]
		if _, ours := api.AgentOfProviderID(node.Spec.ProviderID); !ours || node.Annotations[api.AnnotationPodPrefixes] == want {
			delete(x.led, name)
			continue
		}
		if before := x.led[name]; before.prefixes == want && now.Before(before.at.Add(leadAgain)) {
			continue
		}
		x.led[name] = led{want, now}
		acts = append(acts, LeadTo{Node: name, Prefixes: want})
	}
	return acts
}

// addressText tells which address a binding gives.
func addressText(annotations map[string]string) string {
	return with(" with address ", annotations[api.AnnotationIPAssigned])
}
