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

// term is a parsed term of inter-pod affinity or anti-affinity
// (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity).
// The API server has merged matchLabelKeys into the label selector.
type term struct {
	key               string // equal terms have equal keys
	topologyKey       string // the node label whose values are the domains
	namespaces        []string
	namespaceSelector labels.Selector // selects further namespaces
	podSelector       labels.Selector
	antiAffinity      bool  // it is a required anti-affinity term
	weight            int64 // the score that each pod with the term adds for a pod that matches it

	// Only for the terms of pods on nodes: how many pods have the term, in all and by domain.
	holders         int
	holdersByDomain map[string]int
}

// hardWeight is the score for a pod that matches a required affinity term of a pod on a node, as hardPodAffinityWeight in
// kube-scheduler (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-InterPodAffinityArgs).
const hardWeight = 1

func newTerm(pod *v1.Pod, t *v1.PodAffinityTerm, antiAffinity bool, weight int64) *term {
	made := &term{
		topologyKey: t.TopologyKey, namespaces: t.Namespaces, namespaceSelector: selectorOf(t.NamespaceSelector),
		podSelector: selectorOf(t.LabelSelector), antiAffinity: antiAffinity, weight: weight, holdersByDomain: map[string]int{},
	}
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		made.namespaces = []string{pod.Namespace}
	}
	made.key = fmt.Sprintf("%t %d %s %q %s %s",
		antiAffinity, weight, t.TopologyKey, made.namespaces, selectorText(t.NamespaceSelector), selectorText(t.LabelSelector))
	return made
}

// selectorOf parses a label selector that the API server has validated.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// selectorText is equal only for equal selectors. A nil one matches nothing, an empty one everything.
func selectorText(s *metav1.LabelSelector) string {
	if s == nil {
		return "none"
	}
	return "{" + selectorOf(s).String() + "}"
}

// matches tells whether the term selects the pod, given the labels of the pod's namespace.
func (t *term) matches(pod *v1.Pod, namespace map[string]string) bool {
	return (slices.Contains(t.namespaces, pod.Namespace) || t.namespaceSelector.Matches(labels.Set(namespace))) &&
		t.podSelector.Matches(labels.Set(pod.Labels))
}

func newTerms(pod *v1.Pod, list []v1.PodAffinityTerm, antiAffinity bool, weight int64) []*term {
	var terms []*term
	for i := range list {
		terms = append(terms, newTerm(pod, &list[i], antiAffinity, weight))
	}
	return terms
}

// preferredTerms returns the preferred terms of a pod. Anti-affinity terms have negative weights.
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

// termsOf returns the terms of a pod on a node that apply to waiting pods.
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

// constraints are the constraints of a waiting pod on other pods and on volumes, and those of the pods on nodes that it matches.
type constraints struct {
	index             *Index
	self              *occupant // the pod, if it is on a node already because its claims are being bound
	obj               *v1.Pod
	key               string  // pods with equal keys have equal constraints
	affinityTerms     []*term // required affinity
	matchesSelf       bool    // it matches its own affinity terms, so it may be the first pod of its group
	antiAffinityTerms []*term // required anti-affinity
	preferredTerms    []*term
	existingTerms     []*term // terms of pods on nodes that it matches
	hard              []spreadRule
	soft              []spreadRule
	nodeScorer        nodeScorer // nil without preferred node affinity
	claims            []api.PodKey
}

// readConstraints reads the pod's constraints. A pod without any that matches no term of other pods has nil.
func (x *Index) readConstraints(p *Pod) {
	p.termGeneration, p.constraints = x.terms.generation, nil
	if p.Node != "" {
		return // constraints do not apply to a bound pod
	}
	existing, claims := x.terms.matching(p.Obj), ClaimsOf(p.Obj)
	if len(existing) == 0 && len(claims) == 0 && !hasConstraints(p.Obj) {
		return
	}
	cs := &constraints{index: x, obj: p.Obj, existingTerms: existing, claims: claims}
	if p.ClaimsNode != "" {
		cs.self = &p.occupant
	}
	if a := podAffinity(p.Obj); a != nil {
		cs.affinityTerms = newTerms(p.Obj, a.RequiredDuringSchedulingIgnoredDuringExecution, false, 0)
		cs.matchesSelf = cs.matchesAll(p.Obj)
	}
	if a := podAntiAffinity(p.Obj); a != nil {
		cs.antiAffinityTerms = newTerms(p.Obj, a.RequiredDuringSchedulingIgnoredDuringExecution, true, 0)
	}
	cs.preferredTerms = preferredTerms(p.Obj)
	cs.hard = spreadRules(p.Obj, v1.DoNotSchedule)
	cs.soft = spreadRules(p.Obj, v1.ScheduleAnyway)
	cs.nodeScorer = newNodeScorer(p.Obj)
	cs.key = cs.text()
	p.constraints = cs
}

func hasConstraints(pod *v1.Pod) bool {
	a := pod.Spec.Affinity
	return len(pod.Spec.TopologySpreadConstraints) > 0 || a != nil &&
		(a.PodAffinity != nil || a.PodAntiAffinity != nil ||
			a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0)
}

// sameConstraints tells whether two versions of a waiting pod surely have the same constraints.
func sameConstraints(a, b *v1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && a.Spec.NodeName == b.Spec.NodeName && !hasConstraints(a) && !hasConstraints(b)
}

// text is the part of the class's key for the constraints.
func (cs *constraints) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s %t", cs.obj.Namespace, cs.matchesSelf)
	for i, terms := range [][]*term{cs.affinityTerms, cs.antiAffinityTerms, cs.preferredTerms, cs.existingTerms} {
		for _, t := range terms {
			fmt.Fprintf(&b, "\n%d %s", i, t.key)
		}
	}
	for kind, rules := range [][]spreadRule{cs.hard, cs.soft} {
		for i := range rules {
			fmt.Fprintf(&b, "\n%d %s", kind, rules[i].text())
		}
	}
	for _, claim := range cs.claims {
		fmt.Fprintf(&b, "\nclaim %s", claim.Name)
	}
	if cs.self != nil || hasEphemeral(cs.obj) { // no other pod is equal
		fmt.Fprintf(&b, "\nof %s", cs.obj.UID)
	}
	if cs.nodeScorer != nil {
		fmt.Fprint(&b, cs.obj.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return b.String()
}

// matchesAll tells whether the pod matches all required affinity terms.
func (cs *constraints) matchesAll(pod *v1.Pod) bool {
	namespace := cs.index.terms.namespaceLabels(pod.Namespace)
	for _, t := range cs.affinityTerms {
		if !t.matches(pod, namespace) {
			return false
		}
	}
	return len(cs.affinityTerms) > 0
}

// termIndex holds the terms of the pods on nodes.
type termIndex struct {
	byKey map[string]*term
	added []*term // new terms that have not been compared with the waiting pods yet
	// generation changes with the set of terms and the labels of namespaces.
	generation int
	namespaces map[string]*v1.Namespace
}

func newTermIndex() termIndex {
	return termIndex{byKey: map[string]*term{}, namespaces: map[string]*v1.Namespace{}}
}

// namespaceLabels returns the labels of a namespace.
func (ti *termIndex) namespaceLabels(namespace string) map[string]string {
	if obj := ti.namespaces[namespace]; obj != nil {
		return obj.Labels
	}
	return nil
}

// matching returns the terms that the pod matches, sorted by key.
func (ti *termIndex) matching(pod *v1.Pod) []*term {
	if len(ti.byKey) == 0 {
		return nil
	}
	var matching []*term
	namespace := ti.namespaceLabels(pod.Namespace)
	for _, t := range ti.byKey {
		if t.matches(pod, namespace) {
			matching = append(matching, t)
		}
	}
	slices.SortFunc(matching, func(a, b *term) int { return strings.Compare(a.key, b.key) })
	return matching
}

// add counts a pod with the term, and returns the term that all such pods share.
func (ti *termIndex) add(t *term) *term {
	known := ti.byKey[t.key]
	if known == nil {
		known = t
		ti.byKey[t.key] = t
		ti.added = append(ti.added, t)
		ti.generation++
	}
	known.holders++
	return known
}

// applyNewTerms compares the new terms with the waiting pods. It tells whether a pod moved to another class.
func (x *Index) applyNewTerms() bool {
	if len(x.terms.added) == 0 {
		return false
	}
	moved := false
	for _, c := range x.classes.byKey {
		moved = x.rereadConstraints(c, func(p *Pod) bool {
			namespace := x.terms.namespaceLabels(p.Obj.Namespace)
			return slices.ContainsFunc(x.terms.added, func(t *term) bool { return t.matches(p.Obj, namespace) })
		}) || moved
	}
	clear(x.terms.added)
	x.terms.added = x.terms.added[:0]
	return moved
}

// rereadConstraints reads the constraints of the changed pods of a class again. It tells whether a pod moved to another class.
func (x *Index) rereadConstraints(c *Class, changed func(*Pod) bool) (moved bool) {
	for _, p := range slices.Clone(c.pods) {
		if p.class != c || !changed(p) {
			continue
		}
		x.readConstraints(p)
		if keyOf(p) != c.key {
			p.class = nil
			x.join(p)
			moved = true
		}
	}
	return moved
}

// forgetTerms drops the terms that no pod has any more, so that they split classes no longer.
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
	for key, c := range x.classes.byKey {
		if c.topology != nil && slices.ContainsFunc(c.topology.existingTerms, func(t *term) bool { return t.holders == 0 }) {
			x.rereadConstraints(c, func(*Pod) bool { return true })
			delete(x.classes.byKey, key) // the class refers to the dropped term, not to a later one with the same key
			delete(x.classes.watchers, c)
		}
	}
}
