package match

import v1 "k8s.io/api/core/v1"

// topology is what a class knows of the pods around each node, by the domains of its constraints. It is counted anew when it is
// needed, or kept up to date while pods of the class wait.
type topology struct {
	*constraints
	version            int
	affinityCounts     counts        // pods that are all that the required affinity wants, by domain of each term
	antiAffinityCounts counts        // pods that the required anti-affinity is about
	preferenceScores   scores        // what the preferred terms add up to
	spread             []domains     // for the hard rules, then the soft ones
	spreadRules        []*spreadRule // these rules
	claimState         claimState
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

func newTopology(w *constraints) *topology {
	n := &topology{constraints: w, version: outdated, claimState: claimState{version: outdated}}
	for _, rules := range [][]spreadRule{w.hard, w.soft} {
		for i := range rules {
			n.spreadRules = append(n.spreadRules, &rules[i])
		}
	}
	return n
}

// refresh counts everything if something was missed.
func (n *topology) refresh() {
	if n.version == n.index.version {
		return
	}
	n.version = n.index.version
	n.affinityCounts, n.antiAffinityCounts, n.preferenceScores = counts{}, counts{}, scores{}
	n.spread = make([]domains, len(n.spreadRules))
	for i, r := range n.spreadRules {
		n.spread[i].pods = map[string]int{}
		for _, around := range n.index.nodes {
			if around.obj != nil && r.eligible(n.obj, around.obj) {
				n.spread[i].pods[around.obj.Labels[r.topologyKey]] += 0
			}
		}
	}
	for _, around := range n.index.nodes {
		if around.obj == nil {
			continue
		}
		for _, st := range around.pods {
			n.count(st, around.obj, 1)
		}
	}
}

// tell takes in one change of what stands by the function given, if nothing was missed before. It tells whether the
// class may fit where it did not.
func (n *topology) apply(change func() bool) (mayFit bool) {
	if n.version != n.index.version-1 {
		return true
	}
	n.version++
	return change()
}

// count counts a pod in or out that stands on the node.
func (n *topology) count(st *occupant, node *v1.Node, sign int) (mayFit bool) {
	if st == n.self {
		return false
	}
	space := n.index.terms.namespaceLabels(st.obj.Namespace)
	if n.matchesAll(st.obj) {
		for _, t := range n.affinityTerms {
			n.affinityCounts.add(t.topologyKey, node, sign)
		}
		mayFit = true
	}
	for _, t := range n.antiAffinityTerms {
		if t.matches(st.obj, space) {
			n.antiAffinityCounts.add(t.topologyKey, node, sign)
			mayFit = mayFit || sign < 0
		}
	}
	for _, t := range n.preferredTerms {
		if t.matches(st.obj, space) {
			n.preferenceScores.add(t.topologyKey, node, int64(sign)*t.weight)
			mayFit = true
		}
	}
	for _, t := range n.existingTerms {
		if containsTerm(st.terms, t) {
			mayFit = mayFit || sign < 0 || !t.antiAffinity
		}
	}
	for i, r := range n.spreadRules {
		if r.counts(n.obj, st.obj) && r.eligible(n.obj, node) {
			mayFit = n.spread[i].add(node.Labels[r.topologyKey], sign) || i >= len(n.hard) || mayFit
		}
	}
	return mayFit
}

func containsTerm(terms []*term, t *term) bool {
	for _, other := range terms {
		if other == t {
			return true
		}
	}
	return false
}

// check: do the pods around the node, and its place among the nodes, allow the class there?
func (n *topology) check(node *v1.Node) refusal {
	n.refresh()
	if len(n.claims) > 0 {
		if r := n.checkClaims(); !r.ok() {
			return r
		}
	}
	if r := n.checkAffinity(node); !r.ok() {
		return r
	}
	for _, t := range n.antiAffinityTerms {
		if value, found := node.Labels[t.topologyKey]; found && n.antiAffinityCounts[pair{t.topologyKey, value}] > 0 {
			return refusal{reason: antiAffinityUnmet, what: t.topologyKey}
		}
	}
	for _, t := range n.existingTerms {
		if value, found := node.Labels[t.topologyKey]; found && t.antiAffinity && t.holdersByDomain[value] > n.ownTerm(t, value) {
			return refusal{reason: existingAntiAffinity, what: t.topologyKey}
		}
	}
	for i := range n.hard {
		r := &n.hard[i]
		value, found := node.Labels[r.topologyKey]
		if !found {
			return refusal{reason: topologyMissing, what: r.topologyKey}
		}
		if n.spread[i].skew(r, value) > r.maxSkew {
			return refusal{reason: skewed, what: r.topologyKey}
		}
	}
	return n.checkVolumes(node)
}

// own is 1 if the pod itself is one of those that have the term and stand in the domain.
func (n *topology) ownTerm(t *term, domain string) int {
	st := n.self
	if st == nil || st.node == nil || st.node.obj == nil || !containsTerm(st.terms, t) || st.node.obj.Labels[t.topologyKey] != domain {
		return 0
	}
	return 1
}

// occupies tells whether the pod itself occupies the node already.
func (s *Class) occupies(n *Node) bool {
	return s.topology != nil && s.topology.self != nil && s.topology.self.node == n
}

// checkAffinity: are the pods near that the class has to be near to? The first pod of a group that wants to be together may
// go anywhere.
func (n *topology) checkAffinity(node *v1.Node) refusal {
	missing := ""
	for _, t := range n.affinityTerms {
		value, found := node.Labels[t.topologyKey]
		if !found {
			return refusal{reason: affinityUnmet, what: t.topologyKey}
		}
		if n.affinityCounts[pair{t.topologyKey, value}] == 0 {
			missing = t.topologyKey
		}
	}
	if missing == "" || n.matchesSelf && len(n.affinityCounts) == 0 {
		return refusal{}
	}
	return refusal{reason: affinityUnmet, what: missing}
}
