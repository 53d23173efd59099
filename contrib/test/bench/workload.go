package main

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

const (
	hostCPUs    = 16_000 // thousandths
	hostMem     = 64 << 10
	podsPerHost = 4 // on average
	racks       = 10
)

// workload is the input of both schedulers: nodes that differ only in rack, taint and cordon, and pods of six shapes.
type workload struct {
	nodes []*corev1.Node
	pods  []*corev1.Pod
}

func newWorkload(hosts int) *workload {
	w := &workload{}
	for i := range hosts {
		w.nodes = append(w.nodes, newNode(i))
	}
	for i := range hosts * podsPerHost {
		w.pods = append(w.pods, newPod(i))
	}
	return w
}

// newNode returns a node; every tenth is tainted, and of the others every fiftieth is cordoned.
func newNode(i int) *corev1.Node {
	name := "agent-" + strconv.Itoa(i)
	list := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(hostCPUs, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(hostMem<<20, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(110, resource.DecimalSI),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			"rack": strconv.Itoa(i % racks),
		}},
		Spec: corev1.NodeSpec{ProviderID: api.ProviderID(api.AgentID(name))},
		Status: corev1.NodeStatus{
			Capacity: list, Allocatable: list, NodeInfo: corev1.NodeSystemInfo{KubeletVersion: api.KubernetesVersion}, // its kubelet runs
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	switch {
	case i%10 == 3:
		node.Spec.Taints = []corev1.Taint{{Key: "dedicated", Value: "bench", Effect: corev1.TaintEffectNoSchedule}}
	case i%50 == 7:
		node.Spec.Unschedulable = true
	}
	return node
}

// newPod returns a pod of one of six shapes, which together need each of the four checks.
func newPod(i int) *corev1.Pod {
	requests := func(cpus, mem string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpus), corev1.ResourceMemory: resource.MustParse(mem),
		}}
	}
	seconds := int64(300) // the tolerations that admission gives to every pod
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod-" + strconv.Itoa(i), UID: uid(i)},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Tolerations: []corev1.Toleration{
				{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
				{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
			},
			Containers: []corev1.Container{{Name: "main", Image: "none"}},
		},
	}
	main := &pod.Spec.Containers[0]
	switch i % 6 {
	case 0:
		main.Resources = requests("500m", "1Gi")
	case 1:
		main.Resources = requests("2", "4Gi")
	case 2:
		main.Resources = requests("100m", "8Gi")
	case 3:
		main.Resources = requests("1", "2Gi")
		pod.Spec.NodeSelector = map[string]string{"rack": "4"}
	case 4:
		main.Resources = requests("1500m", "512Mi")
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: "dedicated", Operator: corev1.TolerationOpExists})
	default:
		main.Resources = requests("250m", "256Mi")
		main.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 31080, Protocol: corev1.ProtocolTCP}}
	}
	return pod
}

// hostResources is what a whole agent offers.
func hostResources() offers.Resources {
	return offers.Resources{
		{Name: offers.CPUs, Role: "*", Scalar: hostCPUs},
		{Name: offers.Mem, Role: "*", Scalar: hostMem * 1000},
		{Name: offers.Disk, Role: "*", Scalar: 1_000_000_000},
		{Name: offers.Ports, Role: "*", Ranges: []offers.Range{{Begin: 31000, End: 32000}}},
	}
}
