package scheduler

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// idleShapes is how many shapes without a pod are remembered, with what their search has learned.
const idleShapes = 256

// queue holds the pods that need a task, each in one of six places.
type queue struct {
	shapes  map[shapeKey]*shape // those that wait for a place
	parked  map[types.UID]*pod  // those that have one, where an executor is being prepared
	pledged map[types.UID]*pod  // those whose claims are being bound for the node that was chosen
	// unaddressed are those that wait for an address of a pool.
	unaddressed map[types.UID]*pod
	resting     map[types.UID]*pod    // those whose tasks keep failing
	homeless    map[string][]*pod     // those that are bound to a node that is none of ours, by node
	fresh       map[shapeKey]struct{} // shapes that got a pod since the last cycle
	heard       int                   // of the changes of the fleet, in the last cycle
	roused      []*shape              // those that what happened to other pods gave another look
	due         turns                 // the shapes that have their turn in this cycle
	waiting     int                   // how many pods there are in shapes, parked, pledged, unaddressed and resting
}

func newQueue() queue {
	return queue{
		shapes: map[shapeKey]*shape{}, parked: map[types.UID]*pod{}, pledged: map[types.UID]*pod{}, unaddressed: map[types.UID]*pod{}, resting: map[types.UID]*pod{},
		homeless: map[string][]*pod{}, fresh: map[shapeKey]struct{}{},
	}
}

// requeue puts a pod where it belongs now.
func (c *Core) requeue(now time.Time, p *pod) {
	if p.wished != c.standing.generation {
		c.wish(p)
	}
	if p.pledge != "" && c.queue.pledged[p.obj.UID] == p && needsTask(p) && p.node == "" {
		return // its claims decide when it goes on
	}
	homeless := p.node != "" && c.agentOfNode(p.node) == nil
	resting := now.Before(p.backoff.until)
	if s := p.shape; s != nil && needsTask(p) && !homeless && !resting && !p.awaitsAddress() && s.key == keyOf(p) {
		return // it stays where it is
	}
	c.dequeue(p)
	switch {
	case !needsTask(p):
		c.nominate(now, p, "")
		return
	case homeless:
		c.queue.homeless[p.node] = append(c.queue.homeless[p.node], p)
		return
	case resting:
		c.queue.resting[p.obj.UID] = p
	case p.awaitsAddress():
		c.queue.unaddressed[p.obj.UID] = p
		c.addresses.fresh = true
	default:
		c.queue.join(p)
		c.watch(p.shape)
	}
	p.waits = true
	c.queue.waiting++
}

// join lets a pod wait together with its equals.
func (q *queue) join(p *pod) {
	key := keyOf(p)
	s := q.shapes[key]
	if s == nil {
		s = newShape(key, p)
		q.shapes[key] = s
	}
	p.shape = s
	heap.Push(&s.pods, p)
	q.fresh[key] = struct{}{}
}

// dequeue takes a pod out of its place. What it had reserved becomes free.
func (c *Core) dequeue(p *pod) {
	p.shape = nil
	if p.parked != nil {
		c.fleet.touch(p.parked)
		c.triedInVain(p.parked, p.obj.UID)
		p.parked = nil
		delete(c.queue.parked, p.obj.UID)
		c.stand(p)
	}
	delete(c.queue.resting, p.obj.UID)
	delete(c.queue.pledged, p.obj.UID)
	delete(c.queue.unaddressed, p.obj.UID)
	if home := c.queue.homeless[p.node]; len(home) > 0 {
		c.queue.homeless[p.node] = slices.DeleteFunc(home, func(other *pod) bool { return other == p })
	}
	if p.waits {
		p.waits = false
		c.queue.waiting--
	}
}

// wake brings back the pods that have rested long enough.
func (c *Core) wake(now time.Time) {
	for _, p := range c.queue.resting {
		if !now.Before(p.backoff.until) {
			c.requeue(now, p)
			c.reviveSoon()
		}
	}
}

// turns makes due the shapes that may have got a chance since the last cycle: those that got a pod, or all if an agent has
// more to offer.
func (c *Core) turns() {
	q := &c.queue
	if q.heard != c.fleet.changes() {
		c.allTurns()
		return
	}
	q.due = q.due[:0]
	for key := range q.fresh {
		if s := q.shapes[key]; s != nil && s.head() != nil {
			q.due = append(q.due, s)
		}
	}
	c.takeTurns()
}

// allTurns makes all shapes due that have pods.
func (c *Core) allTurns() {
	q := &c.queue
	q.due = q.due[:0]
	for _, s := range q.shapes {
		if s.due = false; s.head() != nil {
			q.due = append(q.due, s)
		}
	}
	c.takeTurns()
}

func (c *Core) takeTurns() {
	q := &c.queue
	q.heard = c.fleet.changes()
	clear(q.fresh)
	q.roused = q.roused[:0]
	for _, s := range q.due {
		s.due = true
	}
	heap.Init(&q.due)
}

// admit makes those shapes due, too, that were roused meanwhile.
func (q *queue) admit() {
	for _, s := range q.roused {
		if !s.due && s.head() != nil && q.shapes[s.key] == s {
			s.due = true
			heap.Push(&q.due, s)
		}
	}
	q.roused = q.roused[:0]
}

// shapeOf returns the shape that pods of the key wait in, or one to look with if none does.
func (c *Core) shapeOf(key shapeKey, p *pod) *shape {
	if s := c.queue.shapes[key]; s != nil {
		return s
	}
	return newShape(key, p)
}

// forgetShapes bounds what is remembered of shapes that no pod has.
func (q *queue) forgetShapes() {
	if len(q.shapes) <= idleShapes {
		return
	}
	for key, s := range q.shapes {
		if s.head() == nil {
			delete(q.shapes, key)
		}
	}
}

// turns is a heap of shapes by whose pod is next: the highest priority, then the first arrival.
type turns []*shape

func (t turns) Len() int      { return len(t) }
func (t turns) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t turns) Less(i, j int) bool {
	return beforeInQueue(t[i].pods[0], t[j].pods[0]) < 0
}

// Push is for container/heap.
func (t *turns) Push(x any) { *t = append(*t, x.(*shape)) }

// Pop is for container/heap.
func (t *turns) Pop() any {
	last := len(*t) - 1
	s := (*t)[last]
	s.due = false
	*t = (*t)[:last]
	return s
}

func beforeInQueue(a, b *pod) int {
	return cmp.Or(cmp.Compare(priority(b.obj), priority(a.obj)), cmp.Compare(a.order, b.order))
}
