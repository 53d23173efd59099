package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/client"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// kmOf builds km as of a version. Only the link is new.
func kmOf(t *testing.T, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "km")
	flags := "-s -w -X github.com/k8sm/k8sm/api.Version=" + version + " -X k8s.io/component-base/version.gitVersion=" + api.KubernetesVersion
	build := exec.CommandContext(within(t, 5*time.Minute), "go", "build", "-trimpath", "-ldflags="+flags, "-o", path, ".")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// roles runs the parts of a cluster as processes of their own, as with a Mesos that somebody has.
type roles struct {
	t      *testing.T
	dir    string
	kube   kubernetes.Interface
	docker *client.Client

	controlPlane     []string // its command line
	stopControlPlane func()
}

// run starts a role and returns what stops it, which happens when the test ends at the latest.
func (r *roles) run(km string, args ...string) (stop func()) {
	r.t.Helper()
	log, err := os.CreateTemp(r.dir, args[0]+"-*.log")
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(km, append([]string{"--state-dir", r.dir}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // what it started may hold its output open
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended: then Wait says so
		select {
		case err = <-exited:
		case <-time.After(2 * time.Minute):
			_ = cmd.Process.Kill()
			err = errors.New("it did not end in time")
		}
		if err != nil {
			r.t.Errorf("km %s: %v", args[0], err)
		}
		if r.t.Failed() {
			said, _ := os.ReadFile(log.Name())
			r.t.Logf("the end of the log of km %s:\n%s", args[0], said[max(0, len(said)-6000):])
		}
	}
	r.t.Cleanup(stop)
	return stop
}

// freePort is one that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	port, err := scratch.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// startRoles starts an Engine, a control plane and a Mesos with two agents, which is given further flags.
func startRoles(t *testing.T, km string, mesosPort int, flags ...string) *roles {
	t.Helper()
	r := &roles{t: t, dir: stateDir(t)}
	docker, host := ownEngine(t, r.dir)
	r.docker = docker
	r.controlPlane = []string{"apiserver", fmt.Sprintf("--secure-port=%d", freePort(t)), fmt.Sprintf("--etcd-port=%d", freePort(t)),
		"--docker-host=" + host, "--node-root-dir=" + filepath.Join(r.dir, "nodes")}
	r.stopControlPlane = r.run(km, r.controlPlane...)
	r.run(km, append([]string{"local-mesos", "--agents=2", fmt.Sprintf("--port=%d", mesosPort), "--work-dir=" + filepath.Join(r.dir, "mesos"),
		"--resources=cpus:2;mem:1024;disk:4000;ports:[31000-31009]"}, flags...)...)
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(r.dir, "admin.kubeconfig"))
		if err != nil {
			return err
		}
		if r.kube, err = kubernetes.NewForConfig(config); err != nil {
			return err
		}
		_, err = r.kube.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v; run `make deps` first", err)
	}
	if err := scratch.ImportImage(within(t, time.Minute), r.docker, image, "/bin/busybox", busybox); err != nil {
		t.Fatal(err)
	}
	return r
}

// schedule starts a scheduler that sends its own program to the agents.
func (r *roles) schedule(km string, mesosPort int, flags ...string) (stop func()) {
	r.t.Helper()
	return r.run(km, append([]string{"scheduler", fmt.Sprintf("--mesos-master=127.0.0.1:%d", mesosPort), "--artifact-address=127.0.0.1:0",
		"--status-address=127.0.0.1:0", "--mesos-principal=k8sm", "--mesos-secret-file=" + filepath.Join(r.dir, "mesos", "secret")}, flags...)...)
}

// liveNode is what km nodes -o json says of one.
type liveNode struct {
	Node, KM, Kubelet, CordonedFor, Settings string
	Rollout                                  *struct{ State, Target, Reason string }
	Minion, Warm, Ready                      bool
	Tasks                                    int
}

func (r *roles) nodes(ctx context.Context, km string) ([]liveNode, error) {
	out, err := exec.CommandContext(ctx, km, "--state-dir", r.dir, "nodes", "-o", "json").Output()
	if err != nil {
		return nil, err
	}
	var nodes []liveNode
	return nodes, json.Unmarshal(out, &nodes)
}

// fetched checks that so many minions run what was fetched for them, and that none of it is left in their sandboxes.
func (r *roles) fetched(want int) {
	r.t.Helper()
	sandboxes, err := filepath.Glob(filepath.Join(r.dir, "mesos/agents/*/slaves/*/frameworks/*/executors/*/runs/latest"))
	if err != nil || len(sandboxes) != want {
		r.t.Errorf("the sandboxes are %v, %v", sandboxes, err)
	}
	for _, sandbox := range sandboxes {
		if said, err := os.ReadFile(filepath.Join(sandbox, "stderr")); err != nil || !strings.HasPrefix(string(said), "km: OK\n") {
			r.t.Errorf("%s: the program was not checked: %v, %s", sandbox, err, said)
		}
		if left, err := filepath.Glob(filepath.Join(sandbox, "km*")); err != nil || len(left) != 0 {
			r.t.Errorf("left in the sandbox are %v, %v", left, err)
		}
	}
}

// spread creates a deployment that has a pod on each of the two nodes. The minions start one after the other: on one machine
// they look for free ports in the same place.
func (r *roles) spread(name string) {
	r.t.Helper()
	one, labels := int32(1), map[string]string{"app": name}
	p := pod(name, forever)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: labels}, TopologyKey: corev1.LabelHostname,
		}},
	}}
	deployments := r.kube.AppsV1().Deployments("default")
	d, err := deployments.Create(r.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.awaitReplicas(name, 1, 90*time.Second)
	patch := []byte(`{"spec": {"replicas": 2}}`)
	if _, err := deployments.Patch(r.t.Context(), d.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.awaitReplicas(name, 2, 60*time.Second)
}

func (r *roles) awaitReplicas(name string, want int32, limit time.Duration) {
	r.t.Helper()
	err := scratch.Until(r.t.Context(), limit, func(ctx context.Context) error {
		d, err := r.kube.AppsV1().Deployments("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != want {
			err = fmt.Errorf("%d of %d pods are ready", d.Status.ReadyReplicas, want)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestNewVersionIsFetchedByAgentsAndRolledOutNodeByNode(t *testing.T) {
	const before, after = "v0.0.1", "v0.0.2-1-g49b5016+20261129T152122Z"
	old, km := kmOf(t, before), kmOf(t, after)
	said, err := exec.CommandContext(t.Context(), km, "version").Output()
	if err != nil || !strings.Contains(string(said), after) {
		t.Fatalf("%v, %s", err, said)
	}
	leavesNothing(t, func(t *testing.T) {
		mesosPort := 20000 + freePort(t)%10000
		r := startRoles(t, km, mesosPort)
		stop := r.schedule(old, mesosPort)
		r.spread("web")
		err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
			nodes, err := r.nodes(ctx, km)
			if err == nil && (len(nodes) != 2 || nodes[0].KM != before || nodes[1].KM != before || nodes[0].Kubelet != api.KubernetesVersion) {
				err = fmt.Errorf("the nodes are %+v", nodes)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		r.fetched(2)
		stop()

		stop = r.schedule(km, mesosPort, "--rollout-delay=0s")
		r.awaitRollout(km, before, after)
		r.awaitReplicas("web", 2, 30*time.Second)
		table, err := exec.CommandContext(t.Context(), km, "--state-dir", r.dir, "nodes").Output()
		t.Logf("%s", table)
		if err != nil || strings.Count(string(table), after) != 2 {
			t.Errorf("km nodes: %v\n%s", err, table)
		}
		stop()

		r.schedule(old, mesosPort, "--rollout-delay=0s")
		r.awaitKept(km, after)
		r.awaitReplicas("web", 2, 30*time.Second)
	})
}

// awaitRollout waits until both nodes have the new version, and sees to it that this happens one node after the other.
func (r *roles) awaitRollout(km, before, after string) {
	r.t.Helper()
	both := false // versions were there at a time
	err := scratch.Until(r.t.Context(), 3*time.Minute, func(ctx context.Context) error {
		nodes, err := r.nodes(ctx, km)
		if err != nil {
			return err
		}
		done, cordoned, versions := 0, 0, map[string]bool{}
		for _, n := range nodes {
			if n.CordonedFor != "" {
				cordoned++
			}
			if n.KM == after && n.Ready && n.CordonedFor == "" && n.Rollout == nil {
				done++
			}
			versions[n.KM] = true
		}
		both = both || versions[before] && versions[after]
		if cordoned > 1 {
			r.t.Errorf("more than one node is cordoned at a time: %+v", nodes)
		}
		if done < 2 {
			return fmt.Errorf("the nodes are %+v", nodes)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if !both {
		r.t.Error("km nodes never showed both versions side by side")
	}
}

// awaitKept waits until a scheduler of an older version has said that it keeps the minions of both nodes. None may be drained. It
// says so only after the time in which it would have begun to replace them.
func (r *roles) awaitKept(km, version string) {
	r.t.Helper()
	since := time.Now()
	err := scratch.Until(r.t.Context(), 2*time.Minute, func(ctx context.Context) error {
		nodes, err := r.nodes(ctx, km)
		if err != nil {
			return err
		}
		kept := 0
		for _, n := range nodes {
			if n.CordonedFor != "" || n.KM != "" && n.KM != version {
				r.t.Errorf("a scheduler of an older version has drained a node: %+v", n)
			}
			if n.Rollout != nil && n.Rollout.State == "Kept" {
				kept++
			}
		}
		if kept < 2 || time.Since(since) < 45*time.Second {
			return fmt.Errorf("the nodes are %+v", nodes)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}
