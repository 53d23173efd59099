package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// withMemory gives the pod a volume that is a mount on the host.
func withMemory(p *corev1.Pod) *corev1.Pod {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}})
	p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "memory", MountPath: "/memory"})
	return p
}

// ofNodes lists containers, network devices, rules and mounts of the cluster's nodes on this machine.
func ofNodes(ctx context.Context, t *testing.T, c *scratch.Cluster, dir string) (left []string, err error) {
	t.Helper()
	containers, err := c.Docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", api.DockerLabelNode))})
	for _, s := range containers {
		left = append(left, "container "+strings.Join(s.Names, " "))
	}
	for _, line := range traces(t) {
		if strings.Contains(line, "KUBE-") || strings.Contains(line, "K8SM") || strings.HasPrefix(line, "ip km") || strings.HasPrefix(line, "mount ") && strings.Contains(line, dir+"/nodes/") {
			left = append(left, line)
		}
	}
	return left, err
}

// running are the processes of the cluster that have the role.
func running(t *testing.T, c *scratch.Cluster, role string) (pids []int) {
	t.Helper()
	processes, err := c.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if p.Role == role {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// awaitNone waits until the cluster has no process of the role.
func awaitNone(t *testing.T, c *scratch.Cluster, role string, limit time.Duration) {
	t.Helper()
	err := scratch.Until(t.Context(), limit, func(context.Context) error {
		if pids := running(t, c, role); len(pids) > 0 {
			return fmt.Errorf("%s %v still runs", role, pids)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func minionKilled(t *testing.T, c *scratch.Cluster) {
	var pods []*corev1.Pod
	started := map[string]string{}
	for _, name := range []string{"minion-killed-1", "minion-killed-2"} {
		p := pod(name, forever)
		second := p.Spec.Containers[0]
		second.Name = "second"
		p.Spec.Containers = append(p.Spec.Containers, second)
		p = create(t, c, p)
		awaitPhase(t, c, p.Name, corev1.PodRunning)
		awaitTask(t, c, p, "TASK_RUNNING")
		pods = append(pods, p)
		maps.Copy(started, containers(t, c, p))
	}
	if len(started) != 6 {
		t.Fatalf("two pods of two containers have %v", started)
	}
	kill(t, c, "minion")
	now := map[string]string{}
	for _, p := range pods {
		err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
			got, err := c.Kube.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{})
			if err == nil && got.Annotations[api.AnnotationTaskID] != string(api.NewTaskID(p.UID, 2)) {
				err = fmt.Errorf("the task of pod %s is %s", p.Name, got.Annotations[api.AnnotationTaskID])
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		awaitTask(t, c, p, "TASK_RUNNING")
		maps.Copy(now, containers(t, c, p))
	}
	if diff := cmp.Diff(started, now); diff != "" {
		t.Errorf("the containers are others: %s", diff)
	}
	err := scratch.Until(t.Context(), 5*time.Second, func(context.Context) error {
		if wardens := running(t, c, "warden"); len(wardens) != 1 { // the second one goes as soon as it has seen the first
			return fmt.Errorf("the node has wardens %v", wardens)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, p := range pods {
		remove(t, c, p)
	}
}

func TestMinionThatLeavesOrIsKilledLeavesNothing(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir, "--minion-idle-timeout=3s", "--minion-cleanup-delay=8s")
		t.Run("without a task it leaves, the node stays ready, and the next pod brings it back", func(t *testing.T) { suicide(t, c, dir) })
		t.Run("killed, and none follows", func(t *testing.T) { killedForGood(t, c, dir) })
	})
}

// suicide runs a pod that ends, and another one after the minion's idle timeout.
func suicide(t *testing.T, c *scratch.Cluster, dir string) {
	first := create(t, c, pod("ends", "exit 0"))
	got := awaitPhase(t, c, first.Name, corev1.PodSucceeded)
	first.Spec.NodeName = got.Spec.NodeName
	since := readySince(t, c, first.Spec.NodeName)
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitNone(t, c, "minion", 30*time.Second)
	awaitNone(t, c, "warden", 5*time.Second)
	if left, err := ofNodes(t.Context(), t, c, dir); err != nil || len(left) > 0 {
		t.Errorf("it left %q, %v", left, err)
	}
	gone := time.Now()
	err := scratch.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		lease, err := c.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, first.Spec.NodeName, metav1.GetOptions{})
		if err == nil && !lease.Spec.RenewTime.After(gone) {
			err = fmt.Errorf("the node's lease was not renewed since %s", lease.Spec.RenewTime)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if now := readySince(t, c, first.Spec.NodeName); !now.Equal(&since) {
		t.Errorf("the node was not ready all along, but since %s, and before since %s", now, since)
	}
	next := create(t, c, pod("brings-it-back", forever))
	awaitPhase(t, c, next.Name, corev1.PodRunning)
	remove(t, c, next)
}

// readySince tells since when the node is ready, and fails the test if it is not.
func readySince(t *testing.T, c *scratch.Cluster, name string) metav1.Time {
	t.Helper()
	node, err := c.Kube.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !api.NodeReady(node) {
		t.Fatalf("the node is not ready: %+v", node.Status.Conditions)
	}
	return api.ReadyCondition(node).LastTransitionTime
}

// killedForGood kills the minion together with all that could bring another.
func killedForGood(t *testing.T, c *scratch.Cluster, dir string) {
	var pods []*corev1.Pod
	for _, name := range []string{"orphan-1", "orphan-2"} {
		p := withMemory(pod(name, forever))
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
		pods = append(pods, create(t, c, p))
		awaitPhase(t, c, p.Name, corev1.PodRunning)
	}
	before, err := ofNodes(t.Context(), t, c, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"container ", "ip km", "iptables-save ", "mount "} {
		if !slices.ContainsFunc(before, func(what string) bool { return strings.HasPrefix(what, kind) }) {
			t.Errorf("with two pods there is no %s: the test sees nothing", kind)
		}
	}
	wardenIsSmall(t, c)
	kill(t, c, "up", "minion")
	began := time.Now()
	if err := c.Kill(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	err = scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		left, err := ofNodes(ctx, t, c, dir)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d things are left: %q", len(left), left)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("it was all gone %s after the kill", time.Since(began).Round(time.Second/10))
	awaitNone(t, c, "warden", 10*time.Second)
	again := comeBack(t, c, dir)
	for _, p := range pods {
		awaitContainers(t, again, p, 2) // they are none the worse for it
	}
}

// wardenIsSmall checks that one warden runs, and its private memory.
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
			if kilobytes > 2000 {
				t.Error("it does not wait in its small program: see the package warden")
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

// status is what the master has of a task's last update (https://mesos.apache.org/documentation/latest/operator-http-api/#get_tasks).
type status struct {
	State   string `json:"state"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Healthy *bool  `json:"healthy"`
}

// statuses are all that the master still has of the pod's task.
func statuses(ctx context.Context, c *scratch.Cluster, p *corev1.Pod) (all []status, err error) {
	response, err := c.Ask(ctx, http.MethodPost, "/api/v1", `{"type":"GET_TASKS"}`)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	type task struct {
		ID       struct{ Value string } `json:"task_id"`
		Statuses []status               `json:"statuses"`
	}
	var answer struct {
		Tasks struct {
			Tasks     []task `json:"tasks"`
			Completed []task `json:"completed_tasks"`
		} `json:"get_tasks"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	for _, t := range append(answer.Tasks.Tasks, answer.Tasks.Completed...) {
		if strings.HasPrefix(t.ID.Value, string(p.UID)+".") {
			all = append(all, t.Statuses...)
		}
	}
	return all, nil
}

// awaitStatus waits until the master was told, in the state, a message with all the words, the reason, and the health
// (which may be nil).
func awaitStatus(t *testing.T, c *scratch.Cluster, p *corev1.Pod, want status) {
	t.Helper()
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		all, err := statuses(ctx, c, p)
		for _, s := range all {
			if s.State == want.State && strings.Contains(s.Message, want.Message) && s.Reason == want.Reason &&
				(s.Healthy == nil) == (want.Healthy == nil) && (s.Healthy == nil || *s.Healthy == *want.Healthy) {
				t.Logf("%s: %s %s", p.Name, s.State, s.Message)
				return nil
			}
		}
		got, _ := json.Marshal(all)
		return fmt.Errorf("the master was told of pod %s %s, want %+v: %w", p.Name, got, want, err)
	})
	if err != nil {
		t.Error(err)
	}
}

func troubles(t *testing.T, c *scratch.Cluster) {
	yes, no := true, false
	const health = "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED"
	image := pod("no-image", forever)
	image.Spec.Containers[0].Image = "k8sm.io/test/missing:1"
	configured := pod("no-config", forever)
	configured.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "wanted"}}}}
	memory := pod("too-much", "/bin/busybox tail /dev/zero")
	memory.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	sick := pod("sick", forever)
	sick.Spec.RestartPolicy = corev1.RestartPolicyAlways
	sick.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"/bin/busybox", "false"}}}}
	for _, p := range []**corev1.Pod{&image, &configured, &memory, &sick} {
		*p = create(t, c, *p)
	}
	awaitStatus(t, c, image, status{"TASK_STARTING", "container main: image k8sm.io/test/missing:1 is not on the node", "REASON_CONTAINER_LAUNCH_FAILED", nil})
	awaitStatus(t, c, configured, status{"TASK_STARTING", `configmap "wanted" not found`, "REASON_CONTAINER_LAUNCH_FAILED", nil})
	awaitStatus(t, c, memory, status{"TASK_FAILED", "used more memory than its limit of 32Mi", "REASON_CONTAINER_LIMITATION_MEMORY", nil})
	awaitStatus(t, c, sick, status{"TASK_RUNNING", "if its liveness probe failed", health, &no})

	if _, err := c.Kube.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "wanted"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, c, configured, status{"TASK_RUNNING", "", health, &yes})
	for _, p := range []*corev1.Pod{image, configured, sick} {
		remove(t, c, p)
	}
	awaitStatus(t, c, sick, status{"TASK_KILLED", "the pod was deleted", "", nil})
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), memory.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
