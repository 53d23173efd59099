package match

import (
	"cmp"
	"math"

	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// shunned is what each PreferNoSchedule taint that a pod does not tolerate adds to the rank of an agent: more than
// any algorithm does.
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
		return nil // a preference that nobody understands is none
	}
	return terms
}

// shuns counts the discouraging taints of the view that the class does not tolerate.
func (v *View) intolerableTaints(s *Class) int64 {
	n := int64(0)
	for i := range v.preferNoSchedule {
		if !corev1helpers.TolerationsTolerateTaint(klog.Logger{}, s.obj.Spec.Tolerations, &v.preferNoSchedule[i], false) {
			n++
		}
	}
	return n
}

// choosy tells whether the class likes some of the nodes that it fits on better than others.
func (s *Class) hasPreferences() bool {
	if s.topology == nil {
		return false
	}
	n := s.topology
	if len(n.preferredTerms) > 0 || len(n.soft) > 0 || n.nodeScorer != nil {
		return true
	}
	for _, t := range n.existingTerms {
		if t.weight != 0 {
			return true
		}
	}
	return false
}

// scored is how well a view suits a class, first in the units of each kind of preference. These are whole numbers because
// they are in kube-scheduler: what differs by less than one is alike there.
type scored struct {
	view                        *View
	rank                        int64 // by the algorithm
	nodes, taints, pods, spread int64
	lacksLabel                  bool // it lacks a label that the soft spread is about
}

// findPreferred returns the view that the class fits on and likes best.
func (x *Index) findPreferred(s *Class) *View {
	all := x.scored[:0]
	if s.only != nil {
		for _, name := range s.only {
			if a := x.AgentOfNode(name); a != nil {
				all = x.score(all, s, a)
			}
		}
	} else {
		x.addCandidates(s)
		fitting := s.search.found[:0]
		for _, candidate := range s.search.found {
			before := len(all)
			if all = x.score(all, s, candidate.agent); len(all) > before {
				fitting = append(fitting, candidate)
			}
		}
		s.search.found = fitting
	}
	x.scored = all
	s.topology.scoreSpread(all)
	return bestScored(all)
}

// readOn makes candidates of all agents that may fit; it looks only at those that it has not seen as they are now.
func (x *Index) addCandidates(s *Class) {
	f, r := &x.fleet, &s.search
	if r.logRead < f.base || len(r.found) > 2*len(f.agents)+1024 {
		*r = search{logRead: f.logged()}
	}
	for _, a := range f.log[r.logRead-f.base:] {
		if a.order < r.nextAgent { // it may be there twice then, until the search starts anew
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

// score adds the agent if the class fits there.
func (x *Index) score(all []scored, s *Class, a *Agent) []scored {
	v := s.choose(a.views)
	if v == nil {
		return all
	}
	l := scored{view: v, rank: x.cfg.Algorithm.rank(v, &s.demand), taints: v.intolerableTaints(s)}
	s.topology.score(&l, v.obj)
	return append(all, l)
}

// score fills in what the class thinks of the node.
func (n *topology) score(l *scored, node *v1.Node) {
	if n.nodeScorer != nil {
		l.nodes = n.nodeScorer.Score(node)
	}
	for key, domains := range n.preferenceScores {
		if value, found := node.Labels[key]; found {
			l.pods += domains[value]
		}
	}
	for _, t := range n.existingTerms {
		if value, found := node.Labels[t.topologyKey]; found {
			l.pods += t.weight * int64(t.holdersByDomain[value]-n.ownTerm(t, value))
		}
	}
	for i := range n.soft {
		if _, found := node.Labels[n.soft[i].topologyKey]; !found {
			l.lacksLabel = true
		}
	}
}

// scoreSpread fills in how many pods stand around each view that the soft spread is about. The more domains of a rule the
// views are in, the more each of them counts.
func (n *topology) scoreSpread(all []scored) {
	if len(n.soft) == 0 {
		return
	}
	weights := make([]float64, len(n.soft))
	for i := range n.soft {
		weights[i] = math.Log(float64(domainsIn(all, n.soft[i].topologyKey) + 2))
	}
	for i := range all {
		l, sum := &all[i], 0.0
		if l.lacksLabel {
			continue
		}
		for j := range n.soft {
			r, d := &n.soft[j], &n.spread[len(n.hard)+j]
			sum += float64(d.pods[l.view.obj.Labels[r.topologyKey]])*weights[j] + float64(r.maxSkew-1)
		}
		l.spread = int64(math.Round(sum))
	}
}

// domainsIn counts the domains that the views are in.
func domainsIn(all []scored, topology string) int {
	domains := map[string]struct{}{}
	for i := range all {
		if l := &all[i]; !l.lacksLabel {
			domains[l.view.obj.Labels[topology]] = struct{}{}
		}
	}
	return len(domains)
}

// bestScored brings the kinds of preferences to one scale, from 0 to 100 over the views that fit, and adds them up by
// their weights.
func bestScored(all []scored) *View {
	most, least := scored{pods: math.MinInt64}, scored{pods: math.MaxInt64, spread: math.MaxInt64}
	for i := range all {
		l := &all[i]
		most.nodes, most.taints = max(most.nodes, l.nodes), max(most.taints, l.taints)
		most.pods, least.pods = max(most.pods, l.pods), min(least.pods, l.pods)
		if !l.lacksLabel {
			most.spread, least.spread = max(most.spread, l.spread), min(least.spread, l.spread)
		}
	}
	var best *scored
	bestScore := int64(0)
	for i := range all {
		l := &all[i]
		score := nodesWeight*share(l.nodes, most.nodes) - taintsWeight*share(l.taints, most.taints)
		if most.pods > least.pods { // computed as kube-scheduler does: the last digit may differ otherwise
			score += podsWeight * int64(100*(float64(l.pods-least.pods)/float64(most.pods-least.pods)))
		}
		switch {
		case l.lacksLabel:
		case most.spread == 0: // none of its like is anywhere
			score += spreadWeight * 100
		default:
			score += spreadWeight * share(most.spread+least.spread-l.spread, most.spread)
		}
		if best == nil || score > bestScore || score == bestScore && l.before(best) {
			best, bestScore = l, score
		}
	}
	if best == nil {
		return nil
	}
	return best.view
}

// share is the part of the most, in hundredths, rounded down; 0 if there is none.
func share(part, most int64) int64 {
	if most == 0 {
		return 0
	}
	return 100 * part / most
}

// before orders equally liked views as the algorithm does.
func (l *scored) before(other *scored) bool {
	return cmp.Or(cmp.Compare(l.rank, other.rank), cmp.Compare(l.view.Agent.order, other.view.Agent.order)) < 0
}
