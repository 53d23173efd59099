// Package e2e tests whole clusters: the km program, a real Docker Engine, API server, kubelet, kube-proxy and kernel, and the local
// Mesos. It imports no part of the cluster. It also has the test of the import rules.
//
// It tests ./km of the source tree, which `make build` builds.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/cis"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// root is the source tree.
const root = "../../.."

// program returns the path of something that `make build` made.
func program(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run `make build` first", err)
	}
	return path
}

// stateDir returns a directory with a short path, for Unix sockets. The test fails if it cannot be removed at the end, because a mount
// or a process is then left too.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "k8sm-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("the state directory cannot be removed: %v", err)
		}
	})
	return dir
}

// testWriter passes a cluster's output to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// within gives a step of a test its time limit.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// up starts a cluster, and stops it when the test ends.
func up(t *testing.T, dir string, flags ...string) *scratch.Cluster {
	t.Helper()
	c, err := scratch.Start(within(t, 3*time.Minute), scratch.Config{KM: program(t, "km"), Dir: dir, Flags: flags, Out: testWriter{t}})
	t.Cleanup(func() { stop(t, c, dir) })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Usable(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v; run `make deps` first", err)
	}
	for _, docker := range engines(c) {
		if err := scratch.ImportImage(within(t, time.Minute), docker, image, "/bin/busybox", busybox); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// engines are the Docker Engines that the pods run in.
func engines(c *scratch.Cluster) []*client.Client {
	if len(c.Engines) == 0 {
		return []*client.Client{c.Docker}
	}
	return slices.Collect(maps.Values(c.Engines))
}

// comeBack restarts a stopped or killed cluster, and stops it when the test ends.
func comeBack(t *testing.T, c *scratch.Cluster, dir string) *scratch.Cluster {
	t.Helper()
	again, err := c.Again(within(t, 3*time.Minute))
	t.Cleanup(func() { stop(t, again, dir) })
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// stop ends a cluster as Ctrl-C does. After a test that failed it shows the cluster's log.
func stop(t *testing.T, c *scratch.Cluster, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.Stop(ctx); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the cluster did not stop cleanly: %v", err)
	}
	if t.Failed() {
		log, _ := os.ReadFile(filepath.Join(dir, "log", "km.log"))
		t.Logf("the end of the cluster's log:\n%s", log[max(0, len(log)-20000):])
	}
}

// image is what the tests' pods run: a static busybox.
const image = "k8sm.io/test/busybox:latest"

// pod returns a pod that runs a shell command by busybox.
func pod(name, script string) *corev1.Pod {
	grace := int64(2)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			RestartPolicy:                 corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullNever,
				Command: []string{"/bin/busybox", "sh", "-c", script},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
				}},
			}},
		},
	}
}

// forever is a script that ends at once when asked to.
const forever = "trap 'exit 0' TERM; while :; do /bin/busybox sleep 1 & wait $!; done"

func create(t *testing.T, c *scratch.Cluster, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	p, err := c.Kube.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// awaitPhase waits until the pod is in the phase.
func awaitPhase(t *testing.T, c *scratch.Cluster, name string, phase corev1.PodPhase) *corev1.Pod {
	t.Helper()
	var p *corev1.Pod
	err := scratch.Until(t.Context(), 90*time.Second, func(ctx context.Context) (err error) {
		if p, err = c.Kube.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		if p.Status.Phase != phase {
			return fmt.Errorf("pod %s is %s, want %s: %s %+v", name, p.Status.Phase, phase, p.Status.Message, p.Status.ContainerStatuses)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// awaitTask waits until the master reports this state of the pod's task; "" waits until it has none.
func awaitTask(t *testing.T, c *scratch.Cluster, p *corev1.Pod, want string) {
	t.Helper()
	err := scratch.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		state, err := c.State(ctx)
		if err != nil {
			return err
		}
		got := ""
		for _, task := range state.Tasks() {
			if strings.HasPrefix(task.ID, string(p.UID)+".") {
				got = task.State
			}
		}
		if got != want {
			return fmt.Errorf("the task of pod %s is %q, want %q", p.Name, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// containers are those of the pod that run, sandbox included, with the time they started.
func containers(t *testing.T, c *scratch.Cluster, p *corev1.Pod) map[string]string {
	t.Helper()
	started := map[string]string{}
	for _, docker := range engines(c) {
		list, err := docker.ContainerList(t.Context(), container.ListOptions{
			Filters: filters.NewArgs(filters.Arg("label", "io.kubernetes.pod.uid="+string(p.UID)))})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			info, err := docker.ContainerInspect(t.Context(), s.ID)
			if err != nil {
				t.Fatal(err)
			}
			started[s.ID] = info.State.StartedAt
		}
	}
	return started
}

func TestDemoTakesOnePodThroughTheWholeChain(t *testing.T) {
	demo := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-trimpath", "-o", demo, "./contrib/test/demo")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest, err := filepath.Abs(filepath.Join(root, "contrib/examples/web.json"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, 6*time.Minute), demo, "--km", program(t, "km"), "--image", program(t, "build/web"), "--pod", manifest)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Minute
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{"201 Created", "TASK_RUNNING", "/registry/minions/", "Hello from pod web", "GET /\n", "no container, no task of the pod"} {
		if !strings.Contains(string(out), shown) {
			t.Errorf("the demo did not show %q", shown)
		}
	}
}

// The tests below share one cluster, because starting one is slow.
func TestCluster(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		controllerManager := freePort(t)
		c := up(t, dir, "--config=testdata/cluster.yaml", fmt.Sprintf("--kube-controller-manager-arg=secure-port=%d", controllerManager))
		t.Run("invalid JSON gets the API's 400", func(t *testing.T) { invalidJSON(t, c) })
		t.Run("a pod that can never fit stays pending and says why", func(t *testing.T) { neverFits(t, c) })
		t.Run("a pod tells what it waited for", func(t *testing.T) { podIsTraced(t, c) })
		t.Run("a pod that succeeds ends its task", func(t *testing.T) { succeeds(t, c) })
		t.Run("a pod that fails ends its task", func(t *testing.T) { fails(t, c) })
		t.Run("a pod that is deleted while it runs is gone whole", func(t *testing.T) { deleted(t, c) })
		t.Run("pods that wait for room run when there is room", func(t *testing.T) { waitsForRoom(t, c) })
		t.Run("a pod that forks without end hits its limit", func(t *testing.T) { forksWithoutEnd(t, c) })
		t.Run("a pod has a seccomp profile by default", func(t *testing.T) { confined(t, c) })
		t.Run("it passes the CIS benchmark", func(t *testing.T) { passesCIS(t, c, dir, controllerManager) })
		t.Run("a host port is reached and is the task's resource", func(t *testing.T) { hostPort(t, c) })
		t.Run("a minion that is killed is replaced and its containers stay", func(t *testing.T) { minionKilled(t, c) })
		t.Run("the task says what is wrong with its pod", func(t *testing.T) { troubles(t, c) })
		t.Run("a local user can neither use Mesos nor find its secret", func(t *testing.T) { strangerAtMesos(t, c, dir) })
		t.Run("a second km up in the same directory is refused", func(t *testing.T) { secondUp(t, c) })
		t.Run("a scheduler without a master says so and ends", func(t *testing.T) { unreachableMaster(t, c) })
		t.Run("the scheduler's status is for those who may see it", func(t *testing.T) { statusIsForThoseWhoMaySeeIt(t, c, dir) })
		t.Run("no secret is in a command line, an environment or a log", func(t *testing.T) { secretsStaySecret(t, c, dir) })
		t.Run("metrics are kept, and answered to those who may ask", func(t *testing.T) { metricsAreKept(t, c, dir) })
		t.Run("kubectl top shows nodes and pods", func(t *testing.T) { topShowsUsage(t, c) })
		t.Run("a browser shows the cluster and changes it", func(t *testing.T) { browserShowsTheCluster(t, c) })
		t.Run("what a pod wrote can be read when it is gone", func(t *testing.T) { logsOutliveTheirPod(t, c) })
		t.Run("Mesos is seen by those who may see it", func(t *testing.T) { mesosIsSeenByThoseWhoMay(t, c) })
		t.Run("an operator sees offers, tasks and the queue", func(t *testing.T) { operatorSeesTheScheduler(t, c) })
		t.Run("releases are rolled out, undone and tried by a canary", func(t *testing.T) { releases(t, c) })
		t.Run("one pod becomes three under load, and one again", func(t *testing.T) { autoscaled(t, c) })
		t.Run("dashboards show the cluster, and no alert fires", func(t *testing.T) { dashboardsShowTheCluster(t, c) })
	})
}

// passesCIS checks the cluster against the CIS benchmark. Three items are about workloads, and the test's own do not keep them.
func passesCIS(t *testing.T, c *scratch.Cluster, dir string, controllerManager int) {
	findings, err := cis.Check(within(t, time.Minute), cis.Target{
		Dir: statedir.Dir(dir), REST: c.REST, Kube: c.Kube, ControllerManager: fmt.Sprintf("127.0.0.1:%d", controllerManager), Status: c.StatusAddress(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range cis.Print(testWriter{t}, findings) {
		if !slices.Contains([]string{"5.3.2", "5.4.1", "5.7.4"}, bad.ID) {
			t.Error(bad)
		}
	}
}

func invalidJSON(t *testing.T, c *scratch.Cluster) {
	err := c.Kube.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").
		SetHeader("Content-Type", "application/json").Body([]byte(`{"kind":"Pod",`)).Do(t.Context()).Error()
	if !apierrors.IsBadRequest(err) {
		t.Errorf("the API answered %v", err)
	}
}

func neverFits(t *testing.T, c *scratch.Cluster) {
	big := pod("too-big", forever)
	big.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100")
	port := pod("port-80", forever)
	port.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
	elsewhere := pod("elsewhere", forever)
	elsewhere.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "no-such-node"}
	for p, words := range map[*corev1.Pod][]string{
		big: {"Insufficient cpu", "100", "1.75"}, port: {"free ports", "80"}, elsewhere: {"kubernetes.io/hostname", "no-such-node"},
	} {
		create(t, c, p)
		err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
			events, err := c.Kube.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.Name})
			if err != nil {
				return err
			}
			var messages []string
			for _, e := range events.Items {
				if e.Reason == "FailedScheduling" && containsAll(e.Message, words) {
					return nil
				}
				messages = append(messages, e.Reason+": "+e.Message)
			}
			return fmt.Errorf("no FailedScheduling event of %s says all of %q: %q", p.Name, words, messages)
		})
		if err != nil {
			t.Error(err)
		}
		got, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), p.Name, metav1.GetOptions{})
		if err != nil || got.Status.Phase != corev1.PodPending || got.Spec.NodeName != "" {
			t.Errorf("pod %s is %s on node %q, err %v", p.Name, got.Status.Phase, got.Spec.NodeName, err)
		}
		if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

func succeeds(t *testing.T, c *scratch.Cluster) {
	p := create(t, c, pod("succeeds", "echo done"))
	awaitPhase(t, c, p.Name, corev1.PodSucceeded)
	awaitTask(t, c, p, "")
	log, err := c.Kube.CoreV1().Pods("default").GetLogs(p.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil || string(log) != "done\n" {
		t.Errorf("its log is %q, %v", log, err)
	}
}

func fails(t *testing.T, c *scratch.Cluster) {
	p := create(t, c, pod("fails", "exit 3"))
	got := awaitPhase(t, c, p.Name, corev1.PodFailed)
	if code := got.Status.ContainerStatuses[0].State.Terminated.ExitCode; code != 3 {
		t.Errorf("exit code %d", code)
	}
	awaitTask(t, c, p, "")
}

// remove deletes a pod and waits until its containers and its task are gone.
func remove(t *testing.T, c *scratch.Cluster, p *corev1.Pod) {
	t.Helper()
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitTask(t, c, p, "")
	if left := containers(t, c, p); len(left) > 0 {
		t.Errorf("containers of pod %s are left: %v", p.Name, left)
	}
}

func deleted(t *testing.T, c *scratch.Cluster) {
	p := create(t, c, pod("deleted", forever))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	awaitTask(t, c, p, "TASK_RUNNING")
	begin := time.Now()
	remove(t, c, p)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v to remove a pod with a grace period of 2 s", took)
	}
}

func waitsForRoom(t *testing.T, c *scratch.Cluster) {
	var pods []*corev1.Pod
	for _, name := range []string{"room-1", "room-2"} {
		p := pod(name, forever)
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("1200m")
		pods = append(pods, create(t, c, p))
		if name == "room-1" {
			awaitPhase(t, c, name, corev1.PodRunning)
		}
	}
	got, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), "room-2", metav1.GetOptions{})
	if err != nil || got.Spec.NodeName != "" {
		t.Errorf("room-2 is on node %q while there is no room: %v", got.Spec.NodeName, err)
	}
	remove(t, c, pods[0])
	awaitPhase(t, c, "room-2", corev1.PodRunning)
	remove(t, c, pods[1])
}

func hostPort(t *testing.T, c *scratch.Cluster) {
	p := pod("host-port", "echo hello | /bin/busybox nc -l -p 7777; "+forever)
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 7777, HostPort: 31005}}
	p = create(t, c, p)
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	err := scratch.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:31005")
		if err != nil {
			return err
		}
		defer conn.Close()
		answer := make([]byte, 16)
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		n, err := conn.Read(answer)
		if string(answer[:n]) != "hello\n" {
			return fmt.Errorf("read %q, %w", answer[:n], err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("the host port was not reached: %v", err)
	}
	remove(t, c, p)
}

// kill ends all processes of the cluster that have one of the roles, by SIGKILL.
func kill(t *testing.T, c *scratch.Cluster, roles ...string) {
	t.Helper()
	processes, err := c.Processes()
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, p := range processes {
		if !slices.Contains(roles, p.Role) {
			continue
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err == nil {
			killed++
		}
	}
	if killed == 0 {
		t.Fatalf("the cluster has no process %v: %+v", roles, processes)
	}
}

func secondUp(t *testing.T, c *scratch.Cluster) {
	out, err := c.KM(within(t, 30*time.Second), "up").CombinedOutput()
	if err == nil || strings.Count(strings.TrimSpace(string(out)), "\n") > 0 || !strings.Contains(string(out), fmt.Sprint(c.PID())) {
		t.Errorf("err %v, output:\n%s", err, out)
	}
}

func unreachableMaster(t *testing.T, c *scratch.Cluster) {
	// Another name, because the cluster's own scheduler leads under the default one.
	cmd := c.KM(within(t, 30*time.Second), "scheduler", "--cluster-name=other", "--status-address=127.0.0.1:0", "--mesos-master=127.0.0.1:1", "--mesos-connect-timeout=1s")
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := lines[len(lines)-1]
	if err == nil || !strings.HasPrefix(last, "km: ") || !containsAll(last, []string{"127.0.0.1:1", "--mesos-master"}) {
		t.Errorf("err %v, output:\n%s", err, out)
	}
}

// statusAnswers requests the scheduler's status with the client certificate in a kubeconfig or, with "", without one.
func statusAnswers(t *testing.T, c *scratch.Cluster, kubeconfig, path string) (code int, body string) {
	t.Helper()
	who := rest.CopyConfig(c.REST)
	if kubeconfig == "" {
		who = rest.AnonymousClientConfig(who)
	} else {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		who.TLSClientConfig = config.TLSClientConfig
	}
	code, body, err := answers(who, "https://"+c.StatusAddress()+path)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

// answers requests a URL with the identity and the CA of a configuration.
func answers(who *rest.Config, url string) (code int, body string, err error) {
	client, err := rest.HTTPClientFor(who)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func statusIsForThoseWhoMaySeeIt(t *testing.T, c *scratch.Cluster, dir string) {
	for _, test := range []struct {
		kubeconfig, path string
		code             int
		says             []string
	}{
		{"", "/healthz", http.StatusOK, []string{"ok"}},
		{"", "/metrics", http.StatusUnauthorized, nil},
		{"", "/debug/tasks", http.StatusUnauthorized, nil},
		{"controller-manager.kubeconfig", "/metrics", http.StatusForbidden, []string{"kube-controller-manager"}},
		{"scheduler.kubeconfig", "/debug/queue", http.StatusOK, []string{"["}},
		{"admin.kubeconfig", "/metrics", http.StatusOK,
			[]string{`k8sm_scheduler_agents_alive 1`, `k8sm_scheduler_offers_ended_total{end="launched"}`}},
	} {
		kubeconfig := test.kubeconfig
		if kubeconfig != "" {
			kubeconfig = filepath.Join(dir, kubeconfig)
		}
		code, body := statusAnswers(t, c, kubeconfig, test.path)
		if code != test.code || !containsAll(body, test.says) {
			t.Errorf("%s as %q: %d, want %d and %q:\n%s", test.path, test.kubeconfig, code, test.code, test.says, body)
		}
	}
}

// operatorSees runs one of `km offers`, `km tasks` and `km queue` until it shows all words in one line.
func operatorSees(t *testing.T, c *scratch.Cluster, command string, words ...string) {
	t.Helper()
	err := scratch.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		out, err := c.KM(ctx, command).CombinedOutput() // it finds the scheduler by itself
		if err != nil {
			return fmt.Errorf("km %s: %w: %s", command, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if containsAll(line, words) {
				t.Logf("km %s:\n%s", command, out)
				return nil
			}
		}
		return fmt.Errorf("km %s shows no line with %q:\n%s", command, words, out)
	})
	if err != nil {
		t.Error(err)
	}
}

func operatorSeesTheScheduler(t *testing.T, c *scratch.Cluster) {
	runs := create(t, c, pod("seen", forever))
	big := pod("seen-waiting", forever)
	big.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100")
	big = create(t, c, big)
	awaitPhase(t, c, runs.Name, corev1.PodRunning)
	operatorSees(t, c, "tasks", "default ", " seen ", string(runs.UID)+".1", "TASK_RUNNING")
	operatorSees(t, c, "queue", "default ", "seen-waiting", "Insufficient cpu", "requested 100")
	operatorSees(t, c, "offers", "cpus:", "mem:") // the pod that waits calls for offers
	out, err := c.KM(within(t, 30*time.Second), "queue", "-o", "json", "--status-address="+c.StatusAddress()).Output()
	var queue []struct {
		Pod     string
		Reasons []string
	}
	if err != nil || json.Unmarshal(out, &queue) != nil || len(queue) != 1 || queue[0].Pod != "default/seen-waiting" || len(queue[0].Reasons) == 0 {
		t.Errorf("err %v, km queue -o json:\n%s", err, out)
	}
	text, err := c.KM(within(t, 30*time.Second), "queue", "--status-address=127.0.0.1:1").CombinedOutput()
	if err == nil || !containsAll(string(text), []string{"km: no scheduler answers at 127.0.0.1:1", "km up"}) {
		t.Errorf("without a scheduler: err %v, output:\n%s", err, text)
	}
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), big.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	remove(t, c, runs)
}

func TestWhatIsMissingIsOneLineAndNothingStarts(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := busy.Addr().(*net.TCPAddr).Port
	busyUDP, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer busyUDP.Close()
	busyDNS := fmt.Sprint(busyUDP.LocalAddr().(*net.UDPAddr).Port)
	for name, test := range map[string]struct {
		args []string
		env  []string
		user uint32
		says []string
	}{
		"API port in use":     {args: []string{"up", fmt.Sprintf("--secure-port=%d", port)}, says: []string{fmt.Sprint(port), "in use"}},
		"Mesos port in use":   {args: []string{"up", fmt.Sprintf("--mesos-port=%d", port)}, says: []string{fmt.Sprint(port), "in use"}},
		"status port in use":  {args: []string{"up", fmt.Sprintf("--status-address=127.0.0.1:%d", port)}, says: []string{fmt.Sprint(port), "in use", "--status-address"}},
		"DNS port in use":     {args: []string{"up", "--dns-port=" + busyDNS}, says: []string{busyDNS, "in use", "--dns-port"}},
		"all addresses":       {args: []string{"apiserver", "--bind-address=0.0.0.0", "--dns-port=" + busyDNS}, says: []string{":" + busyDNS, "in use"}},
		"no such plugin":      {args: []string{"up", "--dns-import=testdata/unknown.corefile"}, says: []string{"unknown.corefile:2", "resolve"}},
		"DNS asks a name":     {args: []string{"dns", "--check", "--upstream=localhost"}, says: []string{"--upstream=localhost", "IP address"}},
		"unknown setting":     {args: []string{"up", "--config=testdata/unknown.yaml"}, says: []string{"unknown.yaml", "offer_ttl"}},
		"no scheduler to ask": {args: []string{"queue"}, says: []string{"no cluster", "km up"}},
		"no Docker Engine":    {args: []string{"up"}, env: []string{"PATH=/nonexistent", "DOCKER_HOST=unix:///nonexistent.sock"}, says: []string{"Docker"}},
		"no root":             {args: []string{"up"}, user: 65534, says: []string{"root"}},
		"unreachable master":  {args: []string{"scheduler", "--mesos-master=127.0.0.1:1", "--mesos-connect-timeout=2s"}, says: []string{"no cluster"}},
		"no cluster":          {args: []string{"kubectl", "get", "nodes"}, says: []string{"no cluster", "km up"}},
		"an unknown flag":     {args: []string{"up", "--no-such-flag"}, says: []string{"--no-such-flag"}},
		"no such threshold":   {args: []string{"up", "--eviction-hard=memory<1"}, says: []string{"--eviction-hard", "memory.available"}},
		"static pods nowhere": {args: []string{"up", "--static-pod-path=here"}, says: []string{"--static-pod-path=here", "absolute"}},
		"no node":             {args: []string{"up", "--nodes=0"}, says: []string{"--nodes=0"}},
		"no range of nodes":   {args: []string{"up", "--nodes=2", "--node-cidr=10.0.0.0"}, says: []string{"--node-cidr=10.0.0.0", "10.213.0.0/24"}},
		"nodes among pods":    {args: []string{"up", "--nodes=2", "--node-cidr=10.244.0.0/24"}, says: []string{"--node-cidr=10.244.0.0/24", "--cluster-cidr=10.244.0.0/16"}},
		"loopback for nodes":  {args: []string{"up", "--nodes=2", "--bind-address=127.0.0.1"}, says: []string{"--bind-address=127.0.0.1", "--nodes"}},
		"one Engine of nodes": {args: []string{"up", "--nodes=2", "--docker-host=unix:///x"}, says: []string{"--docker-host", "--nodes"}},
		"no nodes to cut off": {args: []string{"node", "cut", "node-1"}, says: []string{"km up --nodes"}},
		"resources not Mesos": {args: []string{"up", "--resources=many"}, says: []string{"many"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := stateDir(t)
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(within(t, time.Minute), program(t, "km"), append([]string{"--state-dir", dir}, test.args...)...)
			cmd.Env = append(os.Environ(), test.env...)
			if test.user != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: test.user, Gid: test.user}}
			}
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("it ended with %v:\n%s%s", err, out.String(), errs.String())
			}
			if line := strings.TrimSpace(errs.String()); strings.Contains(line, "\n") || !containsAll(line, test.says) {
				t.Errorf("its error does not say %q in one line:\n%s", test.says, line)
			}
		})
	}
}
