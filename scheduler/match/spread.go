package match

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// spreadRule is a topology spread constraint, ready to be held against pods and nodes
// (https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/).
type spreadRule struct {
	topology   string
	others     []string // the topology keys of the pod's rules of this kind: a node without one of them does not count
	maxSkew    int
	minDomains int
	pods       labels.Selector
	self       int // 1 if the pod itself counts
	affinity   *nodeaffinity.RequiredNodeAffinity
	taints     bool // nodes whose taints the pod does not tolerate do not count
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
		r := spreadRule{topology: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, pods: spreadSelector(pod, c)}
		if r.pods.Matches(labels.Set(pod.Labels)) {
			r.self = 1
		}
		if c.MinDomains != nil {
			r.minDomains = int(*c.MinDomains)
		}
		if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor {
			affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
			r.affinity = &affinity
		}
		r.taints = c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor
		rules = append(rules, r)
	}
	for i := range rules {
		rules[i].others = keys
	}
	return rules
}

// spreadSelector returns the constraint's selector with what the pod's own labels say for its matchLabelKeys.
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

// text tells rules apart; node affinity and tolerations are in the class's key anyway.
func (r *spreadRule) text() string {
	return fmt.Sprintf("spread %s %v %d %d {%s} %d %t %t",
		r.topology, r.others, r.maxSkew, r.minDomains, r.pods, r.self, r.affinity != nil, r.taints)
}

// eligible tells whether the node's pods, and its domain, count.
func (r *spreadRule) eligible(pod *v1.Pod, node *v1.Node) bool {
	for _, key := range r.others {
		if _, found := node.Labels[key]; !found {
			return false
		}
	}
	if r.affinity != nil {
		if match, _ := r.affinity.Match(node); !match {
			return false
		}
	}
	if r.taints {
		_, repelled := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, pod.Spec.Tolerations, repels, false)
		return !repelled
	}
	return true
}

// counts tells whether a pod that occupies a node counts; one that is on its way out does not.
func (r *spreadRule) counts(pod, other *v1.Pod) bool {
	return other.DeletionTimestamp == nil && other.Namespace == pod.Namespace && !r.pods.Empty() &&
		r.pods.Matches(labels.Set(other.Labels))
}

// domains are how many pods stand in each domain of a rule.
type domains struct {
	pods    map[string]int
	fewest  int // pods in a domain
	lowest  int // how many domains have so few
	settled bool
}

// settle finds the domains with the fewest pods.
func (d *domains) settle() {
	if d.settled {
		return
	}
	d.settled, d.fewest, d.lowest = true, 0, 0
	for _, pods := range d.pods {
		switch {
		case d.lowest == 0 || pods < d.fewest:
			d.fewest, d.lowest = pods, 1
		case pods == d.fewest:
			d.lowest++
		}
	}
}

// add counts pods into or out of a domain and tells whether other domains may take more now.
func (d *domains) add(domain string, pods int) (loosened bool) {
	d.settle()
	before := d.pods[domain]
	d.pods[domain] = before + pods
	switch {
	case pods < 0:
		d.settled = false
		return true
	case before > d.fewest:
		return false
	}
	if d.lowest--; d.lowest > 0 {
		return false
	}
	d.settled = false
	return true
}

// skew is by how many pods the domain would be ahead of the emptiest one with another one of these pods.
func (d *domains) skew(r *spreadRule, domain string) int {
	d.settle()
	fewest := d.fewest
	if len(d.pods) < r.minDomains {
		fewest = 0
	}
	return d.pods[domain] + r.self - fewest
}
