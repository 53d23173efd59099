package scheduler

import v1 "k8s.io/api/core/v1"

// stale is no version of what stands.
const stale = -1

// near is what a shape with wishes knows of the pods around each node. It is counted anew when it is needed, or kept up to
// date while pods of the shape wait.
type near struct {
	*wishes
	version int
	group   counts        // pods that are all that the required affinity wants, by domain of each term
	avoided counts        // pods that the required anti-affinity is about
	liked   scores        // what the preferred terms add up to
	spread  []domains     // for the hard rules, then the soft ones
	ruled   []*spreadRule // these rules
	stored  stored
}

// pair is a domain: the nodes on which a label has this value.
type pair struct{ key, value string }

// counts are of pods by domain; there is no entry where there is none.
type counts map[pair]int

func (c counts) add(key string, node *v1.Node, n int) {
	value, found := node.Labels[key]
	if !found {
		return
	}
	domain := pair{key, value}
	if c[domain] += n; c[domain] == 0 {
		delete(c, domain)
	}
}

// scores are what preferred terms add up to, by topology key and domain.
type scores map[string]map[string]int64

func (s scores) add(key string, node *v1.Node, n int64) {
	value, found := node.Labels[key]
	if !found {
		return
	}
	if s[key] == nil {
		s[key] = map[string]int64{}
	}
	s[key][value] += n
}

func newNear(w *wishes) *near {
	n := &near{wishes: w, version: stale, stored: stored{version: stale}}
	for _, rules := range [][]spreadRule{w.hard, w.soft} {
		for i := range rules {
			n.ruled = append(n.ruled, &rules[i])
		}
	}
	return n
}

// refresh counts everything if something was missed.
func (n *near) refresh() {
	if n.version == n.index.version {
		return
	}
	n.version = n.index.version
	n.group, n.avoided, n.liked = counts{}, counts{}, scores{}
	n.spread = make([]domains, len(n.ruled))
	for i, r := range n.ruled {
		n.spread[i].pods = map[string]int{}
		for _, pl := range n.index.places {
			if pl.node != nil && r.eligible(n.obj, pl.node) {
				n.spread[i].pods[pl.node.Labels[r.topology]] += 0
			}
		}
	}
	for _, pl := range n.index.places {
		if pl.node == nil {
			continue
		}
		for _, st := range pl.pods {
			n.count(st, pl.node, 1)
		}
	}
}

// tell takes in one change of what stands by the function given, if nothing was missed before. It tells whether the
// shape may fit where it did not.
func (n *near) tell(change func() bool) (loosened bool) {
	if n.version != n.index.version-1 {
		return true
	}
	n.version++
	return change()
}

// count counts a pod in or out that stands on the node.
func (n *near) count(st *stander, node *v1.Node, sign int) (loosened bool) {
	if st == n.self {
		return false
	}
	space := n.index.labelsOf(st.obj.Namespace)
	if n.matchesAll(st.obj) {
		for _, t := range n.toward {
			n.group.add(t.topology, node, sign)
		}
		loosened = true
	}
	for _, t := range n.apart {
		if t.matches(st.obj, space) {
			n.avoided.add(t.topology, node, sign)
			loosened = loosened || sign < 0
		}
	}
	for _, t := range n.prefers {
		if t.matches(st.obj, space) {
			n.liked.add(t.topology, node, int64(sign)*t.weight)
			loosened = true
		}
	}
	for _, t := range n.met {
		if containsTerm(st.terms, t) {
			loosened = loosened || sign < 0 || !t.repels
		}
	}
	for i, r := range n.ruled {
		if r.counts(n.obj, st.obj) && r.eligible(n.obj, node) {
			loosened = n.spread[i].add(node.Labels[r.topology], sign) || i >= len(n.hard) || loosened
		}
	}
	return loosened
}

func containsTerm(terms []*term, t *term) bool {
	for _, other := range terms {
		if other == t {
			return true
		}
	}
	return false
}

// check: do the pods around the node, and its place among the nodes, allow the shape there?
func (n *near) check(node *v1.Node) refused {
	n.refresh()
	if len(n.claims) > 0 {
		if r := n.checkClaims(); !r.ok() {
			return r
		}
	}
	if r := n.checkAffinity(node); !r.ok() {
		return r
	}
	for _, t := range n.apart {
		if value, found := node.Labels[t.topology]; found && n.avoided[pair{t.topology, value}] > 0 {
			return refused{reason: podsAvoided, what: t.topology}
		}
	}
	for _, t := range n.met {
		if value, found := node.Labels[t.topology]; found && t.repels && t.near[value] > n.own(t, value) {
			return refused{reason: podsRepel, what: t.topology}
		}
	}
	for i := range n.hard {
		r := &n.hard[i]
		value, found := node.Labels[r.topology]
		if !found {
			return refused{reason: topologyMissing, what: r.topology}
		}
		if n.spread[i].skew(r, value) > r.maxSkew {
			return refused{reason: skewed, what: r.topology}
		}
	}
	return n.checkVolumes(node)
}

// own is 1 if the pod itself is one of those that have the term and stand in the domain.
func (n *near) own(t *term, domain string) int {
	st := n.self
	if st == nil || st.place == nil || st.place.node == nil || !containsTerm(st.terms, t) || st.place.node.Labels[t.topology] != domain {
		return 0
	}
	return 1
}

// stands tells whether the pod itself stands at the place.
func (s *shape) stands(pl *place) bool {
	return s.near != nil && s.near.self != nil && s.near.self.place == pl
}

// checkAffinity: are the pods near that the shape has to be near to? The first pod of a group that wants to be together may
// go anywhere.
func (n *near) checkAffinity(node *v1.Node) refused {
	missing := ""
	for _, t := range n.toward {
		value, found := node.Labels[t.topology]
		if !found {
			return refused{reason: topologyMissing, what: t.topology}
		}
		if n.group[pair{t.topology, value}] == 0 {
			missing = t.topology
		}
	}
	if missing == "" || n.first && len(n.group) == 0 {
		return refused{}
	}
	return refused{reason: podsMissing, what: missing}
}
