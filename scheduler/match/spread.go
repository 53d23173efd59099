package match

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// spreadRule is a parsed topology spread constraint
// (https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/).
type spreadRule struct {
	topologyKey string
	allKeys     []string // the topology keys of all hard, or all soft, rules of the pod: a node counts only if it has all of them
	maxSkew     int
	minDomains  int
	podSelector labels.Selector
	selfMatch   int // 1 if the pod matches podSelector, else 0
	affinity    *nodeaffinity.RequiredNodeAffinity
	honorTaints bool // ignore nodes with taints that the pod does not tolerate
}

func spreadRules(pod *v1.Pod, when v1.UnsatisfiableConstraintAction) []spreadRule {
	var rules []spreadRule
	var keys []string
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != when {
			continue
		}
		keys = append(keys, c.TopologyKey)
		r := spreadRule{topologyKey: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, podSelector: spreadSelector(pod, c)}
		if r.podSelector.Matches(labels.Set(pod.Labels)) {
			r.selfMatch = 1
		}
		if c.MinDomains != nil {
			r.minDomains = int(*c.MinDomains)
		}
		if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor {
			affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
			r.affinity = &affinity
		}
		r.honorTaints = c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor
		rules = append(rules, r)
	}
	for i := range rules {
		rules[i].allKeys = keys
	}
	return rules
}

// spreadSelector returns the constraint's selector, extended by the pod's own labels for its matchLabelKeys.
func spreadSelector(pod *v1.Pod, c *v1.TopologySpreadConstraint) labels.Selector {
	selector := selectorOf(c.LabelSelector)
	wanted, selectable := selector.Requirements()
	own := labels.Set{}
	for _, key := range c.MatchLabelKeys {
		if value, found := pod.Labels[key]; found {
			own[key] = value
		}
	}
	if len(own) == 0 || !selectable {
		return selector
	}
	return labels.SelectorFromSet(own).Add(wanted...)
}

// text is equal only for equal rules of pods with equal node affinity and tolerations, which the class's key contains.
func (r *spreadRule) text() string {
	return fmt.Sprintf("spread %s %v %d %d {%s} %d %t %t",
		r.topologyKey, r.allKeys, r.maxSkew, r.minDomains, r.podSelector, r.selfMatch, r.affinity != nil, r.honorTaints)
}

// eligible tells whether the node counts, with its domain and its pods.
func (r *spreadRule) eligible(pod *v1.Pod, node *v1.Node) bool {
	for _, key := range r.allKeys {
		if _, found := node.Labels[key]; !found {
			return false
		}
	}
	if r.affinity != nil {
		if match, _ := r.affinity.Match(node); !match {
			return false
		}
	}
	if r.honorTaints {
		_, repelled := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, pod.Spec.Tolerations, doNotSchedule, false)
		return !repelled
	}
	return true
}

// counts tells whether a pod on a node counts. A terminating one does not.
func (r *spreadRule) counts(pod, other *v1.Pod) bool {
	return other.DeletionTimestamp == nil && other.Namespace == pod.Namespace && !r.podSelector.Empty() &&
		r.podSelector.Matches(labels.Set(other.Labels))
}

// domains counts the pods in each domain of a rule.
type domains struct {
	pods          map[string]int
	fewest        int // the fewest pods in a domain
	fewestDomains int // how many domains have that number
	valid         bool
}

// findFewest finds the domains with the fewest pods.
func (d *domains) findFewest() {
	if d.valid {
		return
	}
	d.valid, d.fewest, d.fewestDomains = true, 0, 0
	for _, pods := range d.pods {
		switch {
		case d.fewestDomains == 0 || pods < d.fewest:
			d.fewest, d.fewestDomains = pods, 1
		case pods == d.fewest:
			d.fewestDomains++
		}
	}
}

// add adds pods, or subtracts them if negative. It tells whether a class may fit now where it did not before.
func (d *domains) add(domain string, pods int) (mayFit bool) {
	d.findFewest()
	before := d.pods[domain]
	d.pods[domain] = before + pods
	switch {
	case pods < 0:
		d.valid = false
		return true
	case before > d.fewest:
		return false
	}
	if d.fewestDomains--; d.fewestDomains > 0 {
		return false
	}
	d.valid = false
	return true
}

// skew returns by how many pods the domain would exceed the domain with the fewest, with one more of these pods in it.
func (d *domains) skew(r *spreadRule, domain string) int {
	d.findFewest()
	fewest := d.fewest
	if len(d.pods) < r.minDomains {
		fewest = 0
	}
	return d.pods[domain] + r.selfMatch - fewest
}
