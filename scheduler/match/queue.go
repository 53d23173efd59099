package match

import (
	"container/heap"
	"iter"
	"maps"
)

// idleClasses is how many classes without a pod are remembered, with what their search has learned.
const idleClasses = 256

// classes are those of the pods that wait for a place.
type classes struct {
	byKey    map[Key]*Class
	watchers map[*Class]struct{} // whose counts of the pods around them are kept up to date
	changed  map[Key]struct{}    // that got a pod since the last cycle
	logRead  int                 // of the log of the fleet, in the last cycle
	retry    []*Class            // that what happened to other pods gave another look
	due      turns               // that have their turn in this cycle
	current  *Class              // that has its turn now
}

func newClasses() classes {
	return classes{byKey: map[Key]*Class{}, watchers: map[*Class]struct{}{}, changed: map[Key]struct{}{}}
}

// Enqueue lets a pod wait for a place together with its equals. It does nothing for one that waits in its class already.
func (x *Index) Enqueue(p *Pod) {
	x.Reconsider(p)
	if p.class == nil || p.class.key != keyOf(p) {
		x.join(p)
	}
}

// Reconsider reads what the pod wants of others anew if that may have changed, and tells whether the pod is in its class.
func (x *Index) Reconsider(p *Pod) (settled bool) {
	if p.termGeneration != x.terms.generation {
		x.readConstraints(p)
	}
	return p.class != nil && p.class.key == keyOf(p)
}

// join puts the pod into its class.
func (x *Index) join(p *Pod) {
	key := keyOf(p)
	s := x.classes.byKey[key]
	if s == nil {
		s = newClass(key, p)
		x.classes.byKey[key] = s
	}
	p.class = s
	heap.Push(&s.pods, p)
	x.classes.changed[key] = struct{}{}
	x.watch(s)
}

// Dequeue takes the pod out of its class. If it had reserved a place, that becomes free, and the agent is returned.
func (x *Index) Dequeue(p *Pod) (reserved *Agent) {
	p.class = nil
	if reserved = p.reserved; reserved != nil {
		x.fleet.touch(reserved)
		p.reserved = nil
	}
	return reserved
}

// Classes goes through the classes in no order. Some may have no pod.
func (x *Index) Classes() iter.Seq[*Class] { return maps.Values(x.classes.byKey) }

// ClassOf returns the class that the pod waits in, or would.
func (x *Index) ClassOf(p *Pod) *Class {
	key := keyOf(p)
	if s := x.classes.byKey[key]; s != nil {
		return s
	}
	return newClass(key, p)
}

// watch keeps the counts of a class up to date from now on. What it has found out before may not be so any more.
func (x *Index) watch(s *Class) {
	if s.topology == nil {
		return
	}
	if _, watched := x.classes.watchers[s]; !watched {
		x.classes.watchers[s] = struct{}{}
		s.search = search{logRead: x.fleet.logged()}
	}
}

// tell has a class look again if what has changed may let its pods in somewhere. One that no pod has any more is told no longer;
// its counts are made anew when they are needed.
func (x *Index) notify(s *Class, mayFit bool) {
	switch {
	case s.Head() == nil:
		delete(x.classes.watchers, s)
	case mayFit:
		s.search = search{logRead: x.fleet.logged()}
		x.classes.changed[s.key] = struct{}{}
		x.classes.retry = append(x.classes.retry, s)
		x.retry = true
	}
}

// tellAll has all classes that heed other pods look again, after a change that their counts do not follow.
func (x *Index) notifyAll() {
	x.version++
	for s := range x.classes.watchers {
		s.topology.version = outdated
		x.notify(s, true)
	}
}

// Begin starts a cycle. The classes have their turn that may have got a chance since the last one: those that got a pod, or
// all if an agent has more to offer.
func (x *Index) Begin() {
	q := &x.classes
	q.current = nil
	if q.logRead != x.fleet.logged() {
		x.allTurns()
		return
	}
	q.due = q.due[:0]
	for key := range q.changed {
		if s := q.byKey[key]; s != nil && s.Head() != nil {
			q.due = append(q.due, s)
		}
	}
	x.startTurns()
}

// allTurns makes all classes due that have pods.
func (x *Index) allTurns() {
	q := &x.classes
	q.due = q.due[:0]
	for _, s := range q.byKey {
		if s.due = false; s.Head() != nil {
			q.due = append(q.due, s)
		}
	}
	x.startTurns()
}

func (x *Index) startTurns() {
	q := &x.classes
	q.logRead = x.fleet.logged()
	clear(q.changed)
	q.retry = q.retry[:0]
	for _, s := range q.due {
		s.due = true
	}
	heap.Init(&q.due)
}

// Next returns the class whose pod is next in this cycle, or nil when no pod fits any more. A class that was returned has its
// turn again, unless Skip or the last of its pods ended it.
func (x *Index) Next() *Class {
	q := &x.classes
	if s := q.current; s != nil {
		if s.Head() == nil {
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

// Skip ends the turn of the class that Next returned: none of its pods will fit unless another pod's coming lets them.
func (x *Index) Skip() {
	heap.Pop(&x.classes.due)
	x.classes.current = nil
}

// admit makes those classes due, too, that were roused meanwhile.
func (q *classes) addRetries() {
	for _, s := range q.retry {
		if !s.due && s.Head() != nil && q.byKey[s.key] == s {
			s.due = true
			heap.Push(&q.due, s)
		}
	}
	q.retry = q.retry[:0]
}

// Forget bounds what is remembered of classes and terms that no pod has. Its owner calls it now and then.
func (x *Index) Forget() {
	if len(x.classes.byKey) > idleClasses {
		for key, s := range x.classes.byKey {
			if s.Head() == nil {
				delete(x.classes.byKey, key)
			}
		}
	}
	x.forgetTerms()
}

// turns is a heap of classes by whose pod is next: the highest priority, then the first arrival.
type turns []*Class

func (t turns) Len() int      { return len(t) }
func (t turns) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t turns) Less(i, j int) bool {
	return Before(t[i].pods[0], t[j].pods[0]) < 0
}

// Push is for container/heap.
func (t *turns) Push(x any) { *t = append(*t, x.(*Class)) }

// Pop is for container/heap.
func (t *turns) Pop() any {
	last := len(*t) - 1
	s := (*t)[last]
	s.due = false
	*t = (*t)[:last]
	return s
}
