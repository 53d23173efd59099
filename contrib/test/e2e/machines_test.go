package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// web serves the pod's name on port 8080, and 250 KB at /big.
const web = "mkdir /www; dd if=/dev/zero of=/www/big bs=1k count=250 2>/dev/null; echo \"I am $HOSTNAME\" | tee /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"

// The tests below share one cluster of three nodes and run in order: the last ones kill and stop it.
func TestNodesOfOneMachine(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir, "--nodes=3", "--node-cidr=10.214.7.0/28", "--v1beta1-address=127.0.0.1:0")
		pods := map[string]*corev1.Pod{}
		for _, node := range []string{"node-1", "node-2", "node-3"} {
			p := pod("on-"+node, web)
			p.Labels, p.Spec.NodeSelector = map[string]string{"app": "web"}, map[string]string{corev1.LabelHostname: node}
			pods[node] = create(t, c, p)
		}
		for node := range pods {
			pods[node] = awaitPhase(t, c, "on-"+node, corev1.PodRunning)
		}
		t.Run("nodes are ready, each with an address and an Engine of its own", func(t *testing.T) { nodesDiffer(t, c, pods) })
		t.Run("logs, exec and port-forward reach pods on every node", func(t *testing.T) { podsAreReached(t, c, pods) })
		t.Run("the API server reaches pods on every node", func(t *testing.T) { apiServerReaches(t, c, pods) })
		t.Run("this machine reaches pods, and services at every node", func(t *testing.T) { thisMachineReaches(t, c, pods) })
		t.Run("pods on every node reach the API server", func(t *testing.T) { apiServerIsReached(t, c) })
		t.Run("pods of different nodes reach each other by their own addresses", func(t *testing.T) { podsOfNodesMeet(t, c) })
		t.Run("the page about security says what is", func(t *testing.T) { securityIsAsThePageSays(t, c, dir, pods[targetNode]) })
		t.Run("a node that is slowed down is slow", func(t *testing.T) { slowedDown(t, c, pods["node-3"]) })
		t.Run("pods of a node that is cut off are replaced, and none runs twice when it is back", func(t *testing.T) { cutOff(t, c) })
		var writing *countingPods
		t.Run("pods write while the log store, a minion and a Docker Engine are killed", func(t *testing.T) {
			writing = startCounting(t, c, dir)
			writing.survive(t, c)
		})
		t.Run("nodes of a km up that was killed are taken over, and lines of pods are stored once", func(t *testing.T) { takenOver(t, c, dir, pods, writing) })
	})
}

func nodesDiffer(t *testing.T, c *scratch.Cluster, pods map[string]*corev1.Pod) {
	want := map[string]string{"node-1": "10.214.7.2", "node-2": "10.214.7.3", "node-3": "10.214.7.4"}
	err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error { // their kubelets have just started
		nodes, err := c.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		got := map[string]string{}
		for _, node := range nodes.Items {
			for _, address := range node.Status.Addresses {
				if address.Type == corev1.NodeInternalIP && api.NodeReady(&node) {
					got[node.Name] = address.Address
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("the ready nodes and their addresses (-want +got):\n%s", diff)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for name, docker := range c.Engines {
		list, err := docker.ContainerList(t.Context(), container.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 2 || list[0].Labels["io.kubernetes.pod.uid"] != string(pods[name].UID) { // and its sandbox
			t.Errorf("the Engine of %s runs %v", name, list)
		}
	}
	if pods["node-1"].Status.HostIP != "10.214.7.2" {
		t.Errorf("the pod's host is %s", pods["node-1"].Status.HostIP)
	}
}

func podsAreReached(t *testing.T, c *scratch.Cluster, pods map[string]*corev1.Pod) {
	for _, p := range pods {
		for _, args := range [][]string{{"logs", p.Name}, {"exec", p.Name, "--", "/bin/busybox", "cat", "/www/index.html"}} {
			out, err := c.KM(within(t, 30*time.Second), append([]string{"kubectl"}, args...)...).CombinedOutput()
			if err != nil || string(out) != "I am "+p.Name+"\n" {
				t.Errorf("%v: %v, %q", args, err, out)
			}
		}
		if got, err := forwarded(t, c, p.Name); err != nil || got != "I am "+p.Name+"\n" {
			t.Errorf("port-forward to %s: %v, %q", p.Name, err, got)
		}
	}
}

// forwarded gets the page of a pod through a port that is forwarded to it.
func forwarded(t *testing.T, c *scratch.Cluster, name string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := c.KM(ctx, "kubectl", "port-forward", "pod/"+name, ":8080")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", err
	}
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	response, err := http.Get("http://" + address)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func apiServerReaches(t *testing.T, c *scratch.Cluster, pods map[string]*corev1.Pod) {
	for _, p := range pods {
		got, err := c.Kube.CoreV1().Pods("default").ProxyGet("http", p.Name, "8080", "/", nil).DoRaw(within(t, 30*time.Second))
		if err != nil || string(got) != "I am "+p.Name+"\n" {
			t.Errorf("%s answers %q, %v", p.Name, got, err)
		}
	}
}

func thisMachineReaches(t *testing.T, c *scratch.Cluster, pods map[string]*corev1.Pod) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 8080}}}}
	service, err := c.Kube.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(host string, port int32, want string) {
		err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) error { // kube-proxies learn of it in their time
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/", host, port), nil)
			if err != nil {
				return err
			}
			response, err := (&http.Client{Timeout: 5 * time.Second}).Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); err != nil || !strings.HasPrefix(string(body), want) {
				return fmt.Errorf("%q, %w", body, err)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, p := range pods {
		get(p.Status.PodIP, 8080, "I am "+p.Name+"\n")
		get(p.Status.HostIP, service.Spec.Ports[0].NodePort, "I am on-node-")
	}
}

func apiServerIsReached(t *testing.T, c *scratch.Cluster) {
	for node := range c.Engines {
		p := pod("calls-from-"+node, "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null")
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
		create(t, c, p)
	}
	for node := range c.Engines {
		remove(t, c, awaitPhase(t, c, "calls-from-"+node, corev1.PodSucceeded))
	}
}

func slowedDown(t *testing.T, c *scratch.Cluster, p *corev1.Pod) {
	node := func(args ...string) {
		if out, err := c.KM(t.Context(), append([]string{"node"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("km node %v: %v: %s", args, err, out)
		}
	}
	get := func() time.Duration {
		began := time.Now()
		got, err := c.Kube.CoreV1().Pods("default").ProxyGet("http", p.Name, "8080", "/big", nil).DoRaw(within(t, 30*time.Second))
		if err != nil || len(got) != 250<<10 {
			t.Errorf("%d bytes came: %v", len(got), err)
		}
		return time.Since(began)
	}
	node("slow", p.Spec.NodeName, "--rate=1M")
	if took := get(); took < 1800*time.Millisecond { // 2 Mbit, less what of it is let through at once
		t.Errorf("250 KB took %s at 1 Mbit/s", took)
	}
	node("heal", p.Spec.NodeName)
	t.Logf("250 KB took %s when the node was healed", get())
}

// spread runs a pod each on two nodes, which leave a node soon after it is not ready.
func spread() *appsv1.Deployment {
	labels, replicas, soon := map[string]string{"app": "spread"}, int32(2), int64(2)
	p := pod("", web)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{
			Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &soon,
		})
	}
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{LabelSelector: &metav1.LabelSelector{MatchLabels: labels}, TopologyKey: corev1.LabelHostname}},
	}}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "spread"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec},
	}}
}

// ready are the pods that the service leads to, by their nodes.
func ready(ctx context.Context, c *scratch.Cluster, service string) (map[string]string, error) {
	list, err := c.Kube.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	pods := map[string]string{}
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				pods[*endpoint.NodeName] = endpoint.TargetRef.Name
			}
		}
	}
	return pods, err
}

func cutOff(t *testing.T, c *scratch.Cluster) {
	if _, err := c.Kube.AppsV1().Deployments("default").Create(t.Context(), spread(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "spread"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "spread"}, Ports: []corev1.ServicePort{{Port: 8080}}}}
	if _, err := c.Kube.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := awaitReady(t, c, func(now map[string]string) bool { return len(now) == 2 })
	victim := slices.Sorted(maps.Keys(before))[0]
	lost, err := c.Kube.CoreV1().Pods("default").Get(t.Context(), before[victim], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.KM(t.Context(), "node", "cut", victim).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	began := time.Now()
	awaitReady(t, c, func(now map[string]string) bool { return now[victim] == "" })
	t.Logf("%s has left the endpoints after %s", lost.Name, time.Since(began).Round(time.Second))
	awaitReady(t, c, func(now map[string]string) bool { return now[victim] == "" && len(now) == 2 })
	t.Logf("it is replaced after %s", time.Since(began).Round(time.Second))
	if got := podContainers(t, c, victim, lost); len(got) != 2 {
		t.Errorf("the node that is cut off does not run on by itself: %v", got)
	}
	if out, err := c.KM(t.Context(), "node", "heal", victim).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	began = time.Now()
	awaitBack(t, c, victim, lost)
	t.Logf("%s is back, without the pod, after %s", victim, time.Since(began).Round(time.Second))
	awaitTask(t, c, lost, "")
	runsOnce(t, c)
	if err := c.Kube.AppsV1().Deployments("default").Delete(t.Context(), "spread", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	awaitReady(t, c, func(now map[string]string) bool { return len(now) == 0 })
}

// awaitReady waits until those that service "spread" leads to are as wanted.
func awaitReady(t *testing.T, c *scratch.Cluster, wanted func(map[string]string) bool) (now map[string]string) {
	t.Helper()
	err := scratch.Until(t.Context(), 2*time.Minute, func(ctx context.Context) (err error) {
		if now, err = ready(ctx, c, "spread"); err == nil && !wanted(now) {
			err = fmt.Errorf("the service leads to %v", now)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// podContainers are those of a pod that run on a node.
func podContainers(t *testing.T, c *scratch.Cluster, node string, p *corev1.Pod) []string {
	t.Helper()
	list, err := c.Engines[node].ContainerList(t.Context(), container.ListOptions{
		Filters: filters.NewArgs(filters.Arg("label", "io.kubernetes.pod.uid="+string(p.UID)))})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Names...)
	}
	return names
}

// awaitBack waits until the node is ready again and the pod that it has lost is gone from it and from the API.
func awaitBack(t *testing.T, c *scratch.Cluster, name string, lost *corev1.Pod) {
	t.Helper()
	err := scratch.Until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
		node, err := c.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !api.NodeReady(node) {
			return fmt.Errorf("node %s is %+v", name, node.Status.Conditions)
		}
		if p, err := c.Kube.CoreV1().Pods("default").Get(ctx, lost.Name, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("pod %s is still there: %s", lost.Name, p.Status.Phase)
		}
		if left := podContainers(t, c, name, lost); len(left) > 0 {
			return fmt.Errorf("%v still run", left)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// runsOnce compares the pods whose containers run on any node with those that the API says are there.
func runsOnce(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	list, err := c.Kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, p := range list.Items {
		want = append(want, p.Name+" on "+p.Spec.NodeName)
	}
	for node, docker := range c.Engines {
		containers, err := docker.ContainerList(t.Context(), container.ListOptions{
			Filters: filters.NewArgs(filters.Arg("label", "io.kubernetes.container.name=main"))})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range containers {
			got = append(got, s.Labels["io.kubernetes.pod.name"]+" on "+node)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pods in the API, and those that run (-API +run):\n%s", diff)
	}
}

func takenOver(t *testing.T, c *scratch.Cluster, dir string, pods map[string]*corev1.Pod, writing *countingPods) {
	started := map[string]map[string]string{}
	for node, p := range pods {
		started[node] = containers(t, c, p)
	}
	if out, err := c.KM(t.Context(), "node", "stop", "node-2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := c.Kill(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	out, err := c.KM(within(t, 30*time.Second), "up", "--nodes=2").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--nodes=3 --node-cidr=10.214.7.0/28") {
		t.Errorf("two nodes in place of three: %v, %s", err, out)
	}
	again := comeBack(t, c, dir)
	for node, p := range pods {
		awaitTask(t, again, p, "TASK_RUNNING")
		if diff := cmp.Diff(started[node], containers(t, again, p)); diff != "" {
			t.Errorf("the containers on %s are others, or started again: %s", node, diff)
		}
	}
	writing.areStored(t, again)
	stop(t, again, dir)
	if left, err := again.Processes(); err != nil || len(left) > 0 {
		t.Errorf("processes are left: %+v, %v", left, err)
	}
}
