package scheduler

import (
	"maps"
	"math"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// standing is the index of the pods that take part of a node: bound pods, whoever bound them, static pods among them,
// and pods that a task was launched for or a place reserved. Pods that are over stand nowhere.
type standing struct {
	places     map[string]*place // by node
	strangers  map[types.UID]*stander
	namespaces map[string]*v1.Namespace
	terms      map[string]*term // of the pods that stand somewhere
	fresh      []*term          // that waiting pods have not been held against yet
	generation int              // of the set of terms and of the namespaces' labels
	version    int              // of all that stands
	watchers   map[*shape]struct{}
}

// place is a node with the pods that stand on it.
type place struct {
	name  string
	node  *v1.Node // nil while it does not exist
	pods  []*stander
	limit int // how many pods the node takes
	// extended is what the pods have of what the node has by itself.
	extended extended
	// held is what of the agent is left to the node's pods that have no task: Mesos does not know of them, and the kubelet
	// refuses what does not fit beside them.
	held  [numScalars]offers.Milli
	words string // the limit as text
	// admits is what the kubelet admits pods with, of which those that stand here have requested so much.
	admits    admission
	requested requests
	short     bool // a pod was refused for that
}

// stander is a pod as others see it that may not be, or would like to be, near it.
type stander struct {
	obj    *v1.Pod
	place  *place // nil if it stands nowhere
	slot   int    // in the place's pods
	terms  []*term
	claims []api.PodKey
	held   [numScalars]offers.Milli // of the place, by a pod without a task
	// extended is what it has of the place's, and requests what the kubelet counts; known is the object they were read from.
	extended extended
	requests requests
	known    *v1.Pod
}

func newStanding() standing {
	return standing{
		places: map[string]*place{}, strangers: map[types.UID]*stander{}, namespaces: map[string]*v1.Namespace{},
		terms: map[string]*term{}, watchers: map[*shape]struct{}{},
	}
}

// at returns the place of a node.
func (x *standing) at(node string) *place {
	pl := x.places[node]
	if pl == nil {
		pl = &place{name: node, limit: math.MaxInt}
		x.places[node] = pl
	}
	return pl
}

// full tells whether the node takes no more pods. A node that does not say how many it takes takes all.
func (pl *place) full() bool { return pl != nil && len(pl.pods) >= pl.limit }

// see takes in the node as it is now.
func (pl *place) see(node *v1.Node) {
	pl.node, pl.limit, pl.words, pl.admits = node, math.MaxInt, "", admission{}
	if node == nil {
		return
	}
	pl.admits = admissionOf(node)
	if pods, found := node.Status.Allocatable[v1.ResourcePods]; found {
		pl.limit = int(pods.Value())
		pl.words = strconv.Itoa(pl.limit)
	}
}

// standsOn names the node that the pod takes part of; "" if there is none.
func (c *Core) standsOn(p *pod) string {
	switch {
	case finished(p.obj):
		return ""
	case p.node != "":
		return p.node
	case p.task != nil:
		if a := c.agents[p.task.agent]; a != nil {
			return a.node
		}
		return ""
	case p.parked != nil:
		return p.parked.node
	}
	return p.pledge
}

// stand puts a pod into the index as it is now.
func (c *Core) stand(p *pod) { c.put(&p.standing, p.obj, c.standsOn(p)) }

// restand puts the pods with tasks on an agent into the index that has got its node's name.
func (c *Core) restand(a *agent) {
	for _, t := range c.owners[a.id] {
		if p := c.pods[t.pod]; p != nil && p.task == t {
			c.stand(p)
		}
	}
}

// strangerSeen puts a pod into the index that is not ours but takes part of a node, as static pods do.
func (c *Core) strangerSeen(obj *v1.Pod) {
	st := c.standing.strangers[obj.UID]
	if obj.Spec.NodeName == "" || finished(obj) {
		c.strangerGone(obj.UID)
		return
	}
	if st == nil {
		st = &stander{}
		c.standing.strangers[obj.UID] = st
	}
	c.release(st)
	c.put(st, obj, obj.Spec.NodeName)
	st.held = DemandOf(obj, 0, 0, nil).Scalars
	for i, amount := range st.held {
		st.place.held[i] += amount
	}
	c.roomChanged(st.place)
}

// release gives back what a pod without a task holds.
func (c *Core) release(st *stander) {
	if st.place == nil {
		return
	}
	for i, amount := range st.held {
		st.place.held[i] -= amount
	}
	st.held = [numScalars]offers.Milli{}
	c.roomChanged(st.place)
}

// roomChanged has the agent of the place looked at again.
func (c *Core) roomChanged(pl *place) {
	if pl.node == nil {
		return
	}
	if a := c.agentOfNode(pl.name); a != nil {
		c.fleet.touch(a)
		c.look = true
	}
}

func (c *Core) strangerGone(uid types.UID) {
	if st := c.standing.strangers[uid]; st != nil {
		c.release(st)
		c.put(st, st.obj, "")
		delete(c.standing.strangers, uid)
	}
}

// put makes the stander stand on the node, as the object says now.
func (c *Core) put(st *stander, obj *v1.Pod, node string) {
	var to *place
	if node != "" {
		to = c.standing.at(node)
	}
	if st.place == to && (to == nil || looksTheSame(st.obj, obj)) {
		resized := to != nil && st.obj.Generation != obj.Generation
		if st.obj = obj; resized {
			to.requested.add(st.requests, -1)
			st.requests, st.known = requestsOf(obj, c.scratch), obj
			to.requested.add(st.requests, 1)
		}
		return
	}
	from := st.place
	c.leave(st)
	st.obj = obj
	if to != nil {
		c.enter(st, to)
	}
	if from != nil && from.node == nil && len(from.pods) == 0 {
		delete(c.standing.places, from.name)
	}
}

// looksTheSame tells whether two states of a pod count the same for other pods.
func looksTheSame(a, b *v1.Pod) bool {
	return a == b || (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && maps.Equal(a.Labels, b.Labels)
}

func (c *Core) enter(st *stander, to *place) {
	x := &c.standing
	if st.terms == nil {
		st.terms, st.claims = termsOf(st.obj), claimsOf(st.obj)
	}
	for i, t := range st.terms {
		known := x.terms[t.key]
		if known == nil {
			known = t
			x.terms[t.key] = t
			x.fresh = append(x.fresh, t)
			x.generation++
		}
		known.holders++
		st.terms[i] = known
	}
	st.place, st.slot = to, len(to.pods)
	to.pods = append(to.pods, st)
	st.extended = extendedOf(st.obj)
	to.take(st.extended, 1)
	if st.known != st.obj {
		st.requests, st.known = requestsOf(st.obj, c.scratch), st.obj
	}
	to.requested.add(st.requests, 1)
	c.tally(st, to.node, 1)
	c.use(st, 1)
}

func (c *Core) leave(st *stander) {
	from := st.place
	if from == nil {
		return
	}
	if (from.full() || st.extended != nil || from.short) && from.node != nil { // somebody else may fit now
		if a := c.agentOfNode(from.node.Name); a != nil {
			c.fleet.touch(a)
			c.look = true
		}
	}
	last := len(from.pods) - 1
	from.pods[st.slot] = from.pods[last]
	from.pods[st.slot].slot = st.slot
	from.pods[last] = nil
	from.pods = from.pods[:last]
	from.take(st.extended, -1)
	from.requested.add(st.requests, -1)
	from.short = false
	st.place = nil
	for _, t := range st.terms {
		t.holders--
	}
	c.tally(st, from.node, -1)
	c.use(st, -1)
}

// tally counts a pod in (sign 1) or out (-1) for all shapes to which it may matter.
func (c *Core) tally(st *stander, node *v1.Node, sign int) {
	x := &c.standing
	x.version++
	if node != nil {
		for _, t := range st.terms {
			if domain, found := node.Labels[t.topology]; found {
				t.near[domain] += sign
			}
		}
	}
	for s := range x.watchers {
		c.told(s, s.near.tell(func() bool { return node != nil && s.near.count(st, node, sign) }))
	}
}

// told sends a shape back into its turn if what has changed may let its pods in somewhere. One that no pod has any more
// is told no longer; its counts are made anew when they are needed.
func (c *Core) told(s *shape, loosened bool) {
	switch {
	case s.head() == nil:
		delete(c.standing.watchers, s)
	case loosened:
		c.rouse(s)
	}
}

// rouse gives the pods of a shape another look at all agents.
func (c *Core) rouse(s *shape) {
	s.search = search{read: c.fleet.changes()}
	c.queue.fresh[s.key] = struct{}{}
	c.queue.roused = append(c.queue.roused, s)
	c.look = true
}

// watch keeps the counts of a shape up to date from now on. What it has found out before may not be so any more.
func (c *Core) watch(s *shape) {
	if s.near == nil {
		return
	}
	if _, watched := c.standing.watchers[s]; !watched {
		c.standing.watchers[s] = struct{}{}
		s.search = search{read: c.fleet.changes()}
	}
}

// placeSeen takes in a node that is new, changed or, if nil, gone.
func (c *Core) placeSeen(name string, node *v1.Node) {
	x := &c.standing
	pl := x.at(name)
	before := pl.node
	if before != nil && node != nil && maps.Equal(before.Labels, node.Labels) &&
		slices.EqualFunc(before.Spec.Taints, node.Spec.Taints, sameTaint) {
		pl.see(node)
		return
	}
	c.countPlace(pl, -1)
	pl.see(node)
	c.countPlace(pl, 1)
	x.version++
	for s := range x.watchers {
		s.near.version = stale
		c.told(s, true)
	}
	if node == nil && len(pl.pods) == 0 {
		delete(x.places, name)
	}
}

func sameTaint(a, b v1.Taint) bool {
	return a.Key == b.Key && a.Value == b.Value && a.Effect == b.Effect
}

// countPlace counts the terms of the pods of a place in or out of the domains of its node.
func (c *Core) countPlace(pl *place, sign int) {
	if pl.node == nil {
		return
	}
	for _, st := range pl.pods {
		for _, t := range st.terms {
			if domain, found := pl.node.Labels[t.topology]; found {
				t.near[domain] += sign
			}
		}
	}
}

// namespaceSeen takes in a namespace, or if obj is nil its end: terms may choose namespaces by their labels.
func (c *Core) namespaceSeen(name string, obj *v1.Namespace) {
	x := &c.standing
	before := x.namespaces[name]
	if before != nil && obj != nil && maps.Equal(before.Labels, obj.Labels) {
		return
	}
	if x.namespaces[name] = obj; obj == nil {
		delete(x.namespaces, name)
	}
	x.generation++
	x.version++
	for s := range x.watchers {
		s.near.version = stale
		c.told(s, true)
	}
	for _, s := range c.queue.shapes {
		if s.near != nil || len(x.terms) > 0 {
			c.rewish(s, func(p *pod) bool { return p.obj.Namespace == name })
		}
	}
}

// labelsOf returns the labels of a namespace.
func (x *standing) labelsOf(namespace string) map[string]string {
	if obj := x.namespaces[namespace]; obj != nil {
		return obj.Labels
	}
	return nil
}
