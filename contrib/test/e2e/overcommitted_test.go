package e2e

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// TestAgentWithMoreCpusThanItsMachineMakesNoStormOfRejectedPods: Mesos offers twice what the machine has.
func TestAgentWithMoreCpusThanItsMachineMakesNoStormOfRejectedPods(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		cores := runtime.NumCPU()
		c := up(t, dir, fmt.Sprintf("--resources=cpus:%d;mem:8192;disk:10000;ports:[31000-32000]", 2*cores), "--metrics=false")
		fit := 5 * cores // of those with 200m
		deployment := deploymentOf("many", fit+13)
		if _, err := c.Kube.AppsV1().Deployments("default").Create(t.Context(), deployment, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		seen := func(ctx context.Context) (running, failed, waiting int, err error) {
			pods, err := c.Kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=many"})
			if err != nil {
				return 0, 0, 0, err
			}
			for _, p := range pods.Items {
				switch {
				case p.Status.Phase == corev1.PodRunning:
					running++
				case p.Status.Phase == corev1.PodFailed:
					failed++
				case p.Spec.NodeName == "" && saysInsufficient(&p):
					waiting++
				}
			}
			return running, failed, waiting, nil
		}
		err := scratch.Until(t.Context(), 3*time.Minute, func(ctx context.Context) error {
			running, failed, waiting, err := seen(ctx)
			if err == nil && (running != fit || waiting != 13) {
				err = fmt.Errorf("%d pods run, want %d; %d wait for want of cpus, want 13; %d have failed", running, fit, waiting, failed)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		_, before, _, err := seen(t.Context())
		if err != nil || before > fit+13 {
			t.Errorf("%d pods were rejected before it was known what the kubelet admits, %v", before, err)
		}
		t.Logf("%d pods run, 13 wait, %d were rejected", fit, before)
		awaitNodeEvent(t, c, "AgentOvercommitted", fmt.Sprintf("kubelet admits %d", cores))
		select { // a storm makes hundreds in this time
		case <-time.After(20 * time.Second):
		case <-t.Context().Done():
		}
		if running, after, waiting, err := seen(t.Context()); err != nil || after > before+2 || running != fit || waiting != 13 {
			t.Errorf("later %d run, %d wait and %d have failed, of which %d had before; %v", running, waiting, after, before, err)
		}
		t.Run("without --metrics there is nothing of it", func(t *testing.T) { nothingOfMetricsIsThere(t, c, dir) })
	})
}

// deploymentOf is a Deployment of pods that request 200m.
func deploymentOf(name string, replicas int) *appsv1.Deployment {
	count, labels := int32(replicas), map[string]string{"app": name}
	template := pod(name, forever)
	template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
	}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template.Spec},
	}}
}

func saysInsufficient(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(condition corev1.PodCondition) bool {
		return condition.Type == corev1.PodScheduled && strings.Contains(condition.Message, "Insufficient cpu")
	})
}

// awaitNodeEvent waits until an event of a node has the reason and says this.
func awaitNodeEvent(t *testing.T, c *scratch.Cluster, reason, words string) {
	t.Helper()
	err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		events, err := c.Kube.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,reason=" + reason})
		if err != nil {
			return err
		}
		var told []string
		for _, e := range events.Items {
			told = append(told, e.Message)
		}
		if all := strings.Join(told, "\n"); !strings.Contains(all, words) {
			return fmt.Errorf("no event %s says %q: %q", reason, words, all)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
