package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// oldKM is an environment variable with the path of a km of an earlier Kubernetes. `make test-upgrade` builds one.
const oldKM = "K8SM_OLD_KM"

// upgradePatience bounds each wait: nodes are drained and start again, one after the other.
const upgradePatience = 8 * time.Minute

// kept are objects that an upgrade must not change.
const kept = `
apiVersion: v1
kind: Secret
metadata: {name: kept}
stringData: {word: unchanged}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: kept}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  hostPath: {path: /nowhere}
  claimRef: {namespace: default, name: kept}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  volumeName: kept
  resources: {requests: {storage: 1Mi}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.test.k8sm.io}
spec:
  group: test.k8sm.io
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {word: {type: string}}}}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: shop}}
`

const thing = `
apiVersion: test.k8sm.io/v1
kind: Thing
metadata: {name: kept}
spec: {word: unchanged}
`

// plan is what km upgrade plan -o json prints.
type plan struct {
	Steps []struct {
		Kind, What string
		From, To   struct{ Kubernetes string }
	}
	Blocks, Warnings []string
}

// kinds are the steps' kinds, each once.
func (p plan) kinds() string {
	var kinds []string
	for _, s := range p.Steps {
		kinds = append(kinds, s.Kind)
	}
	return strings.Join(slices.Compact(kinds), " ")
}

func (r *roles) planned(km, snapshot string) (p plan) {
	r.t.Helper()
	cmd := exec.CommandContext(within(r.t, 2*time.Minute), km, "--state-dir", r.dir, "upgrade", "plan", "-o", "json", "--snapshot="+snapshot)
	out, err := cmd.Output()
	if jsonErr := json.Unmarshal(out, &p); jsonErr != nil {
		r.t.Fatalf("km upgrade plan: %v: %v\n%s", err, jsonErr, out)
	}
	if (err != nil) != (len(p.Blocks) > 0) {
		r.t.Errorf("with %q in the way km upgrade plan ends with %v", p.Blocks, err)
	}
	return p
}

// kubectl runs a command that has to succeed, with an input.
func (r *roles) kubectl(km, input string, args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(within(r.t, 2*time.Minute), km, append([]string{"--state-dir", r.dir, "kubectl"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// await waits until all nodes are as they should be.
func (r *roles) await(km, what string, is func(liveNode) bool) {
	r.t.Helper()
	err := scratch.Until(r.t.Context(), upgradePatience, func(ctx context.Context) error {
		nodes, err := r.nodes(ctx, km)
		if err == nil && (len(nodes) != 2 || !is(nodes[0]) || !is(nodes[1])) {
			err = fmt.Errorf("the nodes are %+v", nodes)
		}
		return err
	})
	if err != nil {
		r.t.Fatalf("waited in vain until %s: %v", what, err)
	}
}

// restartControlPlane stops the control plane and starts another one.
func (r *roles) restartControlPlane(km string, flags ...string) {
	r.t.Helper()
	r.stopControlPlane()
	r.stopControlPlane = r.run(km, append(slices.Clone(r.controlPlane), flags...)...)
	err := scratch.Until(r.t.Context(), 2*time.Minute, func(ctx context.Context) error {
		return r.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// intact checks that the objects are as they were, and that no container has been restarted.
func (r *roles) intact(km string) {
	r.t.Helper()
	for _, check := range []struct{ what, want string }{
		{"secret/kept -o jsonpath={.data.word}", "dW5jaGFuZ2Vk"}, {"pvc/kept -o jsonpath={.status.phase}", "Bound"},
		{"thing/kept -o jsonpath={.spec.word}", "unchanged"}, {"deployment/shop -o jsonpath={.status.readyReplicas}", "3"},
	} {
		if got := r.kubectl(km, "", append([]string{"get"}, strings.Fields(check.what)...)...); got != check.want {
			r.t.Errorf("%s is %q, want %q", check.what, got, check.want)
		}
	}
	pods, err := r.kube.CoreV1().Pods("default").List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if c.RestartCount > 0 {
				r.t.Errorf("a container of pod %s was restarted: %+v", p.Name, c)
			}
		}
	}
}

// TestKubernetesIsUpgraded upgrades a cluster to this km and the Kubernetes in it, in the wrong order first. Then it changes a setting.
func TestKubernetesIsUpgraded(t *testing.T) {
	old := os.Getenv(oldKM)
	if old == "" {
		t.Skip("needs a km of an earlier Kubernetes: run `make test-upgrade`")
	}
	km := program(t, "km")
	var before struct{ KM, Kubernetes string }
	said, err := exec.CommandContext(t.Context(), old, "version", "-o", "json").Output()
	if err = errors.Join(err, json.Unmarshal(said, &before)); err != nil || before.Kubernetes == api.KubernetesVersion {
		t.Fatalf("the old km: %v, %s", err, said)
	}
	mesosPort := 20000 + freePort(t)%10000
	r := startRoles(t, old, mesosPort)
	stopScheduler := r.schedule(old, mesosPort)
	web, err := os.ReadFile(program(t, "build/web"))
	if err != nil {
		t.Fatal(err)
	}
	if err := scratch.ImportImage(within(t, time.Minute), r.docker, "k8sm.io/examples/web:latest", "/web", web); err != nil {
		t.Fatal(err)
	}
	r.spread("both") // a minion on each node
	r.kubectl(old, kept, "apply", "-f", "-")
	r.kubectl(old, "", "wait", "crd/things.test.k8sm.io", "--for=condition=Established")
	r.kubectl(old, thing, "apply", "-f", "-")
	r.kubectl(old, "", "apply", "-f", filepath.Join(root, "contrib/examples/shop.yaml"))
	r.kubectl(old, "", "rollout", "status", "deployment/shop", "--timeout=90s")
	customer := comes(t, &scratch.Cluster{Kube: r.kube}, "shop")

	snapshot := filepath.Join(t.TempDir(), "before.tar")
	if out, err := exec.CommandContext(within(t, time.Minute), old, "--state-dir", r.dir, "snapshot", "save", snapshot).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p := r.planned(km, snapshot)
	if p.kinds() != "apiserver scheduler node" || len(p.Blocks) > 0 || p.Steps[0].From.Kubernetes != before.Kubernetes {
		t.Errorf("before, the plan is %+v", p)
	}

	stopScheduler()
	r.schedule(km, mesosPort, "--rollout-delay=0s")
	r.await(km, "nodes wait for the API server", func(n liveNode) bool {
		return n.Kubelet == before.Kubernetes && n.CordonedFor == "" && n.Rollout != nil && strings.Contains(n.Rollout.Reason, "is newer than the API server")
	})
	p = r.planned(km, snapshot)
	if p.kinds() != "apiserver node" || !strings.Contains(strings.Join(p.Warnings, " "), "starts and replaces no minion") {
		t.Errorf("with the new scheduler alone the plan is %+v", p)
	}

	r.restartControlPlane(km)
	r.await(km, "all nodes are upgraded", func(n liveNode) bool {
		return n.Kubelet == api.KubernetesVersion && n.Ready && n.CordonedFor == "" && n.Rollout == nil
	})
	if p = r.planned(km, snapshot); len(p.Steps)+len(p.Blocks) > 0 {
		t.Errorf("after it the plan is %+v", p)
	}
	r.awaitReplicas("shop", 3, time.Minute)
	r.intact(km)

	r.restartControlPlane(km, "--pod-max-pids=999")
	r.await(km, "all nodes have the new setting", func(n liveNode) bool {
		return n.Settings == "current" && n.Ready && n.CordonedFor == "" && n.Rollout == nil && r.podPids(n.Node) == 999
	})
	r.awaitReplicas("shop", 3, time.Minute)
	r.intact(km)
	if failures := customer.leaves(); len(failures) > 0 {
		t.Errorf("%d requests failed meanwhile: %q", len(failures), failures[:min(20, len(failures))])
	}
}

// podPids is the limit in the configuration of a node's kubelet; 0 if it does not answer.
func (r *roles) podPids(node string) int {
	var config struct {
		KubeletConfig struct {
			PodPidsLimit int `json:"podPidsLimit"`
		} `json:"kubeletconfig"`
	}
	said, err := r.kube.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + node + "/proxy/configz").DoRaw(r.t.Context())
	if err != nil || json.Unmarshal(said, &config) != nil {
		return 0
	}
	return config.KubeletConfig.PodPidsLimit
}
