package match

import (
	"cmp"
	"math"

	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// preferNoSchedulePenalty is added to the rank of an agent for each PreferNoSchedule taint that the pod does not tolerate. It
// exceeds every rank of an algorithm.
const preferNoSchedulePenalty = 1 << 40

// The weights of the kinds of preferences, as in kube-scheduler
// (https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins).
const (
	nodesWeight  = 2
	taintsWeight = 3
	podsWeight   = 2
	spreadWeight = 2
)

// nodeScorer scores a node by preferred node affinity.
type nodeScorer interface {
	Score(node *v1.Node) int64
}

func newNodeScorer(pod *v1.Pod) nodeScorer {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // ignore an invalid preference
	}
	return terms
}

// intolerableTaints counts the PreferNoSchedule taints that the class does not tolerate.
func (v *View) intolerableTaints(c *Class) int64 {
	n := int64(0)
	for i := range v.preferNoSchedule {
		if !corev1helpers.TolerationsTolerateTaint(klog.Logger{}, c.obj.Spec.Tolerations, &v.preferNoSchedule[i], false) {
			n++
		}
	}
	return n
}

// hasPreferences tells whether the class prefers some of the nodes that it fits on to others.
func (c *Class) hasPreferences() bool {
	if c.topology == nil {
		return false
	}
	tp := c.topology
	if len(tp.preferredTerms) > 0 || len(tp.soft) > 0 || tp.nodeScorer != nil {
		return true
	}
	for _, t := range tp.existingTerms {
		if t.weight != 0 {
			return true
		}
	}
	return false
}

// scored is a view with its raw score for each kind of preference. The scores are integers as in kube-scheduler, where scores
// that differ by less than one are equal.
type scored struct {
	view                        *View
	rank                        int64 // by the algorithm
	nodes, taints, pods, spread int64
	lacksLabel                  bool // the node lacks the topology key of a soft spread rule
}

// findPreferred returns the view with the best score among those that the class fits in.
func (x *Index) findPreferred(c *Class) *View {
	all := x.scored[:0]
	if c.only != nil {
		for _, name := range c.only {
			if a := x.AgentOfNode(name); a != nil {
				all = x.score(all, c, a)
			}
		}
	} else {
		x.addCandidates(c)
		fitting := c.search.found[:0]
		for _, candidate := range c.search.found {
			before := len(all)
			if all = x.score(all, c, candidate.agent); len(all) > before {
				fitting = append(fitting, candidate)
			}
		}
		c.search.found = fitting
	}
	x.scored = all
	c.topology.scoreSpread(all)
	return bestScored(all)
}

// addCandidates adds the agents that are new or have changed to the candidates.
func (x *Index) addCandidates(c *Class) {
	f, r := &x.fleet, &c.search
	if r.logRead < f.base || len(r.found) > 2*len(f.agents)+1024 {
		*r = search{logRead: f.logged()}
	}
	for _, a := range f.log[r.logRead-f.base:] {
		if a.order < r.nextAgent { // may add it twice; then findPreferred scores it twice
			r.found = append(r.found, candidate{agent: a})
		}
	}
	r.logRead = f.logged()
	for ; r.nextAgent < len(f.agents); r.nextAgent++ {
		if a := f.agents[r.nextAgent]; a != nil {
			r.found = append(r.found, candidate{agent: a})
		}
	}
}

// score appends the agent's view if the class fits there.
func (x *Index) score(all []scored, c *Class, a *Agent) []scored {
	v := c.choose(a.views)
	if v == nil {
		return all
	}
	s := scored{view: v, rank: x.cfg.Algorithm.rank(v, &c.demand), taints: v.intolerableTaints(c)}
	c.topology.score(&s, v.obj)
	return append(all, s)
}

// score sets the scores for preferred node affinity and pod affinity.
func (tp *topology) score(s *scored, node *v1.Node) {
	if tp.nodeScorer != nil {
		s.nodes = tp.nodeScorer.Score(node)
	}
	for key, domains := range tp.preferenceScores {
		if value, found := node.Labels[key]; found {
			s.pods += domains[value]
		}
	}
	for _, t := range tp.existingTerms {
		if value, found := node.Labels[t.topologyKey]; found {
			s.pods += t.weight * int64(t.holdersByDomain[value]-tp.ownTerm(t, value))
		}
	}
	for i := range tp.soft {
		if _, found := node.Labels[tp.soft[i].topologyKey]; !found {
			s.lacksLabel = true
		}
	}
}

// scoreSpread sets the scores for the soft spread rules: the numbers of pods in the view's domains. A rule weighs more, the
// more domains the views are in.
func (tp *topology) scoreSpread(all []scored) {
	if len(tp.soft) == 0 {
		return
	}
	weights := make([]float64, len(tp.soft))
	for i := range tp.soft {
		weights[i] = math.Log(float64(domainsIn(all, tp.soft[i].topologyKey) + 2))
	}
	for i := range all {
		s, sum := &all[i], 0.0
		if s.lacksLabel {
			continue
		}
		for j := range tp.soft {
			r, d := &tp.soft[j], &tp.spread[len(tp.hard)+j]
			sum += float64(d.pods[s.view.obj.Labels[r.topologyKey]])*weights[j] + float64(r.maxSkew-1)
		}
		s.spread = int64(math.Round(sum))
	}
}

// domainsIn counts the domains that the views are in.
func domainsIn(all []scored, topology string) int {
	domains := map[string]struct{}{}
	for i := range all {
		if s := &all[i]; !s.lacksLabel {
			domains[s.view.obj.Labels[topology]] = struct{}{}
		}
	}
	return len(domains)
}

// bestScored normalizes each kind of score to 0 to 100 over the views that fit, and returns the view with the highest weighted
// sum.
func bestScored(all []scored) *View {
	most, least := scored{pods: math.MinInt64}, scored{pods: math.MaxInt64, spread: math.MaxInt64}
	for i := range all {
		s := &all[i]
		most.nodes, most.taints = max(most.nodes, s.nodes), max(most.taints, s.taints)
		most.pods, least.pods = max(most.pods, s.pods), min(least.pods, s.pods)
		if !s.lacksLabel {
			most.spread, least.spread = max(most.spread, s.spread), min(least.spread, s.spread)
		}
	}
	var best *scored
	bestScore := int64(0)
	for i := range all {
		s := &all[i]
		score := nodesWeight*share(s.nodes, most.nodes) - taintsWeight*share(s.taints, most.taints)
		if most.pods > least.pods { // rounded as in kube-scheduler
			score += podsWeight * int64(100*(float64(s.pods-least.pods)/float64(most.pods-least.pods)))
		}
		switch {
		case s.lacksLabel:
		case most.spread == 0: // no node has such a pod
			score += spreadWeight * 100
		default:
			score += spreadWeight * share(most.spread+least.spread-s.spread, most.spread)
		}
		if best == nil || score > bestScore || score == bestScore && s.before(best) {
			best, bestScore = s, score
		}
	}
	if best == nil {
		return nil
	}
	return best.view
}

// share returns part as a percentage of most, rounded down; 0 if most is 0.
func share(part, most int64) int64 {
	if most == 0 {
		return 0
	}
	return 100 * part / most
}

// before orders views with equal scores by rank, then by arrival.
func (s *scored) before(other *scored) bool {
	return cmp.Or(cmp.Compare(s.rank, other.rank), cmp.Compare(s.view.Agent.order, other.view.Agent.order)) < 0
}
