package mesos_test

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func (c *cluster) createPodOfPriority(name, cpus string, priority int32) {
	c.t.Helper()
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: v1.PodSpec{Priority: &priority, Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpus)},
		}}}},
	}
	if _, err := c.client.CoreV1().Pods("default").Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// TestPodThatPreemptsGetsWhatItsVictimHad also after the scheduler is restarted while the victim ends.
func TestPodThatPreemptsGetsWhatItsVictimHad(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %t", restart), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 1) // 4 cpus, of which the executor has 0.1
			stop := c.schedule()
			c.createPodOfPriority("important", "1500m", 10)
			c.createPodOfPriority("low", "1500m", 0)
			c.wait("important", "a node", bound)
			c.wait("low", "a node", bound)
			c.createPodOfPriority("later", "1", 0) // would fit into what is freed, if that was not promised
			c.createPodOfPriority("high", "2", 1000)
			node := c.wait("high", "a promise", func(pod *v1.Pod) bool { return pod.Status.NominatedNodeName != "" }).Status.NominatedNodeName
			if restart {
				stop()
				c.schedule()
			}
			if pod := c.wait("high", "a node", bound); pod.Spec.NodeName != node {
				t.Errorf("it was promised %s and runs on %s", node, pod.Spec.NodeName)
			}
			if _, err := c.client.CoreV1().Pods("default").Get(t.Context(), "low", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("the victim: %v", err)
			}
			c.wait("important", "its first task still", hasTask("uid-important.1"))
			if pod := c.wait("later", "to be told why it waits", func(pod *v1.Pod) bool { return len(pod.Status.Conditions) > 0 }); bound(pod) {
				t.Error("a pod of lower priority took what was freed")
			}
		})
	}
}
