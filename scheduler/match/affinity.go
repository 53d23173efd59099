package match

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/k8sm/k8sm/api"
)

// term is a term of inter-pod affinity or anti-affinity, ready to be held against pods
// (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity).
// The API server has merged its matchLabelKeys into its label selector.
type term struct {
	key               string // equal terms have equal keys
	topologyKey       string // the node label whose values are the domains
	namespaces        []string
	namespaceSelector labels.Selector // or the namespaces with such labels
	podSelector       labels.Selector
	antiAffinity      bool  // it is required anti-affinity: a pod that matches may not be near a pod that has it
	weight            int64 // what each pod that has it adds to the score of a node for a pod that matches it

	// For the terms of the pods that occupy nodes:
	holders         int
	holdersByDomain map[string]int // how many of these are in each domain
}

// hardWeight is what required affinity of a pod that occupies a node counts for pods that match it, as in
// kube-scheduler (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-InterPodAffinityArgs).
const hardWeight = 1

func newTerm(pod *v1.Pod, t *v1.PodAffinityTerm, repels bool, weight int64) *term {
	made := &term{
		topologyKey: t.TopologyKey, namespaces: t.Namespaces, namespaceSelector: selectorOf(t.NamespaceSelector),
		podSelector: selectorOf(t.LabelSelector), antiAffinity: repels, weight: weight, holdersByDomain: map[string]int{},
	}
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		made.namespaces = []string{pod.Namespace}
	}
	made.key = fmt.Sprintf("%t %d %s %q %s %s",
		repels, weight, t.TopologyKey, made.namespaces, selectorText(t.NamespaceSelector), selectorText(t.LabelSelector))
	return made
}

// selectorOf parses a selector of the API; it has been validated there.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// selectorText tells selectors apart; an absent one matches nothing, an empty one everything.
func selectorText(s *metav1.LabelSelector) string {
	if s == nil {
		return "none"
	}
	return "{" + selectorOf(s).String() + "}"
}

// matches tells whether the term is about the pod, whose namespace has these labels.
func (t *term) matches(pod *v1.Pod, namespace map[string]string) bool {
	return (slices.Contains(t.namespaces, pod.Namespace) || t.namespaceSelector.Matches(labels.Set(namespace))) &&
		t.podSelector.Matches(labels.Set(pod.Labels))
}

func newTerms(pod *v1.Pod, list []v1.PodAffinityTerm, repels bool, weight int64) []*term {
	var terms []*term
	for i := range list {
		terms = append(terms, newTerm(pod, &list[i], repels, weight))
	}
	return terms
}

// preferredTerms returns the preferred terms of a pod; those of anti-affinity have negative weights.
func preferredTerms(pod *v1.Pod) []*term {
	var terms []*term
	add := func(list []v1.WeightedPodAffinityTerm, sign int64) {
		for i := range list {
			terms = append(terms, newTerm(pod, &list[i].PodAffinityTerm, false, sign*int64(list[i].Weight)))
		}
	}
	if a := podAffinity(pod); a != nil {
		add(a.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a := podAntiAffinity(pod); a != nil {
		add(a.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return terms
}

// termsOf returns what a pod that occupies a node means to the pods that are still to be placed: it repels some, and
// attracts others or would rather be apart from them.
func termsOf(pod *v1.Pod) []*term {
	var terms []*term
	if a := podAntiAffinity(pod); a != nil {
		terms = append(terms, newTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution, true, 0)...)
	}
	if a := podAffinity(pod); a != nil {
		terms = append(terms, newTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution, false, hardWeight)...)
	}
	return append(terms, preferredTerms(pod)...)
}

func podAffinity(pod *v1.Pod) *v1.PodAffinity {
	if pod.Spec.Affinity == nil {
		return nil
	}
	return pod.Spec.Affinity.PodAffinity
}

func podAntiAffinity(pod *v1.Pod) *v1.PodAntiAffinity {
	if pod.Spec.Affinity == nil {
		return nil
	}
	return pod.Spec.Affinity.PodAntiAffinity
}

// constraints are what a pod wants of the pods and volumes around it, and what the pods that occupy nodes want of it.
type constraints struct {
	index             *Index
	self              *occupant // the pod, if it occupies a node already, which its claims are being bound for
	obj               *v1.Pod
	key               string  // pods of equal keys have equal constraints
	affinityTerms     []*term // required affinity
	matchesSelf       bool    // it matches its own affinity: it may be the first of its group
	antiAffinityTerms []*term // required anti-affinity
	preferredTerms    []*term
	existingTerms     []*term // terms of pods that occupy nodes which it matches
	hard              []spreadRule
	soft              []spreadRule
	nodeScorer        nodeScorer // nil if it prefers no nodes
	claims            []api.PodKey
}

// read finds out what the pod wants of the pods and volumes around it. A plain pod that no other one cares about wants nothing.
func (x *Index) readConstraints(p *Pod) {
	p.termGeneration, p.constraints = x.terms.generation, nil
	if p.Node != "" {
		return // it is where it is
	}
	met, claims := x.terms.matching(p.Obj), ClaimsOf(p.Obj)
	if len(met) == 0 && len(claims) == 0 && !hasConstraints(p.Obj) {
		return
	}
	w := &constraints{index: x, obj: p.Obj, existingTerms: met, claims: claims}
	if p.ClaimsNode != "" {
		w.self = &p.occupant
	}
	if a := podAffinity(p.Obj); a != nil {
		w.affinityTerms = newTerms(p.Obj, a.RequiredDuringSchedulingIgnoredDuringExecution, false, 0)
		w.matchesSelf = w.matchesAll(p.Obj)
	}
	if a := podAntiAffinity(p.Obj); a != nil {
		w.antiAffinityTerms = newTerms(p.Obj, a.RequiredDuringSchedulingIgnoredDuringExecution, true, 0)
	}
	w.preferredTerms = preferredTerms(p.Obj)
	w.hard = spreadRules(p.Obj, v1.DoNotSchedule)
	w.soft = spreadRules(p.Obj, v1.ScheduleAnyway)
	w.nodeScorer = newNodeScorer(p.Obj)
	w.key = w.text()
	p.constraints = w
}

func hasConstraints(pod *v1.Pod) bool {
	a := pod.Spec.Affinity
	return len(pod.Spec.TopologySpreadConstraints) > 0 || a != nil &&
		(a.PodAffinity != nil || a.PodAntiAffinity != nil ||
			a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0)
}

// sameWants tells whether two states of a waiting pod want the same of others, and others of it.
func sameConstraints(a, b *v1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && a.Spec.NodeName == b.Spec.NodeName && !hasConstraints(a) && !hasConstraints(b)
}

// text is the part of the class's key that says what the pod wants.
func (w *constraints) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s %t", w.obj.Namespace, w.matchesSelf)
	for i, terms := range [][]*term{w.affinityTerms, w.antiAffinityTerms, w.preferredTerms, w.existingTerms} {
		for _, t := range terms {
			fmt.Fprintf(&b, "\n%d %s", i, t.key)
		}
	}
	for kind, rules := range [][]spreadRule{w.hard, w.soft} {
		for i := range rules {
			fmt.Fprintf(&b, "\n%d %s", kind, rules[i].text())
		}
	}
	for _, claim := range w.claims {
		fmt.Fprintf(&b, "\nclaim %s", claim.Name)
	}
	if w.self != nil || hasEphemeral(w.obj) { // no other pod is like it
		fmt.Fprintf(&b, "\nof %s", w.obj.UID)
	}
	if w.nodeScorer != nil {
		fmt.Fprint(&b, w.obj.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return b.String()
}

// matchesAll tells whether the pod is what all terms of the required affinity want.
func (w *constraints) matchesAll(pod *v1.Pod) bool {
	space := w.index.terms.namespaceLabels(pod.Namespace)
	for _, t := range w.affinityTerms {
		if !t.matches(pod, space) {
			return false
		}
	}
	return len(w.affinityTerms) > 0
}

// termIndex holds the terms of the pods that occupy nodes.
type termIndex struct {
	byKey map[string]*term
	added []*term // that waiting pods have not been held against yet
	// generation is that of the set of terms and of the namespaces' labels.
	generation int
	namespaces map[string]*v1.Namespace
}

func newTermIndex() termIndex {
	return termIndex{byKey: map[string]*term{}, namespaces: map[string]*v1.Namespace{}}
}

// labelsOf returns the labels of a namespace.
func (x *termIndex) namespaceLabels(namespace string) map[string]string {
	if obj := x.namespaces[namespace]; obj != nil {
		return obj.Labels
	}
	return nil
}

// about returns the terms that the pod matches.
func (x *termIndex) matching(pod *v1.Pod) []*term {
	if len(x.byKey) == 0 {
		return nil
	}
	var met []*term
	space := x.namespaceLabels(pod.Namespace)
	for _, t := range x.byKey {
		if t.matches(pod, space) {
			met = append(met, t)
		}
	}
	slices.SortFunc(met, func(a, b *term) int { return strings.Compare(a.key, b.key) })
	return met
}

// add counts a pod with the term in; it returns the one that all such pods share.
func (x *termIndex) add(t *term) *term {
	known := x.byKey[t.key]
	if known == nil {
		known = t
		x.byKey[t.key] = t
		x.added = append(x.added, t)
		x.generation++
	}
	known.holders++
	return known
}

// heed lets the waiting pods know of terms that are new. It tells whether some of them wait in another class now.
func (x *Index) applyNewTerms() bool {
	if len(x.terms.added) == 0 {
		return false
	}
	moved := false
	for _, s := range x.classes.byKey {
		moved = x.rereadConstraints(s, func(p *Pod) bool {
			space := x.terms.namespaceLabels(p.Obj.Namespace)
			return slices.ContainsFunc(x.terms.added, func(t *term) bool { return t.matches(p.Obj, space) })
		}) || moved
	}
	clear(x.terms.added)
	x.terms.added = x.terms.added[:0]
	return moved
}

// reread finds out anew what those pods of a class want for which it may have changed.
func (x *Index) rereadConstraints(s *Class, changed func(*Pod) bool) (moved bool) {
	for _, p := range slices.Clone(s.pods) {
		if p.class != s || !changed(p) {
			continue
		}
		x.readConstraints(p)
		if keyOf(p) != s.key {
			p.class = nil
			x.join(p)
			moved = true
		}
	}
	return moved
}

// forgetTerms drops the terms that no pod has any more, so that pods that match them become plain again.
func (x *Index) forgetTerms() {
	dropped := false
	for key, t := range x.terms.byKey {
		if t.holders == 0 {
			delete(x.terms.byKey, key)
			dropped = true
		}
	}
	if !dropped {
		return
	}
	x.terms.generation++
	for key, s := range x.classes.byKey {
		if s.topology != nil && slices.ContainsFunc(s.topology.existingTerms, func(t *term) bool { return t.holders == 0 }) {
			x.rereadConstraints(s, func(*Pod) bool { return true })
			delete(x.classes.byKey, key) // or it would be taken for one that knows the term when it comes again
			delete(x.classes.watchers, s)
		}
	}
}
