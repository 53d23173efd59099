package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// The tests below share one cluster of two nodes with a pool of two addresses, and go on in their order.
func TestAddressesOfPools(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir, "--nodes=2")
		assigner(t, c, "pools: [{name: office, addresses: [198.51.100.0/30]}, {name: members, addresses: [198.51.100.8], namespaces: [members]}, {name: shop, addresses: [198.51.100.16/29]}]",
			"pool members added with 1 addresses, for pods of namespaces: members\npool office added with 2 addresses\npool shop added with 6 addresses\n", "import", "-")
		assigner(t, c, "pools: [{name: office, addresses: [198.51.100.0/30]}, {name: lab, addresses: [10.244.9.9]}]",
			"pool lab overlaps 10.244.0.0/16, which is the cluster's pod range", "import", "-")
		first := create(t, c, pooled("first", "node-1", ""))
		second := create(t, c, pooled("second", "node-2", "198.51.100.2"))
		awaitAddress(t, c, "first", "198.51.100.1")
		awaitAddress(t, c, "second", "198.51.100.2")
		t.Run("pods see each other by the addresses, across nodes and by a service", func(t *testing.T) { meet(t, c) })
		t.Run("a pod of another namespace gets no address of a pool", func(t *testing.T) { notForAll(t, c) })
		t.Run("pods are committed and taken over", func(t *testing.T) { commits(t, c) })
		t.Run("a pod that finds no free address waits and says so", func(t *testing.T) { exhausted(t, c, second) })
		t.Run("an address is kept when containers or the sandbox are made anew", func(t *testing.T) { keptByRestarts(t, c, first) })
		t.Run("an address is kept when the cluster's programs are killed", func(t *testing.T) { keptByCrashes(t, c, dir, first) })
	})
}

// assigner runs km assigner, which has to say what is wanted.
func assigner(t *testing.T, c *scratch.Cluster, stdin, want string, args ...string) {
	t.Helper()
	cmd := c.KM(within(t, 30*time.Second), append([]string{"assigner"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if text := strings.Join(strings.Fields(string(out)), " "); !strings.Contains(text, strings.Join(strings.Fields(want), " ")) {
		t.Errorf("km assigner %v: %v\n%swant %q", args, err, out, want)
	}
}

// pooled is a pod with an address of the pool, which serves at port 80 and logs who calls.
func pooled(name, node, address string) *corev1.Pod {
	p := pod(name, "/bin/busybox mkdir -p /www; trap 'exit 0' TERM; /bin/busybox httpd -f -vv -p 80 -h /www & wait")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	p.Labels, p.Annotations = map[string]string{"app": name}, map[string]string{api.AnnotationIPPool: "office"}
	if address != "" {
		p.Annotations[api.AnnotationIP] = address
	}
	p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return p
}

func awaitAddress(t *testing.T, c *scratch.Cluster, name, want string) *corev1.Pod {
	t.Helper()
	p := awaitPhase(t, c, name, corev1.PodRunning)
	if p.Status.PodIP != want || p.Annotations[api.AnnotationIPAssigned] != want {
		t.Errorf("pod %s has %s and the annotations %v, want %s", name, p.Status.PodIP, p.Annotations, want)
	}
	return p
}

// callOnce is a command that requests something of the server at an address.
const callOnce = "echo 'GET / HTTP/1.0\n' | /bin/busybox nc -w 5 %s 80"

// calls runs a pod on the node whose first call has to reach the address. It returns the address that the pod has itself.
func calls(t *testing.T, c *scratch.Cluster, name, node, address string) (own string) {
	t.Helper()
	return runs(t, c, name, node, fmt.Sprintf(callOnce, address))
}

// runs runs a pod on the node, which has to succeed, and returns its address.
func runs(t *testing.T, c *scratch.Cluster, name, node, script string) (own string) {
	t.Helper()
	p := pod(name, script)
	p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	p = create(t, c, p)
	own = awaitPhase(t, c, name, corev1.PodSucceeded).Status.PodIP
	remove(t, c, p)
	return own
}

// hears waits until the pod's log has the address of a caller.
func hears(t *testing.T, c *scratch.Cluster, name, caller string) {
	t.Helper()
	err := scratch.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		log, err := c.Kube.CoreV1().Pods("default").GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err == nil && !strings.Contains(string(log), caller) {
			err = fmt.Errorf("pod %s has not heard of %s:\n%s", name, caller, log)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func meet(t *testing.T, c *scratch.Cluster) {
	service, err := c.Kube.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "second"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "second"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hears(t, c, "first", calls(t, c, "far", "node-2", "198.51.100.1"))
	hears(t, c, "first", calls(t, c, "near", "node-1", "198.51.100.1"))
	// A proxy learns of the service in its own time.
	hears(t, c, "second", runs(t, c, "by-service", "node-1", fmt.Sprintf("until "+callOnce+"; do /bin/busybox sleep 1; done", service.Spec.ClusterIP)))
	// A pod of the pool calls the other one, by its service too: it is seen by its own address.
	out, err := c.KM(within(t, time.Minute), "kubectl", "exec", "first", "--", "/bin/busybox", "sh", "-c",
		fmt.Sprintf("for ip in 198.51.100.2 %s; do echo 'GET / HTTP/1.0\n' | /bin/busybox nc -w 5 $ip 80 || exit; done", service.Spec.ClusterIP)).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	hears(t, c, "second", "198.51.100.1")
}

func notForAll(t *testing.T, c *scratch.Cluster) {
	p := pooled("stranger", "node-1", "198.51.100.8")
	p.Annotations[api.AnnotationIPPool] = "members"
	p = create(t, c, p)
	operatorSees(t, c, "queue", "default ", " stranger ", "address pool members (annotation k8sm.io/ip-pool) is not for pods in namespace default")
	assigner(t, c, "", "members 0 1 members 198.51.100.8", "list")
	remove(t, c, p)
}

func exhausted(t *testing.T, c *scratch.Cluster, second *corev1.Pod) {
	third := create(t, c, pooled("third", "node-2", ""))
	operatorSees(t, c, "queue", "default ", " third ", "address pool office has no free address: all 2 are in use")
	err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		events, err := c.Kube.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=third"})
		for i := 0; err == nil && i < len(events.Items); i++ {
			if strings.Contains(events.Items[i].Message, "no free address") {
				return nil
			}
		}
		return errors.Join(err, errors.New("no event says why it waits"))
	})
	if err != nil {
		t.Error(err)
	}
	assigner(t, c, "pools: []", "198.51.100.1 of pool office, in use by pod default/first", "import", "-")
	assigner(t, c, "", "its pod default/second exists", "release", "office/198.51.100.2")
	remove(t, c, second)
	awaitAddress(t, c, "third", "198.51.100.2")
	// A node learns from the API that an address is on another node again, which may take longer than the start of a pod.
	hears(t, c, "third", runs(t, c, "far-again", "node-1", fmt.Sprintf("for i in 1 2 3 4 5; do "+callOnce+"; /bin/busybox sleep 1; done", "198.51.100.2")))
	remove(t, c, third)
	err = scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		out, err := c.KM(ctx, "assigner", "list").CombinedOutput()
		if err == nil && strings.Contains(string(out), "198.51.100.2") {
			err = fmt.Errorf("the address is still in use:\n%s", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func keptByRestarts(t *testing.T, c *scratch.Cluster, first *corev1.Pod) {
	before := containers(t, c, first) // the sandbox among them
	for _, docker := range engines(c) {
		for id := range before {
			_ = docker.ContainerKill(t.Context(), id, "KILL") // the other engines do not know it
		}
	}
	err := scratch.Until(t.Context(), 60*time.Second, func(ctx context.Context) error {
		p, err := c.Kube.CoreV1().Pods("default").Get(ctx, first.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now := containers(t, c, first)
		for id := range before {
			if now[id] != "" {
				return fmt.Errorf("container %s still runs", id)
			}
		}
		if s := p.Status.ContainerStatuses; len(now) < 2 || s[0].RestartCount == 0 || s[0].State.Running == nil {
			return fmt.Errorf("it is not back: %v %+v", now, s)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	awaitAddress(t, c, first.Name, "198.51.100.1")
	hears(t, c, first.Name, calls(t, c, "far-after-restart", "node-2", "198.51.100.1"))
}

func keptByCrashes(t *testing.T, c *scratch.Cluster, dir string, first *corev1.Pod) {
	steady := pod("steady", fmt.Sprintf("while "+callOnce+"; do /bin/busybox sleep 0.2; done", "198.51.100.1"))
	steady.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "node-2"}
	create(t, c, steady)
	own := awaitPhase(t, c, steady.Name, corev1.PodRunning).Status.PodIP
	kill(t, c, "minion")
	awaitTask(t, c, first, "TASK_RUNNING")
	if err := c.Kill(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	again := comeBack(t, c, dir)
	awaitTask(t, again, first, "TASK_RUNNING")
	awaitAddress(t, again, first.Name, "198.51.100.1")
	assigner(t, again, "", "office/198.51.100.1   default/first", "list")
	create(t, again, pooled("fourth", "node-2", ""))
	awaitAddress(t, again, "fourth", "198.51.100.2")
	hears(t, again, first.Name, calls(t, again, "far-after-crash", "node-2", "198.51.100.1"))
	hearsOnly(t, again, first.Name, own)
	awaitPhase(t, again, steady.Name, corev1.PodRunning) // no call of it failed
	stop(t, again, dir)
}

// hearsOnly checks that all who called the pod came by addresses of pods, the given caller among them.
func hearsOnly(t *testing.T, c *scratch.Cluster, name, caller string) {
	t.Helper()
	log, err := c.Kube.CoreV1().Pods("default").GetLogs(name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	heard := map[string]int{}
	for _, match := range regexp.MustCompile(`\[::ffff:([0-9.]+)\]:\d+: url:`).FindAllSubmatch(log, -1) {
		heard[string(match[1])]++
	}
	for from := range heard {
		if !strings.HasPrefix(from, "10.244.") {
			t.Errorf("pod %s took a pod for %s: %v", name, from, heard)
		}
	}
	if heard[caller] < 10 {
		t.Errorf("pod %s has heard of %v, too little of %s:\n%s", name, heard, caller, log)
	}
}
