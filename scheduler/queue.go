package scheduler

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/scheduler/match"
)

// queue holds the pods that need a task and do not wait for a place in the index.
type queue struct {
	awaitingExecutor map[types.UID]*pod // those that have reserved a place, where an executor is being prepared
	awaitingClaims   map[types.UID]*pod // those whose claims are being bound for the node that was chosen
	awaitingAddress  map[types.UID]*pod // those that wait for an address of a pool
	awaitingNode     map[string][]*pod  // those that are bound to a node that is none of ours, by node
	backingOff       map[types.UID]*pod // those whose tasks keep failing
	waiting          int                // how many pods there are, those in the index too, but not those that await nodes
}

func newQueue() queue {
	return queue{
		awaitingExecutor: map[types.UID]*pod{}, awaitingClaims: map[types.UID]*pod{}, awaitingAddress: map[types.UID]*pod{},
		awaitingNode: map[string][]*pod{}, backingOff: map[types.UID]*pod{},
	}
}

// requeue puts a pod where it belongs now.
func (c *Core) requeue(now time.Time, p *pod) {
	settled := c.index.Reconsider(&p.Pod)
	if p.ClaimsNode != "" && c.queue.awaitingClaims[p.Obj.UID] == p && needsTask(p) && p.Node == "" {
		return // its claims decide when it goes on
	}
	homeless := p.Node != "" && c.agentOfNode(p.Node) == nil
	resting := now.Before(p.backoff.until)
	if settled && needsTask(p) && !homeless && !resting && !p.awaitsAddress() {
		return // it stays where it is
	}
	c.dequeue(p)
	switch {
	case !needsTask(p):
		c.nominate(now, p, "")
		return
	case homeless:
		c.queue.awaitingNode[p.Node] = append(c.queue.awaitingNode[p.Node], p)
		return
	case resting:
		c.queue.backingOff[p.Obj.UID] = p
	case p.awaitsAddress():
		c.queue.awaitingAddress[p.Obj.UID] = p
		c.addresses.fresh = true
	default:
		c.index.Enqueue(&p.Pod)
	}
	p.waits = true
	c.queue.waiting++
}

// dequeue takes a pod out of its place. What it had reserved becomes free.
func (c *Core) dequeue(p *pod) {
	if reserved := c.index.Dequeue(&p.Pod); reserved != nil {
		c.triedInVain(c.agents[reserved.ID], p.Obj.UID)
		delete(c.queue.awaitingExecutor, p.Obj.UID)
		c.occupy(p)
	}
	delete(c.queue.backingOff, p.Obj.UID)
	delete(c.queue.awaitingClaims, p.Obj.UID)
	delete(c.queue.awaitingAddress, p.Obj.UID)
	if home := c.queue.awaitingNode[p.Node]; len(home) > 0 {
		c.queue.awaitingNode[p.Node] = slices.DeleteFunc(home, func(other *pod) bool { return other == p })
	}
	if p.waits {
		p.waits = false
		c.queue.waiting--
	}
}

// wake brings back the pods that have backed off long enough.
func (c *Core) wake(now time.Time) {
	for _, p := range c.queue.backingOff {
		if !now.Before(p.backoff.until) {
			c.requeue(now, p)
			c.reviveSoon()
		}
	}
}

// welcome queues the pods that are bound to a node which has become one of ours.
func (c *Core) welcome(now time.Time, node string) {
	pods := c.queue.awaitingNode[node]
	if len(pods) == 0 || c.agentOfNode(node) == nil {
		return
	}
	delete(c.queue.awaitingNode, node)
	for _, p := range pods {
		c.requeue(now, p)
	}
}

// vacate takes the pods that are bound to a node which is ours no more out of the queue.
func (c *Core) vacate(now time.Time, node string) {
	for s := range c.index.Classes() {
		if s.Node() != node || node == "" {
			continue
		}
		for _, p := range slices.Collect(s.Pods()) {
			c.requeue(now, c.podOf(p))
		}
	}
}

// wantsMore tells whether a pod waits that some offer may help. For one that has to be mended, or waits for an address, others
// need not go without.
func (c *Core) wantsMore() bool {
	helpless := len(c.queue.awaitingAddress)
	for s := range c.index.Classes() {
		if s.Asks().Wrong() {
			for range s.Pods() {
				helpless++
			}
		}
	}
	return c.queue.waiting > helpless
}

// occupies names the node that the pod takes part of; "" if there is none.
func (c *Core) occupies(p *pod) string {
	switch {
	case finished(p.Obj):
		return ""
	case p.Node != "":
		return p.Node
	case p.task != nil:
		if a := c.agents[p.task.agent]; a != nil {
			return a.Node
		}
		return ""
	case p.Reserved() != nil:
		return p.Reserved().Node
	}
	return p.ClaimsNode
}

// occupy lets the index know which node the pod takes part of now.
func (c *Core) occupy(p *pod) { c.index.Occupy(&p.Pod, c.occupies(p)) }

// reoccupy does so for the pods with tasks on an agent that has got its node's name.
func (c *Core) reoccupy(a *agent) {
	for _, t := range c.owners[a.ID] {
		if p := c.pods[t.pod]; p != nil && p.task == t {
			c.occupy(p)
		}
	}
}

// podOf returns the pod that the index knows.
func (c *Core) podOf(p *match.Pod) *pod { return c.pods[p.Obj.UID] }

// agentOf returns the agent that the index knows; nil for nil.
func (c *Core) agentOf(a *match.Agent) *agent {
	if a == nil {
		return nil
	}
	return c.agents[a.ID]
}

// agentOfNode returns the agent that the node stands for; nil if it does not exist, or its agent is not known.
func (c *Core) agentOfNode(name string) *agent { return c.agentOf(c.index.AgentOfNode(name)) }

// before orders pods by whose turn it is.
func before(a, b *pod) int { return match.Before(&a.Pod, &b.Pod) }
