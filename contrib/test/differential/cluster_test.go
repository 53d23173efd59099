package differential

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

var (
	seedFlag = flag.Uint64("seed", 0, "of the first random cluster; 0 takes the time")
	spanFlag = flag.Duration("span", 3*time.Second, "how long each test compares random clusters")
)

// epoch is the time at which all questions are asked.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Labels of nodes beside the well-known ones, and the topologies that pods may ask for.
const disks = "example.com/disk"

var topologies = []string{corev1.LabelHostname, corev1.LabelTopologyZone}

// cluster is what both schedulers are shown.
type cluster struct {
	nodes      []*corev1.Node
	pods       []*corev1.Pod // that have a node
	namespaces []*corev1.Namespace
	budgets    []*policyv1.PodDisruptionBudget
	volumes    []*corev1.PersistentVolume
	claims     []*corev1.PersistentVolumeClaim
	classes    []*storagev1.StorageClass
}

// on returns the pods that are on the node.
func (c *cluster) on(node string) (pods []*corev1.Pod) {
	for _, pod := range c.pods {
		if pod.Spec.NodeName == node {
			pods = append(pods, pod)
		}
	}
	return pods
}

// dice make up clusters. The same seed makes up the same ones.
type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0))} }

// chance is true so many times out of a hundred.
func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

func pick[T any](d dice, choices ...T) T { return choices[d.IntN(len(choices))] }

// upTo returns a multiple of step between step and most.
func (d dice) upTo(most, step int64) int64 { return step * (1 + d.Int64N(most/step)) }

// untilSpent calls compare with one seed after the other until the time for a test has passed or something failed.
func untilSpent(t *testing.T, compare func(t *testing.T, d dice)) {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for begin, first := time.Now(), seed; !t.Failed() && (seed == first || time.Since(begin) < *spanFlag); seed++ {
		d := newDice(seed)
		compare(t, d)
		if t.Failed() {
			t.Errorf("the random cluster is that of -seed=%d", seed)
		}
	}
}

// mustHave fails the test if no question was answered in one of these ways: it would test too little.
func mustHave(t *testing.T, answered map[string]int, kinds ...string) {
	t.Helper()
	t.Logf("answered: %v", answered)
	for _, kind := range kinds {
		if answered[kind] == 0 && *spanFlag >= time.Second {
			t.Errorf("no question was answered by %q: the test tests too little", kind)
		}
	}
}

// bare returns an empty node that is ready; a zone of "" is none.
func bare(i int, zone string, cpus, mebibytes, pods int64) *corev1.Node {
	name := fmt.Sprintf("n%d", i)
	list := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewMilliQuantity(cpus, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(mebibytes<<20, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(100<<30, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(pods, resource.DecimalSI),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		}},
		Spec: corev1.NodeSpec{ProviderID: api.ProviderID(api.AgentID(name))},
		Status: corev1.NodeStatus{
			Capacity: list, Allocatable: list, NodeInfo: corev1.NodeSystemInfo{KubeletVersion: api.KubernetesVersion}, // its kubelet runs
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	if zone != "" {
		node.Labels[corev1.LabelTopologyZone] = zone
	}
	return node
}

// plain returns a pod that waits and asks for nothing but cpus and memory.
func plain(name, namespace string, cpus, mebibytes int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), Labels: map[string]string{}},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers: []corev1.Container{{Name: "main", Image: "none", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{
					corev1.ResourceCPU:    *resource.NewMilliQuantity(cpus, resource.DecimalSI),
					corev1.ResourceMemory: *resource.NewQuantity(mebibytes<<20, resource.BinarySI),
				},
			}}},
		},
	}
}

// put makes a pod one that runs on the node.
func (c *cluster) put(pod *corev1.Pod, node string) {
	pod.Spec.NodeName = node
	pod.Status.Phase = corev1.PodRunning
	pod.Annotations = map[string]string{
		api.AnnotationTaskID: string(api.NewTaskID(pod.UID, 1)), api.AnnotationAgentID: node,
	}
	c.pods = append(c.pods, pod)
}

// requested returns what a pod requests, in thousandths of cpus and in MiB.
func requested(pod *corev1.Pod) (cpus, mebibytes int64) {
	list := pod.Spec.Containers[0].Resources.Requests
	return list.Cpu().MilliValue(), list.Memory().Value() >> 20
}

// hostPorts returns the host ports of a pod.
func hostPorts(pod *corev1.Pod) (ports []int32) {
	for _, port := range pod.Spec.Containers[0].Ports {
		ports = append(ports, port.HostPort)
	}
	return ports
}
