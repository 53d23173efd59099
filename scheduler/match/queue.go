package match

import (
	"container/heap"
	"iter"
	"maps"
)

// idleClasses is how many classes are kept before those without a pod are dropped.
const idleClasses = 256

// classes are the classes of the waiting pods.
type classes struct {
	byKey    map[Key]*Class
	watchers map[*Class]struct{} // classes whose topology is kept up to date
	changed  map[Key]struct{}    // classes that got a pod, or may fit again, since the last cycle
	logRead  int                 // how far the fleet's log was read in the last cycle
	retry    []*Class            // classes that may fit again since a change in this cycle
	due      turns               // classes that have a turn in this cycle
	current  *Class              // the class that Next returned
}

func newClasses() classes {
	return classes{byKey: map[Key]*Class{}, watchers: map[*Class]struct{}{}, changed: map[Key]struct{}{}}
}

// Enqueue puts a pod into the class of its equals, to wait for a place. It does nothing if the pod waits there already.
func (x *Index) Enqueue(p *Pod) {
	if !x.Reconsider(p) {
		x.join(p)
	}
}

// Reconsider reads the pod's constraints again if they may have changed, and tells whether the pod waits in the right class.
func (x *Index) Reconsider(p *Pod) (settled bool) {
	if p.termGeneration != x.terms.generation {
		x.readConstraints(p)
	}
	return p.class != nil && p.class.key == keyOf(p)
}

// join puts the pod into its class.
func (x *Index) join(p *Pod) {
	key := keyOf(p)
	c := x.classes.byKey[key]
	if c == nil {
		c = newClass(key, p)
		x.classes.byKey[key] = c
	}
	p.class = c
	heap.Push(&c.pods, p)
	x.classes.changed[key] = struct{}{}
	x.watch(c)
}

// Dequeue takes the pod out of its class. If the pod had reserved a place, the place becomes free, and Dequeue returns its agent.
func (x *Index) Dequeue(p *Pod) (reserved *Agent) {
	p.class = nil
	if reserved = p.reserved; reserved != nil {
		x.fleet.touch(reserved)
		p.reserved = nil
	}
	return reserved
}

// Classes iterates over the classes in no order. Some may have no pod.
func (x *Index) Classes() iter.Seq[*Class] { return maps.Values(x.classes.byKey) }

// ClassOf returns the class that the pod waits in, or would wait in.
func (x *Index) ClassOf(p *Pod) *Class {
	key := keyOf(p)
	if c := x.classes.byKey[key]; c != nil {
		return c
	}
	return newClass(key, p)
}

// watch keeps the topology of a class up to date from now on. Its search starts anew, because changes may have been missed.
func (x *Index) watch(c *Class) {
	if c.topology == nil {
		return
	}
	if _, watched := x.classes.watchers[c]; !watched {
		x.classes.watchers[c] = struct{}{}
		c.search = search{logRead: x.fleet.logged()}
	}
}

// notify makes a class search again if its pods may fit after a change. A class without pods is no longer watched; its topology
// is recounted when it is needed.
func (x *Index) notify(c *Class, mayFit bool) {
	switch {
	case c.Head() == nil:
		delete(x.classes.watchers, c)
	case mayFit:
		c.search = search{logRead: x.fleet.logged()}
		x.classes.changed[c.key] = struct{}{}
		x.classes.retry = append(x.classes.retry, c)
		x.retry = true
	}
}

// notifyAll makes all watched classes recount and search again.
func (x *Index) notifyAll() {
	x.version++
	for c := range x.classes.watchers {
		c.topology.version = outdated
		x.notify(c, true)
	}
}

// Begin starts a cycle. A class gets a turn if it has changed since the last cycle. All classes do if an agent has something new
// to offer.
func (x *Index) Begin() {
	q := &x.classes
	q.current = nil
	if q.logRead != x.fleet.logged() {
		x.allTurns()
		return
	}
	q.due = q.due[:0]
	for key := range q.changed {
		if c := q.byKey[key]; c != nil && c.Head() != nil {
			q.due = append(q.due, c)
		}
	}
	x.startTurns()
}

// allTurns makes all classes with pods due.
func (x *Index) allTurns() {
	q := &x.classes
	q.due = q.due[:0]
	for _, c := range q.byKey {
		if c.due = false; c.Head() != nil {
			q.due = append(q.due, c)
		}
	}
	x.startTurns()
}

func (x *Index) startTurns() {
	q := &x.classes
	q.logRead = x.fleet.logged()
	clear(q.changed)
	q.retry = q.retry[:0]
	for _, c := range q.due {
		c.due = true
	}
	heap.Init(&q.due)
}

// Next returns the class with the next pod in this cycle, or nil at the end of the cycle. It returns a class again until Skip is
// called or the class has no pods.
func (x *Index) Next() *Class {
	q := &x.classes
	if c := q.current; c != nil {
		if c.Head() == nil {
			heap.Pop(&q.due)
		} else {
			heap.Fix(&q.due, 0)
		}
	}
	if x.applyNewTerms() {
		x.allTurns()
	}
	q.addRetries()
	if q.current = nil; len(q.due) > 0 {
		q.current = q.due[0]
	}
	return q.current
}

// Skip ends the turn of the class that Next returned, because its pods fit nowhere. Placing a pod of another class may give it
// another turn.
func (x *Index) Skip() {
	heap.Pop(&x.classes.due)
	x.classes.current = nil
}

// addRetries makes the classes due that may fit again.
func (q *classes) addRetries() {
	for _, c := range q.retry {
		if !c.due && c.Head() != nil && q.byKey[c.key] == c {
			c.due = true
			heap.Push(&q.due, c)
		}
	}
	q.retry = q.retry[:0]
}

// Forget drops terms that no pod has, and classes without pods if there are many. The owner calls it now and then.
func (x *Index) Forget() {
	if len(x.classes.byKey) > idleClasses {
		for key, c := range x.classes.byKey {
			if c.Head() == nil {
				delete(x.classes.byKey, key)
			}
		}
	}
	x.forgetTerms()
}

// turns is a heap of classes by their first pod: the highest priority, then the earliest arrival.
type turns []*Class

func (t turns) Len() int      { return len(t) }
func (t turns) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t turns) Less(i, j int) bool {
	return Before(t[i].pods[0], t[j].pods[0]) < 0
}

// Push implements heap.Interface.
func (t *turns) Push(x any) { *t = append(*t, x.(*Class)) }

// Pop implements heap.Interface.
func (t *turns) Pop() any {
	last := len(*t) - 1
	c := (*t)[last]
	c.due = false
	*t = (*t)[:last]
	return c
}
