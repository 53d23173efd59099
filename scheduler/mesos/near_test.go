package mesos_test

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// createReplica creates a pod that may not share a host with another one of its kind.
func (c *cluster) createReplica(name string) {
	c.t.Helper()
	kind := map[string]string{"app": "web"}
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: kind},
		Spec: v1.PodSpec{
			Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")},
			}}},
			Affinity: &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
					{LabelSelector: &metav1.LabelSelector{MatchLabels: kind}, TopologyKey: v1.LabelHostname},
				},
			}},
		},
	}
	if _, err := c.client.CoreV1().Pods("default").Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func TestReplicasThatMayNotShareAHostGetAgentsOfTheirOwnAndOneMoreWaits(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.schedule()
	for _, name := range []string{"one", "two", "three"} {
		c.createReplica(name)
	}
	var waiting *v1.Pod
	nodes := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		pod := c.wait(name, "a node or a reason", func(pod *v1.Pod) bool { return bound(pod) || len(pod.Status.Conditions) > 0 })
		if !bound(pod) {
			waiting = pod
			continue
		}
		nodes[pod.Spec.NodeName] = name
	}
	if len(nodes) != 2 || waiting == nil {
		t.Fatalf("replicas stand on %v", nodes)
	}
	if message := waiting.Status.Conditions[0].Message; !strings.Contains(message, "didn't match pod anti-affinity rules (kubernetes.io/hostname)") {
		t.Errorf("it waits, because %s", message)
	}
	for node, name := range nodes {
		if err := c.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if pod := c.wait(waiting.Name, "the place that became free", bound); pod.Spec.NodeName != node {
			t.Errorf("it went to %s", pod.Spec.NodeName)
		}
		break
	}
}
