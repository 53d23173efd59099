package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/scratch"
)

// withMemory gives the pod a volume that is a mount on the host.
func withMemory(p *corev1.Pod) *corev1.Pod {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}})
	p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "memory", MountPath: "/memory"})
	return p
}

// ofNodes lists what there is of the cluster's nodes on this machine: containers, networks, rules, mounts.
func ofNodes(ctx context.Context, t *testing.T, c *scratch.Cluster, dir string) (left []string, err error) {
	t.Helper()
	containers, err := c.Docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", api.DockerLabelNode))})
	for _, s := range containers {
		left = append(left, "container "+strings.Join(s.Names, " "))
	}
	networks, err2 := c.Docker.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("label", api.DockerLabelNode))})
	for _, n := range networks {
		left = append(left, "network "+n.Name)
	}
	for _, line := range traces(t) {
		if strings.Contains(line, "KUBE-") || strings.Contains(line, "K8SM") || strings.HasPrefix(line, "mount ") && strings.Contains(line, dir+"/nodes/") {
			left = append(left, line)
		}
	}
	return left, errors.Join(err, err2)
}

func TestKilledMinionThatNoneFollowsLeavesNothing(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		first := up(t, dir)
		var pods []*corev1.Pod
		for _, name := range []string{"orphan-1", "orphan-2"} {
			p := withMemory(pod(name, forever))
			p.Spec.RestartPolicy = corev1.RestartPolicyAlways
			pods = append(pods, create(t, first, p))
			awaitPhase(t, first, p.Name, corev1.PodRunning)
		}
		kinds := func(left []string) (kinds []string) {
			for _, what := range left {
				kind, _, _ := strings.Cut(what, " ")
				kinds = append(kinds, kind)
			}
			slices.Sort(kinds)
			return slices.Compact(kinds)
		}
		before, err := ofNodes(t.Context(), t, first, dir)
		if want := []string{"container", "iptables-save", "mount", "network"}; err != nil || !slices.Equal(slices.DeleteFunc(kinds(before), func(k string) bool { return k == "ip6tables-save" }), want) {
			t.Fatalf("with two pods there are %q, %v", before, err)
		}
		wardenIsSmall(t, first)
		kill(t, first, "up", "minion")
		began := time.Now()
		if err := first.Kill(within(t, 30*time.Second)); err != nil {
			t.Fatal(err)
		}
		err = scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
			left, err := ofNodes(ctx, t, first, dir)
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("%d things are left: %q", len(left), left)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		t.Logf("it was all gone %s after the kill", time.Since(began).Round(time.Second/10))
		err = scratch.Until(t.Context(), 10*time.Second, func(context.Context) error {
			processes, err := first.Processes()
			if slices.ContainsFunc(processes, func(p scratch.Process) bool { return p.Role == "warden" }) {
				err = errors.New("the warden still runs")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		again := comeBack(t, first, dir)
		for _, p := range pods {
			awaitContainers(t, again, p, 2) // they are none the worse for it
		}
	})
}

// wardenIsSmall checks that there is one warden, and what it has of memory that is nobody else's.
func wardenIsSmall(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	processes, err := c.Processes()
	if err != nil {
		t.Fatal(err)
	}
	wardens := slices.DeleteFunc(processes, func(p scratch.Process) bool { return p.Role != "warden" })
	if len(wardens) != 1 {
		t.Fatalf("there are wardens %+v", wardens)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", wardens[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kilobytes); err == nil {
			t.Logf("the warden has %d KB", kilobytes)
			if kilobytes > 6000 {
				t.Error("what it waits in is not the first part of the program: see the package warden")
			}
			return
		}
	}
	t.Errorf("the kernel does not say what the warden has: %s", status)
}

// awaitContainers waits until so many containers of the pod run, its sandbox included.
func awaitContainers(t *testing.T, c *scratch.Cluster, p *corev1.Pod, count int) {
	t.Helper()
	err := scratch.Until(t.Context(), 90*time.Second, func(context.Context) error {
		if running := containers(t, c, p); len(running) != count {
			return fmt.Errorf("of pod %s run %v", p.Name, running)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// gracePods runs a pod that takes two seconds to end in order, and one that never does. The function that it returns tells,
// when the cluster has been stopped, whether the first could.
func gracePods(t *testing.T, c *scratch.Cluster) (check func()) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		"ends-slowly": "trap '/bin/busybox sleep 2; echo in order > /notes/end; exit 0' TERM; while :; do /bin/busybox sleep 1 & wait $!; done",
		"never-ends":  "trap '' TERM; while :; do /bin/busybox sleep 1; done",
	} {
		p := pod(name, script)
		grace := int64(60) // more than Mesos leaves
		p.Spec.TerminationGracePeriodSeconds = &grace
		p.Spec.Volumes = []corev1.Volume{{Name: "notes", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "notes", MountPath: "/notes"}}
		create(t, c, p)
		awaitPhase(t, c, p.Name, corev1.PodRunning)
	}
	return func() {
		t.Helper()
		if end, err := os.ReadFile(filepath.Join(dir, "end")); err != nil || string(end) != "in order\n" {
			t.Errorf("a process that needed 2 s of the executor's 5 s to end was not given them: %q, %v", end, err)
		}
	}
}
