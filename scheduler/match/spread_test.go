package match

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// spreadTest places a pod with a zone constraint on n1 in z1, where a pod is. n2 in z2 is tainted and has only a terminating pod.
type spreadTest struct {
	rule       string
	constraint func(*v1.TopologySpreadConstraint)
	pod        func(*v1.Pod)
	want       reason
}

func TestTopologySpreadHonorsAllFieldsOfTheConstraint(t *testing.T) {
	honor, ignore := v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore
	three := int32(3)
	for _, test := range []spreadTest{
		{rule: "z2 has fewer pods", want: skewed},
		{rule: "maxSkew 2", constraint: func(c *v1.TopologySpreadConstraint) { c.MaxSkew = 2 }},
		{
			rule:       "fewer domains than minDomains",
			constraint: func(c *v1.TopologySpreadConstraint) { c.MinDomains, c.NodeTaintsPolicy = &three, &honor },
			want:       skewed,
		},
		{rule: "nodeTaintsPolicy Honor excludes z2", constraint: func(c *v1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor }},
		{
			rule:       "nodeTaintsPolicy Honor, but the pod tolerates the taint",
			constraint: func(c *v1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor },
			pod:        func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "new", Operator: v1.TolerationOpExists}} },
			want:       skewed,
		},
		{
			rule: "the node selector excludes z2",
			pod:  func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{v1.LabelTopologyZone: "z1"} },
		},
		{
			rule:       "nodeAffinityPolicy Ignore",
			constraint: func(c *v1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &ignore },
			pod:        func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{v1.LabelTopologyZone: "z1"} },
			want:       skewed,
		},
		{
			rule:       "matchLabelKeys: only pods of the same version count",
			constraint: func(c *v1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"version"} },
			pod:        func(p *v1.Pod) { p.Labels["version"] = "2" },
		},
		{rule: "only pods of the same namespace count", pod: func(p *v1.Pod) { p.Namespace = "other" }},
	} {
		test.run(t)
	}
}

func (test spreadTest) run(t *testing.T) {
	t.Helper()
	x := NewIndex(Config{}, emptySource{})
	for name, zone := range map[string]string{"n1": "z1", "n2": "z2"} {
		node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelTopologyZone: zone}}}
		if name == "n2" {
			node.Spec.Taints = []v1.Taint{{Key: "new", Effect: v1.TaintEffectNoSchedule}}
		}
		x.NodeSeen(name, node)
	}
	x.Occupy(&Pod{Obj: webPod("p1")}, "n1")
	dying := webPod("dying")
	dying.DeletionTimestamp = &metav1.Time{}
	x.Occupy(&Pod{Obj: dying}, "n2")
	obj := webPod("p2")
	obj.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: v1.LabelTopologyZone, WhenUnsatisfiable: v1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
	}}
	if test.constraint != nil {
		test.constraint(&obj.Spec.TopologySpreadConstraints[0])
	}
	if test.pod != nil {
		test.pod(obj)
	}
	p := &Pod{Obj: obj}
	x.readConstraints(p)
	if r := newTopology(p.constraints).check(x.nodes["n1"].obj); r.reason != test.want {
		t.Errorf("%s: got %v, want %v", test.rule, r.reason, test.want)
	}
}

func webPod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}}}
}
