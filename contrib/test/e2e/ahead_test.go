package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// A node makes the sandboxes of pods before the kubelet asks for them: just as the kubelet wants them, and it leaves none behind.
func TestSandboxesAreMadeAhead(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir)
		create(t, c, pod("first", forever)) // starts the kubelet
		awaitPhase(t, c, "first", corev1.PodRunning)
		t.Run("the kubelet takes them", func(t *testing.T) { takesSandboxes(t, c) })
		t.Run("a pod that is deleted while it waits for a volume leaves none", func(t *testing.T) {
			leave(t, c, waitsForVolume(t, c, "waits-in-vain"))
		})
		t.Run("a minion that is killed leaves none that is of no use", func(t *testing.T) {
			waits, vain := waitsForVolume(t, c, "waits-longer"), waitsForVolume(t, c, "waits-until-deleted")
			kill(t, c, "minion")
			leave(t, c, vain)
			giveVolume(t, c, waits)
			awaitPhase(t, c, waits.Name, corev1.PodRunning)
			awaitContainers(t, c, waits, 2)
		})
	})
}

// takesSandboxes runs pods with all that a sandbox depends on. A sandbox that the kubelet did not want would have been made twice.
func takesSandboxes(t *testing.T, c *scratch.Cluster) {
	user, yes := int64(1000), true
	for name, change := range map[string]func(*corev1.Pod){
		"plain":       func(*corev1.Pod) {},
		"best-effort": func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} },
		"guaranteed": func(p *corev1.Pod) {
			all := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: all, Limits: all}
		},
		"host": func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true },
		"context": func(p *corev1.Pod) {
			p.Labels, p.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
			p.Spec.ShareProcessNamespace = &yes
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &user,
				Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}}}
		},
		"named": func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "web", "sub" },
		"long-" + strings.Repeat("x", 57) + "-" + strings.Repeat("y", 20): func(*corev1.Pod) {},
	} {
		p := pod(name, forever)
		change(p)
		p = create(t, c, p)
		awaitPhase(t, c, name, corev1.PodRunning)
		ahead, created := 0, 0
		for _, r := range timelineOf(t, c, name).Rows {
			if r.What == podtrace.Ahead && !r.Failed {
				ahead++
			}
			if r.Who == podtrace.Engine && r.What == "create" {
				created++
			}
		}
		if ahead != 1 || created != 1+len(p.Spec.Containers) {
			t.Errorf("pod %s: %d sandboxes were made ahead, %d containers were created", name, ahead, created)
		}
		remove(t, c, p)
	}
}

// timelineOf asks km where the time of a pod that runs went.
func timelineOf(t *testing.T, c *scratch.Cluster, name string) podtrace.Timeline {
	t.Helper()
	var told struct {
		Timeline podtrace.Timeline `json:"timeline"`
	}
	err := scratch.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		text, err := c.KM(ctx, "trace", "pod", name, "-o", "json").Output()
		if err == nil {
			err = json.Unmarshal(text, &told)
		}
		if err == nil && told.Timeline.Running == 0 { // the minion hears of it a little later than this test
			err = fmt.Errorf("the timeline does not say when the pod ran: %s", text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return told.Timeline
}

// waitsForVolume creates a pod whose volume is not there, and returns when its sandbox runs all the same, which the kubelet does not know.
func waitsForVolume(t *testing.T, c *scratch.Cluster, name string) *corev1.Pod {
	t.Helper()
	p := pod(name, forever)
	p.Spec.Volumes = []corev1.Volume{{Name: "later", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "later", MountPath: "/later"}}
	p = create(t, c, p)
	awaitContainers(t, c, p, 1)
	return p
}

// leave deletes a pod that waits, and returns when nothing of it runs.
func leave(t *testing.T, c *scratch.Cluster, p *corev1.Pod) {
	t.Helper()
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitContainers(t, c, p, 0)
	awaitTask(t, c, p, "")
}

func giveVolume(t *testing.T, c *scratch.Cluster, p *corev1.Pod) {
	t.Helper()
	_, err := c.Kube.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: p.Name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}
