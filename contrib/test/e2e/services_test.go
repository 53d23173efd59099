package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// servicesCluster has two nodes, and on each a pod that serves, one that calls, and one that calls from the node's own network.
type servicesCluster struct {
	*scratch.Cluster
	addresses map[string]string // of the nodes
	first     place             // node-1
}

// fromOutside is who calls from a machine that is no node.
const fromOutside = "outside"

func TestServices(t *testing.T) {
	for _, mode := range []string{"iptables", "nftables"} {
		t.Run(mode, func(t *testing.T) {
			dir := stateDir(t)
			leavesNothing(t, func(t *testing.T) {
				c := startServices(t, dir, mode)
				t.Run("a service's address leads to all of its pods, from pods and nodes", func(t *testing.T) { clusterIPs(t, c) })
				t.Run("a node port does on every node, from outside too", func(t *testing.T) { nodePorts(t, c) })
				t.Run("a client with affinity stays with one pod", func(t *testing.T) { affinity(t, c) })
				t.Run("an external address leads to a service", func(t *testing.T) { externalIPs(t, c) })
				t.Run("the address of a load balancer does when somebody writes it into the status", func(t *testing.T) { loadBalancer(t, c) })
				t.Run("internal traffic stays on its node if it is to", func(t *testing.T) { internalPolicy(t, c) })
				t.Run("external traffic stays on its node with the client's address if it is to", func(t *testing.T) { externalPolicy(t, c) })
				t.Run("pods have the variables of the services that there are", func(t *testing.T) { variables(t, c) })
				t.Run("connections live, and new ones succeed, while services change and kube-proxy is killed", func(t *testing.T) { connectionsKept(t, c) })
				t.Run("packets from one port follow the endpoints", func(t *testing.T) { datagramsFollow(t, c) })
				t.Run("a service whose pods are gone refuses, and one that has them again answers", func(t *testing.T) { endpointsChange(t, c) })
			})
		})
	}
}

func startServices(t *testing.T, dir, mode string) *servicesCluster {
	t.Helper()
	c := &servicesCluster{up(t, dir, "--nodes=2", "--node-cidr=10.214.8.0/28", "--proxy-mode="+mode, "--service-external-ips=203.0.113.80/32"), map[string]string{}, place{}}
	c.first.namespace = namespaceOf(t, "node-1")
	for _, node := range []string{"node-1", "node-2"} {
		number := strings.TrimPrefix(node, "node-")
		for _, p := range []*corev1.Pod{server(number), pod("caller-"+number, forever), pod("host-"+number, forever)} {
			p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
			p.Spec.HostNetwork = strings.HasPrefix(p.Name, "host-")
			create(t, c.Cluster, p)
		}
	}
	for _, name := range []string{"server-1", "server-2", "caller-1", "caller-2", "host-1", "host-2"} {
		p := awaitPhase(t, c.Cluster, name, corev1.PodRunning)
		c.addresses[p.Spec.NodeName] = p.Status.HostIP
	}
	return c
}

// server answers with its name and the address that it sees its client have.
func server(number string) *corev1.Pod {
	name := "server-" + number
	p := pod(name, "mkdir -p /www/cgi-bin; printf '#!/bin/busybox sh\\necho; echo "+name+" $REMOTE_ADDR\\n' >/www/cgi-bin/who; "+
		"chmod +x /www/cgi-bin/who; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait")
	p.Labels = map[string]string{"app": "server", "number": number}
	return p
}

// serve makes a service on port 80 of the pods with the label, all servers if it is "".
func (c *servicesCluster) serve(t *testing.T, name, number string, change func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	spec := corev1.ServiceSpec{
		Selector: map[string]string{"app": "server"},
		Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}
	if number != "" {
		spec.Selector["number"] = number
	}
	if change != nil {
		change(&spec)
	}
	return service(t, c.Cluster, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
}

// call asks a server from a pod, or from outside, and returns the server's name and the client as it sees it.
func (c *servicesCluster) call(ctx context.Context, from, address string) (server, client string, err error) {
	url := "http://" + address + "/cgi-bin/who"
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var body []byte
	if from == fromOutside {
		caller := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := caller.Get(url)
		if err != nil {
			return "", "", err
		}
		defer response.Body.Close()
		if body, err = io.ReadAll(response.Body); err != nil {
			return "", "", err
		}
	} else if body, err = c.KM(ctx, "kubectl", "exec", from, "--", "/bin/busybox", "sh", "-c", request(address)).Output(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", "", err
	}
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	server, client, _ = strings.Cut(lines[len(lines)-1], " ")
	return server, strings.TrimPrefix(strings.Trim(client, "[]"), "::ffff:"), nil
}

// request is a shell's: the static busybox's own wget does not work without a C library's files.
func request(address string) string {
	host, port, _ := net.SplitHostPort(address)
	return `set -o pipefail; printf 'GET /cgi-bin/who HTTP/1.0\r\n\r\n' | nc -w 3 ` + host + " " + port
}

// await calls until each of the servers has answered, and is content with no other answer.
func (c *servicesCluster) await(t *testing.T, from, address string, servers ...string) {
	t.Helper()
	seen := map[string]bool{}
	err := scratch.Until(t.Context(), 45*time.Second, func(ctx context.Context) error {
		for range 8 {
			server, _, err := c.call(ctx, from, address)
			if err != nil {
				return err
			}
			if !slices.Contains(servers, server) {
				return fmt.Errorf("answered by %q", server)
			}
			if seen[server] = true; len(seen) == len(servers) {
				return nil
			}
		}
		return fmt.Errorf("answered only by %v, want %v", seen, servers)
	})
	if err != nil {
		t.Errorf("%s from %s: %v", address, from, err)
	}
}

// awaitSilence calls until nobody answers.
func (c *servicesCluster) awaitSilence(t *testing.T, from, address string) (last error) {
	t.Helper()
	err := scratch.Until(t.Context(), 45*time.Second, func(ctx context.Context) error {
		var server string
		if server, _, last = c.call(ctx, from, address); last == nil {
			return fmt.Errorf("%s answers", server)
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s from %s: %v", address, from, err)
	}
	return last
}

func at(host string, port int32) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

func clusterIPs(t *testing.T, c *servicesCluster) {
	s := c.serve(t, "both", "", nil)
	for _, from := range []string{"caller-1", "host-2", "server-1"} {
		c.await(t, from, at(s.Spec.ClusterIP, 80), "server-1", "server-2")
	}
}

func nodePorts(t *testing.T, c *servicesCluster) {
	s := c.serve(t, "on-nodes", "", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	port := s.Spec.Ports[0].NodePort
	if port < 30000 || port > 30999 {
		t.Errorf("the node port is %d: Mesos may offer it", port)
	}
	for _, node := range []string{"node-1", "node-2"} {
		for _, from := range []string{fromOutside, "caller-1", "host-1"} {
			c.await(t, from, at(c.addresses[node], port), "server-1", "server-2")
		}
	}
}

func affinity(t *testing.T, c *servicesCluster) {
	s := c.serve(t, "sticky", "", func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
	address := at(s.Spec.ClusterIP, 80)
	var first string
	err := scratch.Until(t.Context(), 30*time.Second, func(ctx context.Context) (err error) {
		first, _, err = c.call(ctx, "caller-1", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 { // by chance this happens once in a thousand times
		if again, _, err := c.call(t.Context(), "caller-1", address); err != nil || again != first {
			t.Fatalf("answered by %s, and then by %q, %v", first, again, err)
		}
	}
}

// routed leads an address to a node, as the network around a cluster does.
func routed(t *testing.T, address, node string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", "route", "add", address+"/32", "via", node).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "route", "del", address+"/32", "via", node).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func externalIPs(t *testing.T, c *servicesCluster) {
	const address = "203.0.113.80"
	c.serve(t, "external", "", func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{address} })
	routed(t, address, c.addresses["node-2"])
	for _, from := range []string{fromOutside, "caller-1", "host-1"} {
		c.await(t, from, at(address, 80), "server-1", "server-2")
	}
}

func loadBalancer(t *testing.T, c *servicesCluster) {
	const address = "203.0.113.81"
	s := c.serve(t, "balanced", "", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeLoadBalancer })
	routed(t, address, c.addresses["node-1"])
	c.await(t, fromOutside, at(c.addresses["node-1"], s.Spec.Ports[0].NodePort), "server-1", "server-2")
	if _, _, err := c.call(t.Context(), fromOutside, at(address, 80)); err == nil {
		t.Error("it answers at an address that nobody gave it")
	}
	status := []byte(`{"status":{"loadBalancer":{"ingress":[{"ip":"` + address + `"}]}}}`)
	if _, err := c.Kube.CoreV1().Services("default").Patch(t.Context(), s.Name, types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{fromOutside, "caller-2"} {
		c.await(t, from, at(address, 80), "server-1", "server-2")
	}
}

func internalPolicy(t *testing.T, c *servicesCluster) {
	s := c.serve(t, "local", "2", func(s *corev1.ServiceSpec) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.InternalTrafficPolicy = &local
	})
	c.await(t, "caller-2", at(s.Spec.ClusterIP, 80), "server-2")
	_ = c.awaitSilence(t, "caller-1", at(s.Spec.ClusterIP, 80))
}

func externalPolicy(t *testing.T, c *servicesCluster) {
	node := func(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, policy }
	}
	anywhere := c.serve(t, "anywhere", "1", node(corev1.ServiceExternalTrafficPolicyCluster)).Spec.Ports[0].NodePort
	here := c.serve(t, "here", "1", node(corev1.ServiceExternalTrafficPolicyLocal)).Spec.Ports[0].NodePort
	c.await(t, fromOutside, at(c.addresses["node-2"], anywhere), "server-1")
	if _, client, err := c.call(t.Context(), fromOutside, at(c.addresses["node-2"], anywhere)); err != nil || client != c.addresses["node-2"] {
		t.Errorf("through another node the client is %q, %v", client, err)
	}
	c.await(t, fromOutside, at(c.addresses["node-1"], here), "server-1")
	if _, client, err := c.call(t.Context(), fromOutside, at(c.addresses["node-1"], here)); err != nil || client != "10.214.8.1" {
		t.Errorf("the client is %q, %v, and not who it was", client, err)
	}
	_ = c.awaitSilence(t, fromOutside, at(c.addresses["node-2"], here))
}

func variables(t *testing.T, c *servicesCluster) {
	s, err := c.Kube.CoreV1().Services("default").Get(t.Context(), "both", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := pod("reads", fmt.Sprintf(`set -x; [ "$BOTH_SERVICE_HOST:$BOTH_SERVICE_PORT" = %s:80 ] && [ "$BOTH_PORT" = tcp://%[1]s:80 ]`, s.Spec.ClusterIP))
	create(t, c.Cluster, p)
	awaitPhase(t, c.Cluster, p.Name, corev1.PodSucceeded)
}

func endpointsChange(t *testing.T, c *servicesCluster) {
	s := c.serve(t, "third", "3", nil)
	address := at(s.Spec.ClusterIP, 80)
	refuses := func() {
		t.Helper()
		if err := c.awaitSilence(t, "caller-1", address); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("without pods it says %v", err)
		}
	}
	refuses()
	p := create(t, c.Cluster, server("3"))
	c.await(t, "caller-1", address, "server-3")
	remove(t, c.Cluster, p)
	refuses()
}

func TestProxyOfNFTablesLeavesNothing(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir, "--proxy-mode=nftables")
		create(t, c, pod("caller", "until nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null; do sleep 1; done"))
		awaitPhase(t, c, "caller", corev1.PodSucceeded)
		if found := traces(t); !slices.Contains(found, "nft table ip kube-proxy") {
			t.Errorf("kube-proxy has no table of nftables: %q", found)
		}
	})
}

// keepsPortsForServices has an agent that offers one port for pods, 31000, and two for services.
func keepsPortsForServices(t *testing.T, c *scratch.Cluster, dir string) {
	wants := func(name string) *corev1.Pod {
		p := pod(name, forever)
		p.Annotations = map[string]string{"k8sm.io/port-mapping": "wildcard"}
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}}
		return create(t, c, p)
	}
	wants("first")
	if got := awaitPhase(t, c, "first", corev1.PodRunning).Annotations["k8sm.io/port-mappings"]; got != "80/TCP=31000" {
		t.Errorf("the pod has the ports %q", got)
	}
	operatorSees(t, c, "queue", wants("second").Name) // the others that the agent offers are for services
	log, err := os.ReadFile(filepath.Join(dir, "log", "km.log"))
	if err != nil || !strings.Contains(string(log), "offers ports:[30998-30999], which are NodePorts of services") {
		t.Errorf("the log says nothing of it, %v", err)
	}
}
