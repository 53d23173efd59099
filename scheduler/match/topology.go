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

func newTopology(cs *constraints) *topology {
	tp := &topology{constraints: cs, version: outdated, claimState: claimState{version: outdated}}
	for _, rules := range [][]spreadRule{cs.hard, cs.soft} {
		for i := range rules {
			tp.spreadRules = append(tp.spreadRules, &rules[i])
		}
	}
	return tp
}

// refresh recounts everything if it is out of date.
func (tp *topology) refresh() {
	if tp.version == tp.index.version {
		return
	}
	tp.version = tp.index.version
	tp.affinityCounts, tp.antiAffinityCounts, tp.preferenceScores = counts{}, counts{}, scores{}
	tp.spread = make([]domains, len(tp.spreadRules))
	for i, r := range tp.spreadRules {
		tp.spread[i].pods = map[string]int{}
		for _, node := range tp.index.nodes {
			if node.obj != nil && r.eligible(tp.obj, node.obj) {
				tp.spread[i].pods[node.obj.Labels[r.topologyKey]] += 0 // domains without pods count too
			}
		}
	}
	for _, node := range tp.index.nodes {
		if node.obj == nil {
			continue
		}
		for _, o := range node.pods {
			tp.count(o, node.obj, 1)
		}
	}
}

// apply applies one change of the pods on nodes, unless it has missed an earlier one: then refresh will recount. It tells whether
// the class may fit now where it did not before.
func (tp *topology) apply(change func() bool) (mayFit bool) {
	if tp.version != tp.index.version-1 {
		return true
	}
	tp.version++
	return change()
}

// count adds a pod on the node (sign 1) or subtracts it (-1). It tells whether the class may fit now where it did not before.
func (tp *topology) count(o *occupant, node *v1.Node, sign int) (mayFit bool) {
	if o == tp.self {
		return false
	}
	namespace := tp.index.terms.namespaceLabels(o.obj.Namespace)
	if tp.matchesAll(o.obj) {
		for _, t := range tp.affinityTerms {
			tp.affinityCounts.add(t.topologyKey, node, sign)
		}
		mayFit = true
	}
	for _, t := range tp.antiAffinityTerms {
		if t.matches(o.obj, namespace) {
			tp.antiAffinityCounts.add(t.topologyKey, node, sign)
			mayFit = mayFit || sign < 0
		}
	}
	for _, t := range tp.preferredTerms {
		if t.matches(o.obj, namespace) {
			tp.preferenceScores.add(t.topologyKey, node, int64(sign)*t.weight)
			mayFit = true
		}
	}
	for _, t := range tp.existingTerms {
		if containsTerm(o.terms, t) {
			mayFit = mayFit || sign < 0 || !t.antiAffinity
		}
	}
	for i, r := range tp.spreadRules {
		if r.counts(tp.obj, o.obj) && r.eligible(tp.obj, node) {
			mayFit = tp.spread[i].add(node.Labels[r.topologyKey], sign) || i >= len(tp.hard) || mayFit
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
func (tp *topology) check(node *v1.Node) refusal {
	tp.refresh()
	if len(tp.claims) > 0 {
		if r := tp.checkClaims(); !r.ok() {
			return r
		}
	}
	if r := tp.checkAffinity(node); !r.ok() {
		return r
	}
	for _, t := range tp.antiAffinityTerms {
		if value, found := node.Labels[t.topologyKey]; found && tp.antiAffinityCounts[pair{t.topologyKey, value}] > 0 {
			return refusal{reason: antiAffinityUnmet, what: t.topologyKey}
		}
	}
	for _, t := range tp.existingTerms {
		if value, found := node.Labels[t.topologyKey]; found && t.antiAffinity && t.holdersByDomain[value] > tp.ownTerm(t, value) {
			return refusal{reason: existingAntiAffinity, what: t.topologyKey}
		}
	}
	for i := range tp.hard {
		r := &tp.hard[i]
		value, found := node.Labels[r.topologyKey]
		if !found {
			return refusal{reason: topologyMissing, what: r.topologyKey}
		}
		if tp.spread[i].skew(r, value) > r.maxSkew {
			return refusal{reason: skewed, what: r.topologyKey}
		}
	}
	return tp.checkVolumes(node)
}

// ownTerm is 1 if the pod itself has the term and is on a node of the domain; else 0.
func (tp *topology) ownTerm(t *term, domain string) int {
	o := tp.self
	if o == nil || o.node == nil || o.node.obj == nil || !containsTerm(o.terms, t) || o.node.obj.Labels[t.topologyKey] != domain {
		return 0
	}
	return 1
}

// occupies tells whether the pod itself is on the node already.
func (c *Class) occupies(n *Node) bool {
	return c.topology != nil && c.topology.self != nil && c.topology.self.node == n
}

// checkAffinity checks the required pod affinity. The first pod of a group that has affinity to itself may go anywhere.
func (tp *topology) checkAffinity(node *v1.Node) refusal {
	missing := ""
	for _, t := range tp.affinityTerms {
		value, found := node.Labels[t.topologyKey]
		if !found {
			return refusal{reason: affinityUnmet, what: t.topologyKey}
		}
		if tp.affinityCounts[pair{t.topologyKey, value}] == 0 {
			missing = t.topologyKey
		}
	}
	if missing == "" || tp.matchesSelf && len(tp.affinityCounts) == 0 {
		return refusal{}
	}
	return refusal{reason: affinityUnmet, what: missing}
}
