package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"sigs.k8s.io/knftables"
)

// enforced is an Enforcer that runs on a fake API server.
type enforced struct {
	*Enforcer
	t   *testing.T
	api *fake.Clientset
	nft *knftables.Fake
}

// run starts the Enforcer of node one over a fake kernel, which ends with the test.
func run(t *testing.T, objects ...runtime.Object) enforced {
	t.Helper()
	nft := knftables.NewFake(knftables.InetFamily, "t")
	e := enforced{newEnforcer("one", "t", &Table{nft: nft}), t, fake.NewClientset(objects...), nft}
	e.start(e.api)
	return e
}

func (e enforced) start(api *fake.Clientset) {
	ctx, cancel := context.WithCancel(e.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx, api) }()
	e.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			e.t.Errorf("it ended with %v", err)
		}
	})
}

// await waits until the kernel has a line, or has it no more.
func (e enforced) await(line string, there bool) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for strings.Contains(e.dump(), line) != there {
		select {
		case <-tick.C:
		case <-ctx.Done():
			e.t.Fatalf("the kernel has %q: %t\n%s", line, !there, e.dump())
		}
	}
}

func (e enforced) dump() string {
	e.nft.RLock()
	defer e.nft.RUnlock()
	if e.nft.Table == nil {
		return ""
	}
	return e.nft.Dump()
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name}}}
}

func apiPod(name, node, app, address string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}}
	pod.Spec.NodeName = node
	if address != "" {
		pod.Status.PodIPs = []corev1.PodIP{{IP: address}}
	}
	return pod
}

func denyWeb() *networkingv1.NetworkPolicy { return onWeb(nil, nil, networkingv1.PolicyTypeIngress) }

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestNewPodIsIsolatedBeforeTheAPIServerKnowsItsAddress(t *testing.T) {
	e := run(t, namespace("x"), denyWeb(), apiPod("web", "one", "web", ""))
	sandbox := Sandbox{ID: "s", Namespace: "x", UID: "web", Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	must(t, e.Attach(within(t), sandbox))
	if !strings.Contains(e.dump(), "{ 10.0.0.2 : goto ingress-pods/x/") {
		t.Errorf("the pod may talk, and the kernel has\n%s", e.dump())
	}
	e.Detach("s")
	e.await("10.0.0.2", false)
}

func TestNewPodWaitsUntilThePoliciesAreKnown(t *testing.T) {
	e := enforced{newEnforcer("one", "t", nil), t, fake.NewClientset(namespace("x"), denyWeb()), knftables.NewFake(knftables.InetFamily, "t")}
	e.table = &Table{nft: e.nft}
	known := make(chan struct{})
	e.api.PrependReactor("list", "networkpolicies", func(ktesting.Action) (bool, runtime.Object, error) {
		select {
		case <-known:
			return false, nil, nil
		default:
			return true, nil, errors.New("the API server is away")
		}
	})
	done := make(chan error, 1)
	go func() {
		done <- e.Attach(within(t), Sandbox{ID: "s", Namespace: "x", UID: "static", Labels: map[string]string{"app": "web"},
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}})
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := e.Attach(ctx, Sandbox{ID: "other"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call whose time is over: %v", err)
	}
	e.start(e.api)
	select {
	case err := <-done:
		t.Errorf("the pod may talk though no policy is known: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(known)
	must(t, <-done)
	e.await("{ 10.0.0.2 : goto", true)
}

func TestRulesFollowTheAPIServer(t *testing.T) {
	e := run(t, namespace("x"), apiPod("web", "one", "web", "10.0.0.2"), apiPod("friend", "two", "friend", "10.0.1.2"))
	ctx := within(t)
	policy := onWeb([]networkingv1.NetworkPolicyIngressRule{{From: friends()}}, nil, networkingv1.PolicyTypeIngress)
	_, err := e.api.NetworkingV1().NetworkPolicies("x").Create(ctx, policy, metav1.CreateOptions{})
	must(t, err)
	e.await("10.0.0.2 : goto", true)
	e.await(" { 10.0.1.2 }", true)
	pods := e.api.CoreV1().Pods("x")
	_, err = pods.Create(ctx, apiPod("late", "two", "friend", "10.0.1.3"), metav1.CreateOptions{})
	must(t, err)
	e.await(" { 10.0.1.3 }", true)
	enemy := apiPod("late", "two", "enemy", "10.0.1.3")
	_, err = pods.Update(ctx, enemy, metav1.UpdateOptions{})
	must(t, err)
	e.await(" { 10.0.1.3 }", false)
	must(t, pods.Delete(ctx, "friend", metav1.DeleteOptions{}))
	e.await(" { 10.0.1.2 }", false)
	must(t, e.api.NetworkingV1().NetworkPolicies("x").Delete(ctx, policy.Name, metav1.DeleteOptions{}))
	e.await("10.0.0.2", false)
}

func TestClusterWithoutPoliciesIsAskedForNoPods(t *testing.T) {
	e := run(t, namespace("x"), apiPod("web", "one", "web", "10.0.0.2"))
	must(t, e.Attach(within(t), Sandbox{ID: "s", UID: "web", Namespace: "x"}))
	for _, action := range e.api.Actions() {
		if action.GetResource().Resource != "networkpolicies" {
			t.Errorf("it was asked to %s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}
}

func TestPodWhoseRulesTheKernelRefusesIsToldSoAndTheRulesAreTriedAgain(t *testing.T) {
	refusing := &refusingKernel{Fake: knftables.NewFake(knftables.InetFamily, "t")}
	e := enforced{newEnforcer("one", "t", &Table{nft: refusing}), t, fake.NewClientset(namespace("x"), denyWeb()), refusing.Fake}
	e.start(e.api)
	sandbox := Sandbox{ID: "s", Namespace: "x", UID: "web", Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	if err := e.Attach(within(t), sandbox); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("err = %v", err)
	}
	e.await("10.0.0.2 : goto", true)
}

// refusingKernel refuses rules that isolate a pod, a change of them and then the whole.
type refusingKernel struct {
	*knftables.Fake
	refused int
}

func (k *refusingKernel) Run(ctx context.Context, tx *knftables.Transaction) error {
	if k.refused < 2 && strings.Contains(tx.String(), "10.0.0.2") {
		k.refused++
		return errors.New("no space")
	}
	return k.Fake.Run(ctx, tx)
}

func TestOnlyWhatPoliciesGoByIsKept(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := apiPod("web", "one", "web", "10.0.0.2")
	pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "static", "note": strings.Repeat("x", 1000)}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v"}}
	pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "i", Env: []corev1.EnvVar{{Name: "SECRET", Value: "s"}}, Ports: []corev1.ContainerPort{
		{Name: "web", ContainerPort: 80, Protocol: corev1.ProtocolTCP}, {ContainerPort: 81, Protocol: corev1.ProtocolTCP}}}}
	pod.Spec.InitContainers = []corev1.Container{
		{Name: "init", Ports: []corev1.ContainerPort{{Name: "never", ContainerPort: 82, Protocol: corev1.ProtocolTCP}}},
		{Name: "sidecar", RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "side", ContainerPort: 83, Protocol: corev1.ProtocolUDP}}},
	}
	trimmed, err := trimPod(pod)
	must(t, err)
	if text := fmt.Sprintf("%+v", trimmed); strings.Contains(text, "SECRET") || strings.Contains(text, "kubelet") || strings.Contains(text, "xxx") {
		t.Errorf("kept: %s", text)
	}
	got := podOf(trimmed.(*corev1.Pod))
	if want := []Port{{"web", TCP, 80}, {"side", UDP, 83}}; got.UID != "static" || got.Node != "one" || !slices.Equal(got.Ports, want) {
		t.Errorf("%+v", got)
	}
	pod.Status.Phase = corev1.PodFailed
	if got := podOf(pod); len(got.Addresses) > 0 {
		t.Errorf("a pod that has ended has %v", got.Addresses)
	}
	pod.Status.Phase, pod.Spec.HostNetwork = corev1.PodRunning, true
	if got := podOf(pod); len(got.Addresses) > 0 {
		t.Errorf("a pod on its node's network has %v", got.Addresses)
	}
}

func TestMachineWithoutNftSaysWhatToInstallAndHasNoRulesToRemove(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := New(Config{Cluster: "k8sm", Node: "one"}); err == nil || !strings.Contains(err.Error(), "apt-get install nftables") {
		t.Errorf("err = %v", err)
	}
	if err := Remove(t.Context(), "k8sm", "one"); err != nil {
		t.Error(err)
	}
}

func TestSandboxesThatAreNotKeptAreForgotten(t *testing.T) {
	e := run(t, namespace("x"), denyWeb())
	for i, id := range []string{"kept", "gone"} {
		e.Adopt(Sandbox{ID: id, Namespace: "x", UID: types.UID(id), Labels: map[string]string{"app": "web"}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}})
	}
	e.await("10.0.0.0 : goto", true)
	e.await("10.0.0.1 : goto", true)
	e.Keep([]string{"kept"})
	e.await("10.0.0.1 : goto", false)
	e.await("10.0.0.0 : goto", true)
}
