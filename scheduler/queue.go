package scheduler

import (
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/scheduler/match"
)

// queue holds the pods that need a task, except those that wait in the index for a place, for claims or for an address.
type queue struct {
	awaitingExecutor map[types.UID]*pod // have reserved a place while its executor is prepared
	awaitingNode     map[string][]*pod  // are bound to a node that is not one of ours, by node
	backingOff       map[types.UID]*pod // their tasks keep failing
	waiting          int                // number of all waiting pods, here and elsewhere, without awaitingNode
}

func newQueue() queue {
	return queue{
		awaitingExecutor: map[types.UID]*pod{},
		awaitingNode:     map[string][]*pod{}, backingOff: map[types.UID]*pod{},
	}
}

// requeue moves a pod to the queue where it has to wait now, if any.
func (ps *pods) requeue(now time.Time, p *pod) {
	settled := ps.core.index.Reconsider(&p.Pod)
	if p.ClaimsNode != "" && ps.core.claims.awaits(p) && needsTask(p) && p.Node == "" {
		return // claims.bound or chooseAgain will requeue it
	}
	strayed := p.Node != "" && ps.core.agents.ofNode(p.Node) == nil
	backingOff := now.Before(p.backoff.until)
	if settled && needsTask(p) && !strayed && !backingOff && !p.awaitsAddress() {
		return // it stays where it is
	}
	ps.dequeue(p)
	switch {
	case !needsTask(p):
		ps.nominate(now, p, "")
		return
	case strayed:
		ps.queue.awaitingNode[p.Node] = append(ps.queue.awaitingNode[p.Node], p)
		return
	case backingOff:
		ps.queue.backingOff[p.Obj.UID] = p
	case p.awaitsAddress():
		ps.core.addresses.await(p)
	default:
		ps.core.index.Enqueue(&p.Pod)
	}
	ps.await(p)
}

// await counts a pod as waiting.
func (ps *pods) await(p *pod) {
	p.waits = true
	ps.queue.waiting++
}

// awaitExecutor makes a pod wait at its reserved place until the executor there is prepared.
func (ps *pods) awaitExecutor(p *pod) {
	ps.queue.awaitingExecutor[p.Obj.UID] = p
	ps.await(p)
}

// waiting returns the number of waiting pods.
func (ps *pods) waiting() int { return ps.queue.waiting }

// awaitingExecutor returns the pods that wait at a reserved place while its executor is prepared, in no order.
func (ps *pods) awaitingExecutor() []*pod {
	return slices.Collect(maps.Values(ps.queue.awaitingExecutor))
}

// dequeue removes a pod from wherever it waits, and frees what it had reserved.
func (ps *pods) dequeue(p *pod) {
	if reserved := ps.core.index.Dequeue(&p.Pod); reserved != nil {
		ps.core.health.triedInVain(ps.core.agents.get(reserved.ID), p.Obj.UID)
		delete(ps.queue.awaitingExecutor, p.Obj.UID)
		ps.occupy(p)
	}
	delete(ps.queue.backingOff, p.Obj.UID)
	ps.core.claims.drop(p)
	ps.core.addresses.drop(p)
	if home := ps.queue.awaitingNode[p.Node]; len(home) > 0 {
		ps.queue.awaitingNode[p.Node] = slices.DeleteFunc(home, func(other *pod) bool { return other == p })
	}
	if p.waits {
		p.waits = false
		ps.queue.waiting--
	}
}

// wake requeues the pods whose backoff is over.
func (ps *pods) wake(now time.Time) {
	for _, p := range ps.queue.backingOff {
		if !now.Before(p.backoff.until) {
			ps.requeue(now, p)
			ps.core.offering.reviveSoon()
		}
	}
}

// nodeJoined requeues the pods that are bound to a node which has become one of ours.
func (ps *pods) nodeJoined(now time.Time, node string) {
	pods := ps.queue.awaitingNode[node]
	if len(pods) == 0 || ps.core.agents.ofNode(node) == nil {
		return
	}
	delete(ps.queue.awaitingNode, node)
	for _, p := range pods {
		ps.requeue(now, p)
	}
}

// nodeLeft requeues the pods that are bound to a node which is no longer one of ours.
func (ps *pods) nodeLeft(now time.Time, node string) {
	for s := range ps.core.index.Classes() {
		if s.Node() != node || node == "" {
			continue
		}
		for _, p := range slices.Collect(s.Pods()) {
			ps.requeue(now, ps.of(p))
		}
	}
}

// wantsMore reports whether an offer could help some waiting pod. It cannot help pods with a wrong spec or without the IP
// address that they wait for; for these, offers need not be kept from other frameworks.
func (ps *pods) wantsMore() bool {
	helpless := ps.core.addresses.waits()
	for s := range ps.core.index.Classes() {
		if s.Asks().Wrong() {
			for range s.Pods() {
				helpless++
			}
		}
	}
	return ps.queue.waiting > helpless
}

// occupies returns the node whose resources the pod takes; "" for none.
func (ps *pods) occupies(p *pod) string {
	switch {
	case finished(p.Obj):
		return ""
	case p.Node != "":
		return p.Node
	case p.task != nil:
		if a := ps.core.agents.get(p.task.agent); a != nil {
			return a.Node
		}
		return ""
	case p.Reserved() != nil:
		return p.Reserved().Node
	}
	return p.ClaimsNode
}

// occupy tells the index which node the pod occupies now.
func (ps *pods) occupy(p *pod) { ps.core.index.Occupy(&p.Pod, ps.occupies(p)) }

// reoccupy calls occupy for the pods with tasks on an agent whose node's name is new.
func (ps *pods) reoccupy(a *agent) {
	for _, t := range ps.core.tasks.on(a.ID) {
		if p := ps.byUID[t.pod]; p != nil && p.task == t {
			ps.occupy(p)
		}
	}
}

// of returns the pod for one of the index.
func (ps *pods) of(p *match.Pod) *pod { return p.Owner.(*pod) }

// of returns the agent for one of the index; nil for nil.
func (as *agents) of(a *match.Agent) *agent {
	if a == nil {
		return nil
	}
	return a.Owner.(*agent)
}

// ofNode returns the agent of the node; nil if either is unknown.
func (as *agents) ofNode(name string) *agent { return as.of(as.core.index.AgentOfNode(name)) }

// before orders pods as the queue does: by priority, then by arrival.
func before(a, b *pod) int { return match.Before(&a.Pod, &b.Pod) }
