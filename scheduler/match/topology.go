package match

import v1 "k8s.io/api/core/v1"

// topology counts, for the constraints of a class, the pods in each topology domain. It is kept up to date while pods of the
// class wait, or else recounted when it is needed.
type topology struct {
	*constraints
	version            int
	affinityCounts     counts        // pods that match all required affinity terms, by each term's domain
	antiAffinityCounts counts        // pods that match a required anti-affinity term
	preferenceScores   scores        // for the pods that match preferred terms
	spreadRules        []*spreadRule // the hard rules, then the soft ones
	spread             []domains     // one for each of spreadRules
	claimState         claimState
}

// pair is a topology domain: the nodes with this label and value.
type pair struct{ key, value string }

// counts are numbers of pods by domain. Zeros are not stored.
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

// scores are sums of the weights of preferred terms, by topology key and value.
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

// refresh recounts everything if it is out of date.
func (n *topology) refresh() {
	if n.version == n.index.version {
		return
	}
	n.version = n.index.version
	n.affinityCounts, n.antiAffinityCounts, n.preferenceScores = counts{}, counts{}, scores{}
	n.spread = make([]domains, len(n.spreadRules))
	for i, r := range n.spreadRules {
		n.spread[i].pods = map[string]int{}
		for _, node := range n.index.nodes {
			if node.obj != nil && r.eligible(n.obj, node.obj) {
				n.spread[i].pods[node.obj.Labels[r.topologyKey]] += 0 // domains without pods count too
			}
		}
	}
	for _, node := range n.index.nodes {
		if node.obj == nil {
			continue
		}
		for _, o := range node.pods {
			n.count(o, node.obj, 1)
		}
	}
}

// apply applies one change of the pods on nodes, unless it has missed an earlier one: then refresh will recount. It tells whether
// the class may fit now where it did not before.
func (n *topology) apply(change func() bool) (mayFit bool) {
	if n.version != n.index.version-1 {
		return true
	}
	n.version++
	return change()
}

// count adds a pod on the node (sign 1) or subtracts it (-1). It tells whether the class may fit now where it did not before.
func (n *topology) count(o *occupant, node *v1.Node, sign int) (mayFit bool) {
	if o == n.self {
		return false
	}
	namespace := n.index.terms.namespaceLabels(o.obj.Namespace)
	if n.matchesAll(o.obj) {
		for _, t := range n.affinityTerms {
			n.affinityCounts.add(t.topologyKey, node, sign)
		}
		mayFit = true
	}
	for _, t := range n.antiAffinityTerms {
		if t.matches(o.obj, namespace) {
			n.antiAffinityCounts.add(t.topologyKey, node, sign)
			mayFit = mayFit || sign < 0
		}
	}
	for _, t := range n.preferredTerms {
		if t.matches(o.obj, namespace) {
			n.preferenceScores.add(t.topologyKey, node, int64(sign)*t.weight)
			mayFit = true
		}
	}
	for _, t := range n.existingTerms {
		if containsTerm(o.terms, t) {
			mayFit = mayFit || sign < 0 || !t.antiAffinity
		}
	}
	for i, r := range n.spreadRules {
		if r.counts(n.obj, o.obj) && r.eligible(n.obj, node) {
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

// check checks claims, pod affinity and anti-affinity, topology spread, and volumes.
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

// ownTerm is 1 if the pod itself has the term and is on a node of the domain; else 0.
func (n *topology) ownTerm(t *term, domain string) int {
	o := n.self
	if o == nil || o.node == nil || o.node.obj == nil || !containsTerm(o.terms, t) || o.node.obj.Labels[t.topologyKey] != domain {
		return 0
	}
	return 1
}

// occupies tells whether the pod itself is on the node already.
func (s *Class) occupies(n *Node) bool {
	return s.topology != nil && s.topology.self != nil && s.topology.self.node == n
}

// checkAffinity checks the required pod affinity. The first pod of a group that has affinity to itself may go anywhere.
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
