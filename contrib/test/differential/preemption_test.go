package differential

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/scheduler/match"
)

var priorities = []int32{-10, 0, 0, 5, 10, 1000}

// TestSamePodsHaveToMakeRoomOnTheSameNode compares preemption: pods of several priorities that fill their nodes, some
// guarded by PodDisruptionBudgets, and more important ones that ask for cpus, memory, a host port or just for a place
// among the pods of a node. All start times differ, so that there is one best answer.
//
// Pods here want nothing of other pods: ours preempts for resources, ports and places, and not for affinity or spread.
func TestSamePodsHaveToMakeRoomOnTheSameNode(t *testing.T) {
	answered := map[string]int{}
	untilSpent(t, func(t *testing.T, d dice) {
		c := crowded(d)
		s := newStock(t, c)
		for i := range 20 {
			pod := important(d, i)
			want := s.filter(t, pod)
			got := newCore(c, match.FCFS, c.nodes).ask(pod, 5*time.Second)
			if len(want.fits) > 0 {
				answered["fits"]++
				if !want.has(got.node) {
					t.Errorf("%s fits on %v, ours answers %+v", describe(pod), want.names(), got)
				}
				continue
			}
			node, victims := s.preempt(t, &want)
			answered[fmt.Sprintf("%d victims", min(len(victims), 3))]++
			if got.node != "" || got.promised != node || !slices.Equal(got.victims, victims) {
				t.Errorf("%s fits nowhere (%s)\nkube-scheduler preempts %v on %q\nours answers %+v", describe(pod), want.why, victims, node, got)
				c.describe(t)
			}
			if t.Failed() {
				return
			}
		}
	})
	mustHave(t, answered, "fits", "0 victims", "1 victims", "2 victims", "3 victims")
}

// crowded makes up a cluster whose nodes are almost full.
func crowded(d dice) *cluster {
	c := &cluster{}
	for i := range 1 + d.IntN(6) {
		node := bare(i, pick(d, "", "z1", "z2"), d.upTo(4000, 500), 4096, pick[int64](d, 110, 110, 4))
		switch {
		case d.chance(10):
			node.Spec.Taints = []corev1.Taint{{Key: "only", Value: "some", Effect: corev1.TaintEffectNoSchedule}}
		case d.chance(10):
			node.Spec.Unschedulable = true
		}
		c.nodes = append(c.nodes, node)
		c.fill(d, node)
	}
	for i := range d.IntN(4) {
		c.budgets = append(c.budgets, budget(d, i, c))
	}
	return c
}

// fill puts pods on a node until one does not fit.
func (c *cluster) fill(d dice, node *corev1.Node) {
	cpus, mebibytes := node.Status.Allocatable.Cpu().MilliValue(), int64(4096)
	var taken []int32
	for n := range node.Status.Allocatable.Pods().Value() {
		pod := plain(fmt.Sprintf("p%d", len(c.pods)), pick(d, "s1", "s2"), d.upTo(1500, 100), d.upTo(1024, 64))
		podCPUs, podMebibytes := requested(pod)
		if cpus, mebibytes = cpus-podCPUs, mebibytes-podMebibytes; cpus < 0 || mebibytes < 0 || n > 0 && d.chance(5) {
			return
		}
		if app := pick(d, "", "a", "b"); app != "" {
			pod.Labels["app"] = app
		}
		priority := pick(d, priorities...)
		pod.Spec.Priority = &priority
		if port := int32(firstPort + d.IntN(4)); d.chance(20) && !slices.Contains(taken, port) {
			taken = append(taken, port)
			listen(pod, port)
		}
		// No other pod was started in the same second.
		started := metav1.NewTime(epoch.Add(-time.Duration(1000*(1+d.IntN(1000))+len(c.pods)) * time.Second))
		pod.Status.StartTime = &started
		c.put(pod, node.Name)
	}
}

func listen(pod *corev1.Pod, port int32) {
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: port, Protocol: corev1.ProtocolTCP}}
}

// budget guards the pods of an app; some budgets guard nobody, or have seen a pod being disrupted.
func budget(d dice, i int, c *cluster) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, "s1", "s2"), Name: fmt.Sprintf("b%d", i), UID: types.UID(fmt.Sprintf("b%d", i))},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(d, "a", "b")}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: int32(d.IntN(3))},
	}
	switch {
	case d.chance(10):
		b.Spec.Selector = &metav1.LabelSelector{}
	case d.chance(20) && len(c.pods) > 0:
		b.Status.DisruptedPods = map[string]metav1.Time{pick(d, c.pods...).Name: metav1.NewTime(epoch)}
	}
	return b
}

// important returns a pod that waits.
func important(d dice, i int) *corev1.Pod {
	pod := plain(fmt.Sprintf("waits%d", i), "s1", d.upTo(4500, 100), d.upTo(4096, 128))
	if d.chance(30) { // so that another resource is the scarce one
		pod = plain(pod.Name, "s1", 100, d.upTo(4096, 128))
	}
	priority := pick[int32](d, 0, 5, 10, 100, 2000, 2000)
	pod.Spec.Priority = &priority
	if d.chance(25) {
		listen(pod, int32(firstPort+d.IntN(4)))
	}
	if d.chance(20) {
		pod.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: pick(d, "z1", "z2")}
	}
	if d.chance(20) {
		pod.Spec.Tolerations = []corev1.Toleration{{Key: "only", Operator: corev1.TolerationOpExists}}
	}
	if d.chance(5) {
		never := corev1.PreemptNever
		pod.Spec.PreemptionPolicy = &never
	}
	return pod
}

// describe tells about a pod in short.
func describe(pod *corev1.Pod) string {
	cpus, mebibytes := requested(pod)
	priority := int32(0)
	if pod.Spec.Priority != nil {
		priority = *pod.Spec.Priority
	}
	return fmt.Sprintf("%s/%s of priority %d with %dm cpus, %d MiB, ports %v, selector %v, labels %v", pod.Namespace, pod.Name, priority, cpus, mebibytes,
		hostPorts(pod), pod.Spec.NodeSelector, pod.Labels)
}

// describe logs the cluster.
func (c *cluster) describe(t *testing.T) {
	t.Helper()
	for _, node := range c.nodes {
		t.Logf("node %s: %s cpus, %s pods, taints %v, labels %v", node.Name, node.Status.Allocatable.Cpu(), node.Status.Allocatable.Pods(), node.Spec.Taints, node.Labels)
		for _, pod := range c.on(node.Name) {
			t.Logf("  %s, started %v", describe(pod), pod.Status.StartTime)
		}
	}
	for _, b := range c.budgets {
		t.Logf("budget %s/%s of %v allows %d, disrupted %v", b.Namespace, b.Name, b.Spec.Selector.MatchLabels, b.Status.DisruptionsAllowed, b.Status.DisruptedPods)
	}
}
