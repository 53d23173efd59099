package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"github.com/prometheus/procfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/falcon/falcontest"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/up/engine"
)

// The tests below share one cluster, on an agent with cgroup isolators and with foreign containers and rules on the machine.
func TestNode(t *testing.T) {
	dir, manifests := stateDir(t), t.TempDir()
	docker, host := ownEngine(t, dir)
	foreign, traces := makeForeign(t, docker), collectTraces(t)
	kept, written := filepath.Join(t.TempDir(), "kept"), false // the data of a hostPath
	var used []string                                          // cgroups of Mesos containers
	leavesNothing(t, func(t *testing.T) {
		metrics := falcontest.New()
		c := up(t, dir, append(falconFlags(t, metrics), "--docker-host="+host, "--resources=cpus:2;mem:2048;disk:10000;ports:[31000-31009]",
			"--isolation=cgroups/cpu,cgroups/mem", "--contain-pods", "--static-pod-path="+manifests, "--eviction-hard=memory.available<64Mi,nodefs.available<1%",
			"--otlp-endpoint="+traces.address, "--otlp-sampling-rate-per-million=500000")...)
		first := create(t, c, always("first"))
		awaitPhase(t, c, first.Name, corev1.PodRunning)
		t.Run("the minion serves metrics to who may read them", func(t *testing.T) { minionServesMetrics(t, c, dir) })
		t.Run("allocatable is the agent's less the executor's", func(t *testing.T) { allocatable(t, c) })
		t.Run("API server and kubelet send traces", func(t *testing.T) { tracesArrive(t, traces) })
		t.Run("static pods hold what they request", func(t *testing.T) { staticPods(t, c, manifests) })
		create(t, c, loaded())
		measured := measuredPod(t, c)
		t.Run("volumes survive the end of the sandbox", func(t *testing.T) {
			sandboxRemoved(t, c, dir, kept)
			written = true
		})
		t.Run("kubelet and proxy come back after a crash and after a hang", func(t *testing.T) { supervised(t, c, first) })
		t.Run("the kubelet's metrics have containers and networks", func(t *testing.T) { kubeletShowsContainers(t, c, measured) })
		remove(t, c, measured)
		t.Run("figures go to open-falcon", func(t *testing.T) { falconFigures(t, c, metrics) })
		t.Run("what is not the node's is not seen", func(t *testing.T) { foreign.unseen(t, dir) })
		t.Run("contained pods end with the minion and come back", func(t *testing.T) { used = contained(t, c, first) })
	})
	foreign.untouched(t)
	if data, err := os.ReadFile(filepath.Join(kept, "data")); written && string(data) != "kept\n" {
		t.Errorf("the hostPath has %q, %v", data, err)
	}
	for _, left := range mesosCgroups(t, used) {
		t.Errorf("a cgroup is left: %s", left)
	}
}

// always is a pod that runs forever and is restarted if it does not.
func always(name string) *corev1.Pod {
	p := pod(name, forever)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return p
}

// ownEngine starts a Docker Engine that outlives the cluster.
func ownEngine(t *testing.T, dir string) (docker *client.Client, host string) {
	t.Helper()
	e, err := engine.Start(within(t, time.Minute), engine.Config{Dir: filepath.Join(dir, "engine")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	if docker, err = client.NewClientWithOpts(client.WithHost(e.Host()), client.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	return docker, e.Host()
}

// foreign has things that the cluster must not touch: a container of another kubelet's runtime, a container and a network of another
// k8sm cluster with a node of the same name, and rules.
type foreign struct {
	docker     *client.Client
	containers []string
	network    string
	rules      [][]string
}

func makeForeign(t *testing.T, docker *client.Client) *foreign {
	t.Helper()
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := scratch.ImportImage(t.Context(), docker, image, "/bin/busybox", busybox); err != nil {
		t.Fatal(err)
	}
	f := &foreign{docker: docker, rules: [][]string{
		{"filter", "FORWARD", "-s", "203.0.113.0/24", "-j", "ACCEPT"},
		{"nat", "POSTROUTING", "-s", "203.0.113.0/24", "-m", "comment", "--comment", "another kubelet", "-j", "MASQUERADE"},
	}}
	ofKubernetes := map[string]string{
		"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "0000",
		"io.kubernetes.container.name": "main", "io.kubernetes.docker.type": "container",
	}
	ofOtherCluster := map[string]string{
		api.DockerLabelFramework: "another", api.DockerLabelNode: strings.ToLower(node),
	}
	made, err := docker.NetworkCreate(t.Context(), "k8sm-another", network.CreateOptions{Labels: ofOtherCluster})
	if err != nil {
		t.Fatal(err)
	}
	f.network = made.ID
	for name, labels := range map[string]map[string]string{"k8s_main_web_default_0000_0": ofKubernetes, "another_main": ofOtherCluster} {
		c, err := docker.ContainerCreate(t.Context(), &container.Config{Image: image, Cmd: []string{"sleep", "3600"}, Labels: labels}, nil, nil, nil, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := docker.ContainerStart(t.Context(), c.ID, container.StartOptions{}); err != nil {
			t.Fatal(err)
		}
		f.containers = append(f.containers, c.ID)
	}
	for _, rule := range f.rules {
		if out, err := f.iptables("-A", rule); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	t.Cleanup(f.remove)
	return f
}

func (f *foreign) iptables(command string, rule []string) ([]byte, error) {
	return exec.Command("iptables", append([]string{"-w", "-t", rule[0], command}, rule[1:]...)...).CombinedOutput()
}

// remove removes what may have been removed already.
func (f *foreign) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, id := range f.containers {
		_ = f.docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true})
	}
	_ = f.docker.NetworkRemove(ctx, f.network)
	for _, rule := range f.rules {
		_, _ = f.iptables("-D", rule)
	}
}

// unseen asks the node's own runtime interface.
func (f *foreign) unseen(t *testing.T, dir string) {
	sockets, err := filepath.Glob(filepath.Join(dir, "nodes", "*", "*", "cri.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets: %v, %v", sockets, err)
	}
	connection, err := grpc.NewClient("unix://"+sockets[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	runtime := runtimeapi.NewRuntimeServiceClient(connection)
	list, err := runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.GetContainers()) == 0 {
		t.Fatalf("containers: %v, %v", list, err)
	}
	for _, c := range list.Containers {
		if slices.Contains(f.containers, c.Id) {
			t.Errorf("CRI lists a foreign container: %v", c)
		}
	}
	for _, id := range f.containers {
		if _, err := runtime.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
			t.Logf("it refuses to stop it: %v", err)
		}
		if _, err := runtime.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Logf("it refuses to remove it: %v", err)
		}
	}
	f.untouched(t)
}

func (f *foreign) untouched(t *testing.T) {
	t.Helper()
	for _, id := range f.containers {
		if info, err := f.docker.ContainerInspect(t.Context(), id); err != nil || !info.State.Running || info.RestartCount > 0 {
			t.Errorf("a foreign container does not run on: %+v, %v", info.State, err)
		}
	}
	if _, err := f.docker.NetworkInspect(t.Context(), f.network, network.InspectOptions{}); err != nil {
		t.Errorf("the foreign network: %v", err)
	}
	for _, rule := range f.rules {
		if out, err := f.iptables("-C", rule); err != nil {
			t.Errorf("the foreign rule %v: %v: %s", rule, err, out)
		}
	}
}

// onlyNode is the cluster's node.
func onlyNode(t *testing.T, c *scratch.Cluster) *corev1.Node {
	t.Helper()
	nodes, err := c.Kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("nodes: %v, %v", nodes, err)
	}
	return &nodes.Items[0]
}

func allocatable(t *testing.T, c *scratch.Cluster) {
	node := onlyNode(t, c)
	if node.Status.NodeInfo.KubeletVersion == "" {
		t.Error("it is not the kubelet that says so")
	}
	// Of the executor: 0.25 cpus, 256 MB and 320 MB of disk by default.
	for name, want := range map[corev1.ResourceName]string{
		corev1.ResourceCPU: "1750m", corev1.ResourceMemory: "1792Mi", corev1.ResourceEphemeralStorage: "9680Mi",
	} {
		got, want := node.Status.Allocatable[name], resource.MustParse(want)
		if got.Cmp(want) != 0 {
			t.Errorf("allocatable %s is %s, want %s", name, got.String(), want.String())
		}
	}
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error { // the kubelet's certificate comes after its first pod
		config, err := c.Kube.CoreV1().RESTClient().Get().Resource("nodes").Name(node.Name).SubResource("proxy").Suffix("configz").DoRaw(ctx)
		if err == nil && !strings.Contains(string(config), `"evictionHard":{"memory.available":"64Mi","nodefs.available":"1%"}`) {
			t.Errorf("the kubelet's configuration is %s", config)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func staticPods(t *testing.T, c *scratch.Cluster, manifests string) {
	manifest := filepath.Join(manifests, "static.json")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static", "namespace": "default"}, "spec": {"terminationGracePeriodSeconds": 1,
"containers": [{"name": "main", "image": %q, "imagePullPolicy": "Never", "command": ["/bin/busybox", "sleep", "3600"],
"resources": {"requests": {"cpu": "1", "memory": "64Mi"}}}]}}`, image)
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	name := "static-" + onlyNode(t, c).Name
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error { // the kubelet looks every 20 s
		mirror, err := c.Kube.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && mirror.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("it is %s", mirror.Status.Phase)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	beside := always("beside") // 1.75 are allocatable; the static pod has 1, another pod 0.1
	beside.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("900m")
	beside = create(t, c, beside)
	operatorSees(t, c, "offers", "cpus:1.65") // more than enough, did the static pod not need some of it
	operatorSees(t, c, "queue", "default ", " beside ")
	mirror, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	awaitTask(t, c, mirror, "")
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	awaitPhase(t, c, beside.Name, corev1.PodRunning)
	if _, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the mirror pod is still there: %v", err)
	}
	remove(t, c, beside)
}

// sandboxRemoved removes the sandbox of the running minion like an agent's garbage collection, which follows mounts and links.
func sandboxRemoved(t *testing.T, c *scratch.Cluster, dir, kept string) {
	if _, err := c.Kube.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"}, StringData: map[string]string{"data": "kept\n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := create(t, c, withVolumes(kept))
	awaitPhase(t, c, p.Name, corev1.PodRunning)
	volumes, err := filepath.Glob(filepath.Join(dir, "nodes", "*", "*", "kubelet", "pods", string(p.UID), "volumes"))
	if err != nil || len(volumes) != 1 {
		t.Fatalf("volumes: %v, %v", volumes, err)
	}
	want := map[string]string{
		filepath.Join(kept, "data"):                                              "kept\n",
		filepath.Join(volumes[0], "kubernetes.io~empty-dir/disk/data"):           "kept\n",
		filepath.Join(volumes[0], "kubernetes.io~empty-dir/memory/data"):         "kept\n",
		filepath.Join(volumes[0], "kubernetes.io~secret/secret/data"):            "kept\n",
		filepath.Join(volumes[0], "kubernetes.io~projected/projected/namespace"): "default",
	}
	holds := func() string {
		got := map[string]string{}
		for path := range want {
			data, err := os.ReadFile(path)
			if got[path] = string(data); err != nil {
				got[path] = err.Error()
			}
		}
		return cmp.Diff(want, got)
	}
	err = scratch.Until(t.Context(), 30*time.Second, func(context.Context) error {
		if diff := holds(); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	removeSandboxes(t, dir)
	if diff := holds(); diff != "" {
		t.Errorf("after the sandbox was removed (-want +got):\n%s", diff)
	}
	remove(t, c, p)
	if data, err := os.ReadFile(filepath.Join(kept, "data")); string(data) != "kept\n" {
		t.Errorf("after the pod was deleted the hostPath has %q, %v", data, err)
	}
}

// withVolumes is a pod that writes to its volumes, and reads them again and again. The directory is one of the machine's.
func withVolumes(kept string) *corev1.Pod {
	p := pod("volumes", "for d in /disk /memory /host; do echo kept >$d/data; done; echo ready; "+
		"while :; do cat /disk/data /memory/data /host/data /secret/data /projected/namespace >/tmp-look; /bin/busybox sleep 1; done")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	make := corev1.HostPathDirectoryOrCreate
	for name, source := range map[string]corev1.VolumeSource{
		"disk":   {EmptyDir: &corev1.EmptyDirVolumeSource{}},
		"memory": {EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}},
		"host":   {HostPath: &corev1.HostPathVolumeSource{Path: kept, Type: &make}},
		"secret": {Secret: &corev1.SecretVolumeSource{SecretName: "kept"}},
		"projected": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{
			Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}}}}},
	} {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
	return p
}

// removeSandboxes removes the minion's sandboxes with all that is mounted there, and what links lead to.
func removeSandboxes(t *testing.T, dir string) {
	t.Helper()
	runs, err := filepath.Glob(filepath.Join(dir, "mesos", "agents", "*", "slaves", "*", "frameworks", "*", "executors", "*", "runs"))
	if err != nil || len(runs) == 0 {
		t.Fatalf("sandboxes: %v, %v", runs, err)
	}
	for _, run := range runs {
		if mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(run)); len(mounts) > 0 || err != nil {
			t.Errorf("something is mounted below %s: %v, %v", run, mounts, err)
		}
		err = filepath.WalkDir(run, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type()&fs.ModeSymlink != 0 {
				if to, err := filepath.EvalSymlinks(path); err != nil || !strings.HasPrefix(to, run+"/") {
					t.Errorf("%s leads out of the sandbox, to %s: %v", path, to, err)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
	}
}

// pidOf is the process that has the role; 0 if there is none.
func pidOf(t *testing.T, c *scratch.Cluster, role string) int {
	t.Helper()
	for _, pid := range running(t, c, role) {
		return pid
	}
	return 0
}

func supervised(t *testing.T, c *scratch.Cluster, p *corev1.Pod) {
	before := containers(t, c, p)
	for _, test := range []struct {
		name   string
		signal syscall.Signal
	}{{"hang", syscall.SIGSTOP}, {"crash", syscall.SIGKILL}} {
		name, signal := test.name, test.signal
		was := map[string]int{}
		for _, role := range []string{"kubelet", "proxy"} {
			was[role] = pidOf(t, c, role)
			if err := syscall.Kill(was[role], signal); err != nil {
				t.Fatalf("%s of %s: %v", name, role, err)
			}
		}
		err := scratch.Until(t.Context(), 90*time.Second, func(context.Context) error {
			for role, pid := range was {
				if now := pidOf(t, c, role); now == 0 || now == pid {
					return fmt.Errorf("after its %s, %s has process %d, and had %d", name, role, now, pid)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// The new kubelet is a good one: it runs another pod.
		next := create(t, c, pod("after-"+name, "true"))
		awaitPhase(t, c, next.Name, corev1.PodSucceeded)
		awaitTask(t, c, p, "TASK_RUNNING")
		if diff := cmp.Diff(before, containers(t, c, p)); diff != "" {
			t.Errorf("the %s changed the containers: %s", name, diff)
		}
	}
}

// mesosCgroups are those of the cgroups that exist, in all hierarchies.
func mesosCgroups(t *testing.T, cgroups []string) (found []string) {
	t.Helper()
	for _, cgroup := range cgroups {
		dirs, err := filepath.Glob("/sys/fs/cgroup/*" + cgroup)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, dirs...)
	}
	return found
}

// cgroupsOf are the controllers' cgroups that the pod's containers are in.
func cgroupsOf(t *testing.T, c *scratch.Cluster, p *corev1.Pod) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for id := range containers(t, c, p) {
		info, err := c.Docker.ContainerInspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		process, err := procfs.NewProc(info.State.Pid)
		if err != nil {
			t.Fatal(err)
		}
		memberships, err := process.Cgroups()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range memberships {
			if slices.ContainsFunc([]string{"memory", "cpu", "freezer"}, func(c string) bool { return slices.Contains(m.Controllers, c) }) {
				found[strings.TrimSuffix(m.Path, "/"+id)] = true
			}
		}
	}
	return found
}

// mesosContainer is the cgroup of the Mesos container that a cgroup is below: /mesos/ID.
func mesosContainer(cgroup string) string {
	elements := strings.SplitN(cgroup, "/", 4)
	return strings.Join(elements[:min(3, len(elements))], "/")
}

// contained returns the cgroups of the Mesos containers that it has seen.
func contained(t *testing.T, c *scratch.Cluster, p *corev1.Pod) (used []string) {
	where := cgroupsOf(t, c, p)
	if len(where) != 1 {
		t.Fatalf("the pod's containers are in %v", where)
	}
	for cgroup := range where {
		used = append(used, mesosContainer(cgroup))
		minion, err := os.ReadFile("/proc/" + strconv.Itoa(pidOf(t, c, "minion")) + "/cgroup")
		if err != nil || !strings.HasPrefix(cgroup, "/mesos/") || !strings.Contains(string(minion), ":memory:"+mesosContainer(cgroup)+"\n") {
			t.Fatalf("the pod is in %s, and its minion in %s, %v", cgroup, minion, err)
		}
	}
	before, warden := containers(t, c, p), pidOf(t, c, "warden")
	kill(t, c, "minion")
	err := scratch.Until(t.Context(), 90*time.Second, func(ctx context.Context) error {
		got, err := c.Kube.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := got.Status.ContainerStatuses[0]; got.UID != p.UID || s.RestartCount == 0 || !s.Ready {
			return fmt.Errorf("pod %s: %+v", got.UID, s)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	awaitTask(t, c, p, "TASK_RUNNING")
	for id := range containers(t, c, p) {
		if before[id] != "" {
			t.Errorf("container %s outlived its cgroup", id)
		}
	}
	for _, left := range mesosCgroups(t, used) {
		t.Errorf("the old container left %s", left)
	}
	if !slices.Contains(running(t, c, "warden"), warden) {
		t.Errorf("warden %d ended with the Mesos container, which was to find it nowhere", warden)
	}
	for cgroup := range cgroupsOf(t, c, p) {
		if slices.Contains(used, mesosContainer(cgroup)) || !strings.HasPrefix(cgroup, "/mesos/") {
			t.Errorf("the pod came back in %s", cgroup)
		}
		used = append(used, mesosContainer(cgroup))
	}
	return used
}
