package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/scheduler/match"
)

var topologies = map[string]string{"host": v1.LabelHostname, "zone": v1.LabelTopologyZone}

// nearOptions sets the affinity of a script's pod to other pods: near, apart, likes and dislikes are TOPOLOGY/APP[/TEAM],
// where TEAM selects namespaces by that label; spread and evenly are TOPOLOGY/MAXSKEW.
func (p *player) nearOptions(pod *v1.Pod, options map[string]string) {
	if app := options["app"]; app != "" {
		pod.Labels = map[string]string{"app": app}
	}
	if namespace := options["ns"]; namespace != "" {
		pod.Namespace = namespace
	}
	if options["mirror"] != "" {
		pod.Annotations[v1.MirrorPodAnnotationKey] = "x"
	}
	affinity := func() *v1.Affinity {
		if pod.Spec.Affinity == nil {
			pod.Spec.Affinity = &v1.Affinity{}
		}
		if pod.Spec.Affinity.PodAffinity == nil {
			pod.Spec.Affinity.PodAffinity, pod.Spec.Affinity.PodAntiAffinity = &v1.PodAffinity{}, &v1.PodAntiAffinity{}
		}
		return pod.Spec.Affinity
	}
	if text := options["near"]; text != "" {
		a := affinity().PodAffinity
		a.RequiredDuringSchedulingIgnoredDuringExecution = append(a.RequiredDuringSchedulingIgnoredDuringExecution, affinityTerm(text))
	}
	if text := options["apart"]; text != "" {
		a := affinity().PodAntiAffinity
		a.RequiredDuringSchedulingIgnoredDuringExecution = append(a.RequiredDuringSchedulingIgnoredDuringExecution, affinityTerm(text))
	}
	weighted := func(text string) []v1.WeightedPodAffinityTerm {
		return []v1.WeightedPodAffinityTerm{{Weight: 10, PodAffinityTerm: affinityTerm(text)}}
	}
	if text := options["likes"]; text != "" {
		affinity().PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = weighted(text)
	}
	if text := options["dislikes"]; text != "" {
		affinity().PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = weighted(text)
	}
	for option, when := range map[string]v1.UnsatisfiableConstraintAction{"spread": v1.DoNotSchedule, "evenly": v1.ScheduleAnyway} {
		if text := options[option]; text != "" {
			topology, skew, _ := strings.Cut(text, "/")
			pod.Spec.TopologySpreadConstraints = append(pod.Spec.TopologySpreadConstraints, v1.TopologySpreadConstraint{
				MaxSkew: int32(p.number(skew)), TopologyKey: topologies[topology], WhenUnsatisfiable: when,
				LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels},
			})
		}
	}
	if claims := options["claim"]; claims != "" {
		claimVolumes(pod, claims)
	}
	if zone := options["prefers"]; zone != "" {
		if pod.Spec.Affinity == nil {
			pod.Spec.Affinity = &v1.Affinity{}
		}
		pod.Spec.Affinity.NodeAffinity = &v1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []v1.PreferredSchedulingTerm{{
				Weight: 1, Preference: v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{
					{Key: v1.LabelTopologyZone, Operator: v1.NodeSelectorOpIn, Values: []string{zone}},
				}},
			}},
		}
	}
}

func affinityTerm(text string) v1.PodAffinityTerm {
	parts := strings.Split(text, "/")
	t := v1.PodAffinityTerm{
		TopologyKey: topologies[parts[0]], LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": parts[1]}},
	}
	if len(parts) > 2 {
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": parts[2]}}
	}
	return t
}

// crowd generates the lines of a game about pods with affinity and anti-affinity.
func crowd(g *game) string {
	n := g.rand.IntN(6) + 1
	pick := func(choices ...string) string { return choices[g.rand.IntN(len(choices))] }
	app := func() string { return pick("web", "db", "cache") }
	uid := fmt.Sprintf("p%d", max(1, g.pods-g.rand.IntN(30)))
	switch dice := g.rand.IntN(100); {
	case dice < 30:
		g.offers++
		return fmt.Sprintf("offer o%d a%d host=n%d port=%d cpus=4 mem=4096%s",
			g.offers, n, n, 5050+n, pick("", " executor=ours", " executor=ours"))
	case dice < 60:
		g.pods++
		line := fmt.Sprintf("pod p%d ns=%s priority=%d", g.pods, pick("s1", "s2"), g.rand.IntN(2))
		if g.rand.IntN(4) > 0 {
			line += " app=" + app()
		}
		for _, option := range []string{"near", "apart", "likes", "dislikes"} {
			if g.rand.IntN(5) == 0 {
				line += " " + option + "=" + pick("host", "zone") + "/" + app() + pick("", "", "/blue")
			}
		}
		for _, option := range []string{"spread", "evenly"} {
			if g.rand.IntN(5) == 0 {
				line += fmt.Sprintf(" %s=%s/%d", option, pick("host", "zone"), 1+g.rand.IntN(2))
			}
		}
		if g.rand.IntN(5) == 0 {
			line += fmt.Sprintf(" claim=c%d", g.rand.IntN(6))
		}
		if g.rand.IntN(6) == 0 {
			line += fmt.Sprintf(" node=n%d", n)
		}
		return line + pick("", "", "", " mirror=yes", " prefers=z1")
	case dice < 67:
		return "pod-gone " + uid
	case dice < 75:
		return storm(g, uid)
	case dice < 80:
		return fmt.Sprintf("node n%d a%d port=%d", n, n, 5050+n) + pick("", " zone=z1", " zone=z2", " zone=z3") +
			pick("", "", " pods=3", " shun=old", " taint=new", " cordoned=yes")
	case dice < 81:
		return fmt.Sprintf("node-gone n%d", n)
	case dice < 87:
		return fmt.Sprintf("executor a%d ", n) + pick("ok", "ok", "failed")
	case dice < 90:
		return "namespace " + pick("s1", "s2") + pick("", " team=blue")
	case dice < 95:
		return fmt.Sprintf("update %s.1 a%d ", uid, n) + pick("FAILED", "RUNNING")
	case dice < 96:
		return fmt.Sprintf("lost a%d", n)
	}
	return "+1s"
}

// storm generates the lines of a game about volumes.
func storm(g *game, uid string) string {
	pick := func(choices ...string) string { return choices[g.rand.IntN(len(choices))] }
	n := g.rand.IntN(6)
	switch g.rand.IntN(6) {
	case 0:
		return "class late binding=late provisioner=" + pick("csi.example.com", "kubernetes.io/no-provisioner")
	case 1:
		return fmt.Sprintf("claim c%d class=late", n) + pick("", "", " mode=pod", " deleting=yes")
	case 2:
		return fmt.Sprintf("claim c%d class=late volume=v%d", n, n)
	case 3:
		return fmt.Sprintf("volume v%d class=late", n) + pick("", " host=n1", " host=n2", fmt.Sprintf(" for=c%d", n))
	case 4:
		return "prepared " + uid + pick("", " failed=yes")
	}
	return fmt.Sprintf("%s%d", pick("claim-gone c", "volume-gone v"), n)
}

// TestWhereAPodMayRunIsWhatAllPodsTogetherSay plays random events. It compares what the index says about each waiting pod and node
// with a direct check of all pods and nodes.
func TestWhereAPodMayRunIsWhatAllPodsTogetherSay(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	answers := map[bool]int{}
	for round, algorithm := range match.Algorithms {
		g := newGame(t, rand.New(rand.NewPCG(seed, uint64(round))), algorithm)
		for range 500 {
			g.play(crowd(g))
			if !g.player.core.step.cycle {
				g.play("+1s")
			}
			g.check()
			g.checkAgainstAll(answers)
		}
	}
	if answers[true] < 2000 || answers[false] < 2000 {
		t.Errorf("answers %v: the test tests nothing", answers)
	}
}

func (g *game) checkAgainstAll(answers map[bool]int) {
	c := g.player.core
	everybody := map[*v1.Node][]*v1.Pod{}
	for _, node := range c.agents.nodes {
		everybody[node] = nil
	}
	for _, p := range c.pods.byUID {
		if node := c.agents.nodes[c.pods.occupies(p)]; node != nil {
			everybody[node] = append(everybody[node], p.Obj)
		}
	}
	for _, obj := range g.player.others {
		if node := c.agents.nodes[obj.Spec.NodeName]; node != nil && !finished(obj) {
			everybody[node] = append(everybody[node], obj)
		}
	}
	for node, pods := range everybody {
		if got := len(slices.Collect(c.index.OccupiedBy(node.Name))); got != len(pods) {
			g.t.Fatalf("after %q %d pods occupy %s, want %d", g.last, got, node.Name, len(pods))
		}
	}
	oracle := naive{g.player.namespaces, everybody}
	if err := c.index.Verify(func(pod *v1.Pod, node *v1.Node) bool {
		want := oracle.mayRun(pod, node)
		answers[want]++
		return want
	}); err != nil {
		g.t.Fatalf("after %q: %v", g.last, err)
	}
}

// naive checks all pods for each question.
type naive struct {
	namespaces map[string]*v1.Namespace
	pods       map[*v1.Node][]*v1.Pod
}

func (n naive) matches(owner *v1.Pod, t *v1.PodAffinityTerm, pod *v1.Pod) bool {
	in := slices.Contains(t.Namespaces, pod.Namespace)
	if t.NamespaceSelector != nil {
		if space := n.namespaces[pod.Namespace]; space != nil {
			in = in || matchLabels(t.NamespaceSelector, space.Labels)
		}
	} else if len(t.Namespaces) == 0 {
		in = owner.Namespace == pod.Namespace
	}
	return in && matchLabels(t.LabelSelector, pod.Labels)
}

func matchLabels(selector *metav1.LabelSelector, have map[string]string) bool {
	for key, value := range selector.MatchLabels {
		if have[key] != value {
			return false
		}
	}
	return true
}

func together(a, b *v1.Node, key string) bool {
	value, found := a.Labels[key]
	other, too := b.Labels[key]
	return found && too && value == other
}

func (n naive) mayRun(pod *v1.Pod, node *v1.Node) bool {
	return n.near(pod, node) && n.apart(pod, node) && n.spread(pod, node)
}

func (n naive) near(pod *v1.Pod, node *v1.Node) bool {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAffinity == nil {
		return true
	}
	terms := pod.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	all := func(other *v1.Pod) bool {
		return !slices.ContainsFunc(terms, func(t v1.PodAffinityTerm) bool { return !n.matches(pod, &t, other) })
	}
	met, anywhere := true, false
	for i := range terms {
		if _, found := node.Labels[terms[i].TopologyKey]; !found {
			return false
		}
		here := false
		for other, pods := range n.pods {
			_, labelled := other.Labels[terms[i].TopologyKey]
			anywhere = anywhere || labelled && slices.ContainsFunc(pods, all)
			here = here || together(node, other, terms[i].TopologyKey) && slices.ContainsFunc(pods, all)
		}
		met = met && here
	}
	return met || !anywhere && all(pod)
}

func (n naive) apart(pod *v1.Pod, node *v1.Node) bool {
	avoids := func(owner *v1.Pod, ownerNode *v1.Node, other *v1.Pod, otherNode *v1.Node) bool {
		a := owner.Spec.Affinity
		return a != nil && a.PodAntiAffinity != nil && slices.ContainsFunc(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, func(t v1.PodAffinityTerm) bool {
			return together(ownerNode, otherNode, t.TopologyKey) && n.matches(owner, &t, other)
		})
	}
	for other, pods := range n.pods {
		for _, standing := range pods {
			if avoids(pod, node, standing, other) || avoids(standing, other, pod, node) {
				return false
			}
		}
	}
	return true
}

func (n naive) spread(pod *v1.Pod, node *v1.Node) bool {
	var keys []string
	for _, constraint := range pod.Spec.TopologySpreadConstraints {
		if constraint.WhenUnsatisfiable == v1.DoNotSchedule {
			keys = append(keys, constraint.TopologyKey)
		}
	}
	for _, constraint := range pod.Spec.TopologySpreadConstraints {
		if constraint.WhenUnsatisfiable != v1.DoNotSchedule {
			continue
		}
		here, found := node.Labels[constraint.TopologyKey]
		if !found {
			return false
		}
		domains := map[string]int{}
		for other, pods := range n.pods {
			if slices.ContainsFunc(keys, func(key string) bool { return other.Labels[key] == "" }) {
				continue
			}
			domains[other.Labels[constraint.TopologyKey]] += 0
			for _, standing := range pods {
				if standing.Namespace == pod.Namespace && len(constraint.LabelSelector.MatchLabels) > 0 &&
					matchLabels(constraint.LabelSelector, standing.Labels) {
					domains[other.Labels[constraint.TopologyKey]]++
				}
			}
		}
		fewest := -1
		for _, pods := range domains {
			if fewest < 0 || pods < fewest {
				fewest = pods
			}
		}
		if domains[here]+1-max(fewest, 0) > int(constraint.MaxSkew) {
			return false
		}
	}
	return true
}
