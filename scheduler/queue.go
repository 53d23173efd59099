package scheduler

import (
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/scheduler/match"
)

// queue holds the pods that need a task and wait neither for a place, in the index, nor for claims or an address.
type queue struct {
	awaitingExecutor map[types.UID]*pod // those that have reserved a place, where an executor is being prepared
	awaitingNode     map[string][]*pod  // those that are bound to a node that is none of ours, by node
	backingOff       map[types.UID]*pod // those whose tasks keep failing
	waiting          int                // how many pods wait anywhere, but for those that await nodes
}

func newQueue() queue {
	return queue{
		awaitingExecutor: map[types.UID]*pod{},
		awaitingNode:     map[string][]*pod{}, backingOff: map[types.UID]*pod{},
	}
}

// requeue puts a pod where it belongs now.
func (ps *pods) requeue(now time.Time, p *pod) {
	settled := ps.core.index.Reconsider(&p.Pod)
	if p.ClaimsNode != "" && ps.core.claims.awaits(p) && needsTask(p) && p.Node == "" {
		return // its claims decide when it goes on
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

// await counts a pod in that waits anywhere.
func (ps *pods) await(p *pod) {
	p.waits = true
	ps.queue.waiting++
}

// awaitExecutor has a pod wait that has reserved a place, until the executor is prepared there.
func (ps *pods) awaitExecutor(p *pod) {
	ps.queue.awaitingExecutor[p.Obj.UID] = p
	ps.await(p)
}

// waiting counts the pods that wait.
func (ps *pods) waiting() int { return ps.queue.waiting }

// awaitingExecutor returns the pods that have reserved a place where an executor is being prepared, in no order.
func (ps *pods) awaitingExecutor() []*pod {
	return slices.Collect(maps.Values(ps.queue.awaitingExecutor))
}

// dequeue takes a pod out of its place. What it had reserved becomes free.
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

// wake brings back the pods that have backed off long enough.
func (ps *pods) wake(now time.Time) {
	for _, p := range ps.queue.backingOff {
		if !now.Before(p.backoff.until) {
			ps.requeue(now, p)
			ps.core.offering.reviveSoon()
		}
	}
}

// welcome queues the pods that are bound to a node which has become one of ours.
func (ps *pods) welcome(now time.Time, node string) {
	pods := ps.queue.awaitingNode[node]
	if len(pods) == 0 || ps.core.agents.ofNode(node) == nil {
		return
	}
	delete(ps.queue.awaitingNode, node)
	for _, p := range pods {
		ps.requeue(now, p)
	}
}

// vacate takes the pods that are bound to a node which is ours no more out of the queue.
func (ps *pods) vacate(now time.Time, node string) {
	for s := range ps.core.index.Classes() {
		if s.Node() != node || node == "" {
			continue
		}
		for _, p := range slices.Collect(s.Pods()) {
			ps.requeue(now, ps.of(p))
		}
	}
}

// wantsMore tells whether a pod waits that some offer may help. For one that has to be mended, or waits for an address, others
// need not go without.
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

// occupies names the node that the pod takes part of; "" if there is none.
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

// occupy lets the index know which node the pod takes part of now.
func (ps *pods) occupy(p *pod) { ps.core.index.Occupy(&p.Pod, ps.occupies(p)) }

// reoccupy does so for the pods with tasks on an agent that has got its node's name.
func (ps *pods) reoccupy(a *agent) {
	for _, t := range ps.core.tasks.on(a.ID) {
		if p := ps.byUID[t.pod]; p != nil && p.task == t {
			ps.occupy(p)
		}
	}
}

// of returns the pod that the index knows.
func (ps *pods) of(p *match.Pod) *pod { return p.Owner.(*pod) }

// of returns the agent that the index knows; nil for nil.
func (as *agents) of(a *match.Agent) *agent {
	if a == nil {
		return nil
	}
	return a.Owner.(*agent)
}

// ofNode returns the agent that the node stands for; nil if it does not exist, or its agent is not known.
func (as *agents) ofNode(name string) *agent { return as.of(as.core.index.AgentOfNode(name)) }

// before orders pods by whose turn it is.
func before(a, b *pod) int { return match.Before(&a.Pod, &b.Pod) }
