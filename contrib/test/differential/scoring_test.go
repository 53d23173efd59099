package differential

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeyaml "sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/scheduler/match"
)

// preferences are kube-scheduler's plugins for what a pod prefers. What else it scores by (how full nodes are, which
// images they have) is --scheduler-algorithm's part of ours.
var preferences = []string{"NodeAffinity", "TaintToleration", "InterPodAffinity", "PodTopologySpread"}

// TestPodGetsANodeThatKubeSchedulerLikesBest compares where a pod may run at all (node selectors, taints, affinity and
// anti-affinity, hard topology spread) and where it would rather.
func TestPodGetsANodeThatKubeSchedulerLikesBest(t *testing.T) {
	answered := map[string]int{}
	untilSpent(t, func(t *testing.T, d dice) {
		c := roomy(d)
		s := newStock(t, c)
		for i := range 30 {
			pod := choosy(d, i)
			v := s.filter(t, pod)
			algorithm := pick(d, match.FCFS, match.Spread, match.Binpack)
			got := newCore(c, algorithm, c.nodes).ask(pod, 0)
			if len(v.fits) == 0 && got.node == "" {
				answered["fits nowhere"]++
				continue
			}
			if !v.has(got.node) {
				t.Errorf("%s\nfits on %v (%s)\nours chooses %q", yaml(pod), v.names(), v.why, got.node)
				c.describePreferences(t)
				return
			}
			scores := s.score(t, &v, preferences)
			most, best := int64(-1), []string(nil)
			for _, name := range slices.Sorted(maps.Keys(scores)) {
				switch sum := total(scores[name]); {
				case sum > most:
					most, best = sum, []string{name}
				case sum == most:
					best = append(best, name)
				}
			}
			if len(best) < len(v.fits) {
				answered["some are better"]++
			} else {
				answered["all are alike"]++
			}
			if !slices.Contains(best, got.node) {
				t.Errorf("%s\nis liked best on %v, ours chooses %q\nscores %v", yaml(pod), best, got.node, scores)
				c.describePreferences(t)
				return
			}
		}
	})
	mustHave(t, answered, "fits nowhere", "some are better", "all are alike")
}

func total(scores map[string]int64) (sum int64) {
	for _, score := range scores {
		sum += score
	}
	return sum
}

// roomy makes up a cluster whose nodes have enough for everybody, and pods there that care for others.
func roomy(d dice) *cluster {
	c := &cluster{namespaces: []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "s1", Labels: map[string]string{"team": "blue"}}}, {ObjectMeta: metav1.ObjectMeta{Name: "s2"}},
	}}
	for i := range 1 + d.IntN(7) {
		node := bare(i, pick(d, "", "z1", "z1", "z2", "z3"), 64_000, 256<<10, 110)
		if d.chance(70) {
			node.Labels[disks] = pick(d, "ssd", "hdd")
		}
		for _, taint := range []corev1.Taint{
			{Key: "only", Value: "some", Effect: corev1.TaintEffectNoSchedule},
			{Key: "old", Effect: corev1.TaintEffectPreferNoSchedule}, {Key: "slow", Effect: corev1.TaintEffectPreferNoSchedule},
		} {
			if d.chance(15) {
				node.Spec.Taints = append(node.Spec.Taints, taint)
			}
		}
		c.nodes = append(c.nodes, node)
	}
	for i := range d.IntN(16) {
		pod := plain(fmt.Sprintf("p%d", i), pick(d, "s1", "s2"), 100, 64)
		labelled(d, pod)
		if d.chance(40) {
			pod.Spec.Affinity = &corev1.Affinity{}
			caring(d, pod)
		}
		c.put(pod, pick(d, c.nodes...).Name)
	}
	return c
}

func labelled(d dice, pod *corev1.Pod) {
	if d.chance(85) {
		pod.Labels["app"] = pick(d, "web", "db", "cache")
	}
}

// caring gives the pod affinity and anti-affinity.
func caring(d dice, pod *corev1.Pod) {
	near, apart := &corev1.PodAffinity{}, &corev1.PodAntiAffinity{}
	for range d.IntN(3) {
		near.PreferredDuringSchedulingIgnoredDuringExecution = append(near.PreferredDuringSchedulingIgnoredDuringExecution, weighted(d))
	}
	for range d.IntN(3) {
		apart.PreferredDuringSchedulingIgnoredDuringExecution = append(apart.PreferredDuringSchedulingIgnoredDuringExecution, weighted(d))
	}
	if d.chance(20) {
		near.RequiredDuringSchedulingIgnoredDuringExecution = append(near.RequiredDuringSchedulingIgnoredDuringExecution, term(d))
	}
	if d.chance(20) {
		apart.RequiredDuringSchedulingIgnoredDuringExecution = append(apart.RequiredDuringSchedulingIgnoredDuringExecution, term(d))
	}
	pod.Spec.Affinity.PodAffinity, pod.Spec.Affinity.PodAntiAffinity = near, apart
}

func weighted(d dice) corev1.WeightedPodAffinityTerm {
	return corev1.WeightedPodAffinityTerm{Weight: int32(1 + d.IntN(100)), PodAffinityTerm: term(d)}
}

func term(d dice) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{TopologyKey: pick(d, topologies...), LabelSelector: apps(d)}
	switch {
	case d.chance(20):
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}
	case d.chance(10):
		t.NamespaceSelector = &metav1.LabelSelector{}
	case d.chance(20):
		t.Namespaces = []string{"s2"}
	}
	return t
}

func apps(d dice) *metav1.LabelSelector {
	if d.chance(20) {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "app", Operator: pick(d, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{"web", "db"}},
		}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(d, "web", "db", "cache")}}
}

// choosy returns a pod that waits and prefers some nodes.
func choosy(d dice, i int) *corev1.Pod {
	pod := plain(fmt.Sprintf("waits%d", i), pick(d, "s1", "s2"), 100, 64)
	labelled(d, pod)
	pod.Spec.Affinity = &corev1.Affinity{}
	if d.chance(50) {
		caring(d, pod)
	}
	if d.chance(50) {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
		for range 1 + d.IntN(3) {
			pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(
				pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
				corev1.PreferredSchedulingTerm{Weight: int32(1 + d.IntN(100)), Preference: nodes(d)})
		}
		if d.chance(20) {
			pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{nodes(d), nodes(d)},
			}
		}
	}
	for range d.IntN(3) {
		pod.Spec.TopologySpreadConstraints = append(pod.Spec.TopologySpreadConstraints, spread(d, pod)...)
	}
	if d.chance(15) {
		pod.Spec.NodeSelector = map[string]string{disks: pick(d, "ssd", "hdd")}
	}
	if d.chance(40) {
		pod.Spec.Tolerations = []corev1.Toleration{{
			Key: pick(d, "only", "old", ""), Operator: corev1.TolerationOpExists,
			Effect: pick(d, "", corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoSchedule),
		}}
	}
	return pod
}

func nodes(d dice) corev1.NodeSelectorTerm {
	requirement := corev1.NodeSelectorRequirement{Key: disks, Operator: corev1.NodeSelectorOpIn, Values: []string{pick(d, "ssd", "hdd")}}
	switch d.IntN(3) {
	case 0:
		requirement = corev1.NodeSelectorRequirement{
			Key: corev1.LabelTopologyZone, Operator: pick(d, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: []string{"z1", "z3"},
		}
	case 1:
		requirement = corev1.NodeSelectorRequirement{Key: disks, Operator: corev1.NodeSelectorOpDoesNotExist}
	}
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{requirement}}
}

// spread returns a constraint unless the pod has one of this kind and topology, which the API server would refuse.
func spread(d dice, pod *corev1.Pod) []corev1.TopologySpreadConstraint {
	made := corev1.TopologySpreadConstraint{
		MaxSkew: int32(1 + d.IntN(3)), TopologyKey: pick(d, topologies...), LabelSelector: apps(d),
		WhenUnsatisfiable: pick(d, corev1.ScheduleAnyway, corev1.ScheduleAnyway, corev1.DoNotSchedule),
	}
	if slices.ContainsFunc(pod.Spec.TopologySpreadConstraints, func(c corev1.TopologySpreadConstraint) bool {
		return c.TopologyKey == made.TopologyKey && c.WhenUnsatisfiable == made.WhenUnsatisfiable
	}) {
		return nil
	}
	if made.WhenUnsatisfiable == corev1.DoNotSchedule && d.chance(20) {
		domains := int32(1 + d.IntN(4))
		made.MinDomains = &domains
	}
	if d.chance(20) {
		policy := pick(d, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		made.NodeTaintsPolicy = &policy
	}
	if d.chance(20) {
		policy := pick(d, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		made.NodeAffinityPolicy = &policy
	}
	if d.chance(20) {
		made.MatchLabelKeys = []string{"app"}
	}
	return []corev1.TopologySpreadConstraint{made}
}

// yaml is how people read pods.
func yaml(object any) string {
	text, err := kubeyaml.Marshal(object)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// describePreferences logs the cluster and what its pods care for.
func (c *cluster) describePreferences(t *testing.T) {
	t.Helper()
	for _, node := range c.nodes {
		t.Logf("node %s: taints %v, labels %v", node.Name, node.Spec.Taints, node.Labels)
	}
	for _, pod := range c.pods {
		t.Logf("pod %s/%s on %s with labels %v:\n%s", pod.Namespace, pod.Name, pod.Spec.NodeName, pod.Labels, yaml(pod.Spec.Affinity))
	}
}
