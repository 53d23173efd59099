package scheduler

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
	key        string // equal terms have equal keys
	topology   string // the node label whose values are the domains
	namespaces []string
	spaces     labels.Selector // or the namespaces with such labels
	pods       labels.Selector
	repels     bool  // it is required anti-affinity: a pod that matches may not be near a pod that has it
	weight     int64 // what each pod that has it adds to the score of a node for a pod that matches it

	// For the terms of the pods that stand somewhere:
	holders int
	near    map[string]int // how many of these stand in each domain
}

// hardWeight is what required affinity of a pod that stands somewhere counts for pods that match it, as in
// kube-scheduler (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-InterPodAffinityArgs).
const hardWeight = 1

func newTerm(pod *v1.Pod, t *v1.PodAffinityTerm, repels bool, weight int64) *term {
	made := &term{
		topology: t.TopologyKey, namespaces: t.Namespaces, spaces: selectorOf(t.NamespaceSelector),
		pods: selectorOf(t.LabelSelector), repels: repels, weight: weight, near: map[string]int{},
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
	return (slices.Contains(t.namespaces, pod.Namespace) || t.spaces.Matches(labels.Set(namespace))) &&
		t.pods.Matches(labels.Set(pod.Labels))
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

// termsOf returns what a pod that stands somewhere means to the pods that are still to be placed: it repels some, and
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

// wishes are what a pod wants of the pods and volumes around it, and what the pods that stand somewhere want of it.
type wishes struct {
	index   *standing
	storage *storage
	self    *stander // the pod, if it stands somewhere already: its claims are pledged to that node
	obj     *v1.Pod
	key     string  // pods of equal keys have equal wishes
	toward  []*term // required affinity
	first   bool    // it matches its own affinity: it may be the first of its group
	apart   []*term // required anti-affinity
	prefers []*term
	met     []*term // terms of pods that stand somewhere which it matches
	hard    []spreadRule
	soft    []spreadRule
	nodes   nodeScorer // nil if it prefers no nodes
	claims  []api.PodKey
}

// wish finds out what the pod wants. A plain pod that no other one cares about has no wishes.
func (c *Core) wish(p *pod) {
	p.wished, p.wishes = c.standing.generation, nil
	if p.node != "" {
		return // it is where it is
	}
	met, claims := c.standing.about(p.obj), claimsOf(p.obj)
	if len(met) == 0 && len(claims) == 0 && !hasWishes(p.obj) {
		return
	}
	w := &wishes{index: &c.standing, storage: &c.storage, obj: p.obj, met: met, claims: claims}
	if p.pledge != "" {
		w.self = &p.standing
	}
	if a := podAffinity(p.obj); a != nil {
		w.toward = newTerms(p.obj, a.RequiredDuringSchedulingIgnoredDuringExecution, false, 0)
		w.first = w.matchesAll(p.obj)
	}
	if a := podAntiAffinity(p.obj); a != nil {
		w.apart = newTerms(p.obj, a.RequiredDuringSchedulingIgnoredDuringExecution, true, 0)
	}
	w.prefers = preferredTerms(p.obj)
	w.hard = spreadRules(p.obj, v1.DoNotSchedule)
	w.soft = spreadRules(p.obj, v1.ScheduleAnyway)
	w.nodes = newNodeScorer(p.obj)
	w.key = w.text()
	p.wishes = w
}

// about returns the terms of pods that stand somewhere which the pod matches.
func (x *standing) about(pod *v1.Pod) []*term {
	if len(x.terms) == 0 {
		return nil
	}
	var met []*term
	space := x.labelsOf(pod.Namespace)
	for _, t := range x.terms {
		if t.matches(pod, space) {
			met = append(met, t)
		}
	}
	slices.SortFunc(met, func(a, b *term) int { return strings.Compare(a.key, b.key) })
	return met
}

func hasWishes(pod *v1.Pod) bool {
	a := pod.Spec.Affinity
	return len(pod.Spec.TopologySpreadConstraints) > 0 || a != nil &&
		(a.PodAffinity != nil || a.PodAntiAffinity != nil ||
			a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0)
}

// sameWishes tells whether two states of a waiting pod want the same of others, and others of it.
func sameWishes(a, b *v1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && a.Spec.NodeName == b.Spec.NodeName && !hasWishes(a) && !hasWishes(b)
}

// text is the part of the shape's key that says what the pod wishes.
func (w *wishes) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s %t", w.obj.Namespace, w.first)
	for i, terms := range [][]*term{w.toward, w.apart, w.prefers, w.met} {
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
	if w.nodes != nil {
		fmt.Fprint(&b, w.obj.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return b.String()
}

// matchesAll tells whether the pod is what all terms of the required affinity want.
func (w *wishes) matchesAll(pod *v1.Pod) bool {
	space := w.index.labelsOf(pod.Namespace)
	for _, t := range w.toward {
		if !t.matches(pod, space) {
			return false
		}
	}
	return len(w.toward) > 0
}

// rekey lets the waiting pods know of terms that are new. It tells whether some of them wait in another shape now.
func (c *Core) rekey() bool {
	x := &c.standing
	if len(x.fresh) == 0 {
		return false
	}
	moved := false
	for _, s := range c.queue.shapes {
		moved = c.rewish(s, func(p *pod) bool {
			space := x.labelsOf(p.obj.Namespace)
			return slices.ContainsFunc(x.fresh, func(t *term) bool { return t.matches(p.obj, space) })
		}) || moved
	}
	clear(x.fresh)
	x.fresh = x.fresh[:0]
	return moved
}

// rewish finds out anew what those pods of a shape want for which it may have changed.
func (c *Core) rewish(s *shape, changed func(*pod) bool) (moved bool) {
	for _, p := range slices.Clone(s.pods) {
		if p.shape != s || !changed(p) {
			continue
		}
		c.wish(p)
		if keyOf(p) != s.key {
			p.shape = nil
			c.queue.join(p)
			c.watch(p.shape)
			moved = true
		}
	}
	return moved
}

// forgetTerms drops the terms that no pod has any more, so that pods that match them become plain again.
func (c *Core) forgetTerms() {
	x := &c.standing
	dropped := false
	for key, t := range x.terms {
		if t.holders == 0 {
			delete(x.terms, key)
			dropped = true
		}
	}
	if !dropped {
		return
	}
	x.generation++
	for key, s := range c.queue.shapes {
		if s.near != nil && slices.ContainsFunc(s.near.met, func(t *term) bool { return t.holders == 0 }) {
			c.rewish(s, func(*pod) bool { return true })
			delete(c.queue.shapes, key) // or it would be taken for one that knows the term when it comes again
			delete(x.watchers, s)
		}
	}
}
