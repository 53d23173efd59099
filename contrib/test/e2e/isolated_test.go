package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// isolation is the --isolation of agents with all isolators, including those for GPUs and container images.
const isolation = "cgroups/all,filesystem/linux,namespaces/pid"

// Neither the agent's container around the executor nor its proxy settings affect pods.
func TestAgentWithAllIsolatorsIsANodeLikeOthers(t *testing.T) {
	dir := stateDir(t)
	registry := startPrivateRegistry(t, dir)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir, append(registry.flags, "--log-format=json", "--isolation="+isolation, `--executor-environment-variables={"http_proxy":"http://127.0.0.1:1","https_proxy":"http://127.0.0.1:1"}`)...)
		t.Run("pods see what the kubelet mounts", func(t *testing.T) { seesVolumes(t, c) })
		t.Run("pods have a network and names", func(t *testing.T) { hasNetwork(t, c) })
		t.Run("images come from a private registry", func(t *testing.T) { registry.pulls(t, c) })
		t.Run("a registry stands in for Docker Hub", func(t *testing.T) { registry.mirrors(t, c) })
		t.Run("a probe that takes too long is ended, and nothing else", func(t *testing.T) { probeIsEnded(t, c) })
		t.Run("the minion is in the container's cgroups but that of devices", func(t *testing.T) { accounted(t, c) })
		t.Run("a minion that is killed is replaced and its containers stay", func(t *testing.T) { minionKilled(t, c) })
	})
	registry.forgotten(t)
	logsAreJSON(t, dir)
}

// Without a Docker Engine a minion cannot leave its container. The node must then say so.
func TestNodeWhoseMinionCannotLeaveItsContainerSaysWhatToDo(t *testing.T) {
	km, mesosPort := program(t, "km"), 20000+freePort(t)%10000
	r := startRoles(t, km, mesosPort, "--isolation=filesystem/linux,namespaces/pid", `--executor-environment-variables={"DOCKER_HOST":"unix:///nowhere.sock"}`)
	r.schedule(km, mesosPort)
	p, err := r.kube.CoreV1().Pods("default").Create(t.Context(), pod("nowhere-to-run", forever), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const says = "without namespaces/pid in its --isolation"
	err = scratch.Until(t.Context(), 90*time.Second, func(ctx context.Context) error {
		events, err := r.kube.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Node"})
		if err != nil {
			return err
		}
		told := slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "AgentFailing" && strings.Contains(e.Message, says) })
		nodes, err := r.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []corev1.NodeCondition
		for _, node := range nodes.Items {
			seen = append(seen, node.Status.Conditions...)
		}
		if told && slices.ContainsFunc(seen, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, says)
		}) {
			return nil
		}
		return fmt.Errorf("an event says it: %t; the conditions are %+v", told, seen)
	})
	if err != nil {
		t.Error(err)
	}
	if p, err = r.kube.CoreV1().Pods("default").Get(t.Context(), p.Name, metav1.GetOptions{}); err != nil || p.Spec.NodeName != "" {
		t.Errorf("the pod is bound to node %q, where it cannot run (%v)", p.Spec.NodeName, err)
	}
}

// runsToItsEnd runs a pod and returns what it has printed.
func runsToItsEnd(t *testing.T, c *scratch.Cluster, p *corev1.Pod) string {
	t.Helper()
	p = create(t, c, p)
	awaitPhase(t, c, p.Name, corev1.PodSucceeded)
	log, err := c.Kube.CoreV1().Pods("default").GetLogs(p.Name, &corev1.PodLogOptions{}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	remove(t, c, p)
	return string(text)
}

func seesVolumes(t *testing.T, c *scratch.Cluster) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "treasure"}, StringData: map[string]string{"gold": "under the oak"}}
	if _, err := c.Kube.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := pod("sees-volumes", `cat /secret/gold; echo; cat /one/gold; echo; head -c 3 /var/run/secrets/kubernetes.io/serviceaccount/token; echo; `+
		`while read -r _ at kind _; do case $at in /memory) echo $kind;; esac; done </proc/mounts; echo written >/memory/sub/note; cat /sub/note`)
	p.Spec.Containers[0].Command = []string{"/bin/busybox", "sh", "-c", strings.NewReplacer("cat ", "/bin/busybox cat ", "head ", "/bin/busybox head ").
		Replace("/bin/busybox mkdir -p /memory/sub; " + p.Spec.Containers[0].Command[3])}
	medium := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: resource.NewQuantity(1<<20, resource.BinarySI)}}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "treasure"}}},
		{Name: "memory", VolumeSource: medium},
	}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "secret", MountPath: "/secret"}, {Name: "secret", MountPath: "/one/gold", SubPath: "gold"},
		{Name: "memory", MountPath: "/memory"}, {Name: "memory", MountPath: "/sub", SubPath: "sub"},
	}
	if got, want := runsToItsEnd(t, c, p), "under the oak\nunder the oak\neyJ\ntmpfs\nwritten\n"; got != want {
		t.Errorf("the pod sees %q, want %q", got, want)
	}
}

func hasNetwork(t *testing.T, c *scratch.Cluster) {
	got := runsToItsEnd(t, c, pod("has-network", `/bin/busybox nslookup kubernetes.default.svc.cluster.local && `+
		`/bin/busybox nc -w 5 kubernetes.default.svc.cluster.local 443 </dev/null && echo reached`))
	if !strings.Contains(got, "reached") {
		t.Errorf("the pod did not reach the API server by its name: %s", got)
	}
}

// probeIsEnded runs a pod whose probe hangs: the command is ended by its PID.
func probeIsEnded(t *testing.T, c *scratch.Cluster) {
	p := pod("slow-probe", forever)
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:   corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/busybox", "sh", "-c", "/bin/busybox sleep 98765; :"}}},
		TimeoutSeconds: 1, PeriodSeconds: 1,
	}
	p = create(t, c, p)
	err := scratch.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		events, err := c.Kube.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.Name})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "Unhealthy" && strings.Contains(e.Message, "timed out") && e.Count >= 3 {
				return nil
			}
		}
		return fmt.Errorf("no probe has timed out three times: %d events", len(events.Items))
	})
	if err != nil {
		t.Error(err)
	}
	// Each probe is ended after a second, so there is one at a time.
	if sleepers := commands(t, "sleep\x0098765"); len(sleepers) > 2 {
		t.Errorf("commands of probes whose time was over go on: %v", sleepers)
	}
	got, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), p.Name, metav1.GetOptions{})
	if err != nil || got.Status.Phase != corev1.PodRunning || got.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod is %+v (%v)", got.Status, err)
	}
	remove(t, c, p)
	if sleepers := commands(t, "sleep\x0098765"); len(sleepers) > 0 {
		t.Errorf("commands of a pod that is gone go on: %v", sleepers)
	}
}

// commands are the processes of this machine with the text in their command line.
func commands(t *testing.T, text string) (pids []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && strings.Contains(string(line), text) {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

// accounted checks that Mesos finds the minion by the cgroups of its container.
func accounted(t *testing.T, c *scratch.Cluster) {
	p := create(t, c, pod("brings-a-minion", forever))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	for _, role := range []string{"minion", "kubelet", "keeper"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pidOf(t, c, role)))
		if err != nil {
			t.Fatal(err)
		}
		for _, controller := range []string{"freezer", "memory", "cpu", "devices"} {
			inside := strings.Contains(string(text), ":"+controller+":/mesos/")
			if want := controller != "devices" || role == "keeper"; inside != want {
				t.Errorf("%s is in the container's cgroup of %s: %t, want %t:\n%s", role, controller, inside, want, text)
			}
		}
	}
	remove(t, c, p)
}

// logsAreJSON checks the logs of a cluster that was started with --log-format=json: of km with its children, and of minions, kubelets
// and kube-proxies, whose first lines may be text.
func logsAreJSON(t *testing.T, dir string) {
	t.Helper()
	seen := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		name := filepath.Base(path)
		if err != nil || !slices.Contains([]string{"km.log", "stderr", "kubelet.log", "proxy.log"}, name) {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		begun := name == "km.log"
		for line := range strings.Lines(string(data)) {
			var record struct{ Msg *string }
			if err := json.Unmarshal([]byte(line), &record); err == nil && record.Msg != nil {
				begun = true
				seen[name]++
			} else if begun && !strings.HasPrefix(line, "the minion was killed, ") { // the keeper says that
				t.Errorf("%s: not JSON: %s", path, line)
			}
		}
		return nil
	})
	if err != nil || len(seen) < 4 {
		t.Errorf("there are lines of JSON in %v, %v", seen, err)
	}
}
