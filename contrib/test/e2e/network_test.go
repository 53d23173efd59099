package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// greeter serves a page and logs the address of each that gets it.
const greeter = "mkdir /www; echo hello >/www/index.html; trap 'exit 0' TERM; httpd -f -vv -p 8080 -h /www 2>&1 & wait"

// greeters are a pod on each node that say hello.
func greeters(t *testing.T, c *scratch.Cluster, nodes ...string) (list []*corev1.Pod) {
	t.Helper()
	for _, node := range nodes {
		p := pod("greets-on-"+node, greeter)
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
		create(t, c, p)
	}
	for _, node := range nodes {
		list = append(list, awaitPhase(t, c, "greets-on-"+node, corev1.PodRunning))
	}
	return list
}

// podsMeet sees that each of the pods reaches the others by all their addresses, and is known to them by its own.
func podsMeet(t *testing.T, c *scratch.Cluster, pods []*corev1.Pod) {
	t.Helper()
	for _, from := range pods {
		for _, to := range pods {
			for i := range to.Status.PodIPs {
				if from == to {
					continue
				}
				if err := meets(t.Context(), c, from, to, i); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// meets is podsMeet for the addresses of one family, which stand at the index.
func meets(ctx context.Context, c *scratch.Cluster, from, to *corev1.Pod, family int) error {
	at, known := to.Status.PodIPs[family].IP, from.Status.PodIPs[family].IP
	call := fmt.Sprintf("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 %s 8080", at)
	out, err := c.KM(ctx, "kubectl", "exec", from.Name, "--", "/bin/busybox", "sh", "-c", call).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "hello") {
		return fmt.Errorf("%s calls %s at %s: %w, %q", from.Name, to.Name, at, err, out)
	}
	return scratch.Until(ctx, 10*time.Second, func(ctx context.Context) error {
		log, err := c.KM(ctx, "kubectl", "logs", to.Name).CombinedOutput()
		if err == nil && !strings.Contains(string(log), known) {
			err = fmt.Errorf("%s does not know %s by its address %s, but logs %s", to.Name, from.Name, known, log)
		}
		return err
	})
}

// podsOfNodesMeet is about nodes that share a link: there is a route to each.
func podsOfNodesMeet(t *testing.T, c *scratch.Cluster) {
	pods := greeters(t, c, "node-1", "node-2", "node-3")
	podsMeet(t, c, pods)
	if routes := onNode(t, "node-1", "ip", "route", "show", "proto", "75"); strings.Count(routes, " via 10.214.7.") != 2 || strings.Contains(routes, "kmx") {
		t.Errorf("the routes of node-1 are %s", routes)
	}
	for _, p := range pods {
		remove(t, c, p)
	}
}

// onNode runs a command in the network namespace of a node.
func onNode(t *testing.T, node string, command ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + namespaceOf(t, node)}, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v on %s: %v: %s", command, node, err, out)
	}
	return string(out)
}

func TestPodsOfSeveralNodesMeetByVXLANInBothFamiliesAlsoAfterOthersFlushedRulesAndRoutes(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir, "--nodes=2", "--node-cidr=10.214.8.0/28,fd00:214:8::/64", "--network=vxlan", "--vxlan-port=8473", "--vxlan-vni=77",
			"--cluster-cidr=10.244.0.0/16,fd00:244::/48", "--service-cluster-ip-range=10.96.0.0/16,fd96::/112")
		pods := greeters(t, c, "node-1", "node-2")
		if len(pods[0].Status.PodIPs) != 2 || !strings.HasPrefix(pods[0].Status.PodIPs[1].IP, "fd00:244:") {
			t.Errorf("a pod's addresses are %v", pods[0].Status.PodIPs)
		}
		podsMeet(t, c, pods)
		if out := onNode(t, "node-1", "ip", "-d", "link", "show", "type", "vxlan"); !strings.Contains(out, "id 77 ") || !strings.Contains(out, "dstport 8473") || !strings.Contains(out, "mtu 1450") {
			t.Errorf("the VXLAN device is %s", out)
		}
		mtu, err := c.KM(t.Context(), "kubectl", "exec", pods[0].Name, "--", "/bin/busybox", "cat", "/sys/class/net/eth0/mtu").CombinedOutput()
		if err != nil || strings.TrimSpace(string(mtu)) != "1450" {
			t.Errorf("a pod's MTU is %q, %v", mtu, err)
		}
		onNode(t, "node-1", "iptables", "-t", "nat", "-F")
		onNode(t, "node-1", "iptables", "-F")
		onNode(t, "node-1", "ip", "route", "flush", "proto", "75")
		began := time.Now()
		err = scratch.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
			if rules := onNode(t, "node-1", "iptables", "-S", "FORWARD") + onNode(t, "node-1", "iptables", "-t", "nat", "-S", "POSTROUTING"); strings.Count(rules, "K8SM-") != 2 {
				return fmt.Errorf("the chains are %s", rules)
			}
			return meets(ctx, c, pods[0], pods[1], 0)
		})
		if took := time.Since(began); err != nil || took > 15*time.Second { // 10 s, and the call
			t.Errorf("flushed rules and routes are back after %s: %v", took, err)
		}
		podsMeet(t, c, pods)
	})
}

// cniConf is what the plugins of Debian's package containernetworking-plugins are told.
const cniConf = `{"cniVersion": "0.4.0", "name": "e2e", "plugins": [
	{"type": "bridge", "bridge": "e2e0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "capabilities": {"ipRanges": true},
	 "ipam": {"type": "host-local", "dataDir": "DIR/given", "routes": [{"dst": "0.0.0.0/0"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

func TestPodsAreOnTheNetworkOfACNIPluginOnceItIsInstalled(t *testing.T) {
	dir, conf := stateDir(t), t.TempDir()
	c := up(t, dir, "--network=cni", "--cni-conf-dir="+conf, "--cni-bin-dir=/usr/lib/cni", "--warm-nodes=all")
	p := pod("greets", greeter)
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 31999}}
	create(t, c, p)
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		nodes, err := c.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		for _, node := range nodes.Items {
			for _, condition := range node.Status.Conditions {
				if condition.Type == corev1.NodeReady && strings.Contains(condition.Message, "no CNI configuration in "+conf) {
					return nil
				}
			}
		}
		return fmt.Errorf("no node says that it has no CNI configuration: %w", err)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, "10-e2e.conflist"), []byte(strings.ReplaceAll(cniConf, "DIR", conf)), 0o600); err != nil {
		t.Fatal(err)
	}
	p = awaitPhase(t, c, p.Name, corev1.PodRunning)
	given := filepath.Join(conf, "given", "e2e", p.Status.PodIP)
	if _, err := os.Stat(given); err != nil || !strings.HasPrefix(p.Status.PodIP, "10.244.0.") {
		t.Errorf("the pod's address %s is none of the plugins': %v", p.Status.PodIP, err)
	}
	for _, url := range []string{"http://" + p.Status.PodIP + ":8080/", "http://" + p.Status.HostIP + ":31999/"} {
		response, err := http.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != "hello\n" {
			t.Errorf("%s answers %q, %v", url, body, err)
		}
	}
	remove(t, c, p)
	err = scratch.Until(t.Context(), 30*time.Second, func(context.Context) error {
		if _, err := os.Stat(given); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the address of the pod that is gone is still given out: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("iptables-save", "-t", "nat").CombinedOutput(); err != nil || strings.Contains(string(out), p.Status.PodIP+"/32") {
		t.Errorf("the plugin has left its rules: %v\n%s", err, out)
	}
	if out, err := exec.Command("ip", "link", "delete", "e2e0").CombinedOutput(); err != nil { // the plugin leaves it
		t.Errorf("%v: %s", err, out)
	}
}
