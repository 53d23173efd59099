package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// reachesAPIServer runs a pod that calls the API server by its service.
func reachesAPIServer(t *testing.T, c *scratch.Cluster) {
	p := create(t, c, pod("caller", "until nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null; do sleep 1; done"))
	awaitPhase(t, c, "caller", corev1.PodSucceeded)
	remove(t, c, p)
}

// These need one flag each.
func TestClusterDoesWhatItsFlagsSay(t *testing.T) {
	dir := stateDir(t)
	c := up(t, dir, "--bind-address=127.0.0.1", "--network-policy=false", "--resources=cpus:2;mem:1024;ports:[30998-31000]")
	t.Run("the API server stays on the address that it is bound to", func(t *testing.T) { staysOnAddress(t, c) })
	t.Run("network policies are not enforced", func(t *testing.T) { enforcesNothing(t, c) })
	t.Run("a port that is for services is given to no pod", func(t *testing.T) { keepsPortsForServices(t, c, dir) })
}

func staysOnAddress(t *testing.T, c *scratch.Cluster) {
	if !strings.HasPrefix(c.REST.Host, "https://127.0.0.1:") {
		t.Errorf("the API server is called at %s", c.REST.Host)
	}
	slices, err := c.Kube.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
	if err != nil || len(slices.Items) != 0 {
		t.Errorf("the service kubernetes leads to %v, %v", slices.Items, err)
	}
}

// resized changes the limits of a running pod.
func resized(t *testing.T, c *scratch.Cluster) {
	p := pod("grows", forever)
	limits := func(cpu string) corev1.ResourceRequirements {
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("32Mi")}
		return corev1.ResourceRequirements{Requests: list, Limits: list}
	}
	p.Spec.Containers[0].Resources = limits("100m")
	create(t, c, p)
	p = awaitPhase(t, c, p.Name, corev1.PodRunning)
	before := p.Status.ContainerStatuses[0].ContainerID
	p.Spec.Containers[0].Resources = limits("200m")
	if _, err := c.Kube.CoreV1().Pods("default").UpdateResize(t.Context(), p.Name, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimPrefix(before, "docker://")
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		got, err := c.Kube.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		container, err := c.Docker.ContainerInspect(ctx, id)
		if err != nil {
			return err
		}
		status := got.Status.ContainerStatuses[0]
		if status.ContainerID != before || status.Resources == nil || status.Resources.Limits.Cpu().MilliValue() != 200 ||
			container.HostConfig.CPUQuota != 20000 {
			return fmt.Errorf("the container was %s and is %+v, with quota %d", before, status, container.HostConfig.CPUQuota)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, c, p)
}

// forksWithoutEnd runs a pod that wants more processes than the cluster's --pod-max-pids.
func forksWithoutEnd(t *testing.T, c *scratch.Cluster) {
	create(t, c, pod("forks", "i=0; while [ $i -lt 400 ]; do /bin/busybox sleep 600 & i=$((i+1)); done"))
	p := awaitPhase(t, c, "forks", corev1.PodFailed)
	if state := p.Status.ContainerStatuses[0].State.Terminated; state == nil || state.ExitCode == 0 {
		t.Errorf("the container is %+v", state)
	}
}

// confined runs a pod that succeeds if the kernel filters its system calls.
func confined(t *testing.T, c *scratch.Cluster) {
	create(t, c, pod("confined", "/bin/busybox grep -q '^Seccomp:.*2' /proc/self/status"))
	awaitPhase(t, c, "confined", corev1.PodSucceeded)
}
