package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/contrib/scratch"
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

// podsMeet sees that each of the pods reaches the others, and is known to them by its own address.
func podsMeet(t *testing.T, c *scratch.Cluster, pods []*corev1.Pod) {
	t.Helper()
	for _, from := range pods {
		for _, to := range pods {
			if from != to {
				if err := meets(t.Context(), c, from, to); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func meets(ctx context.Context, c *scratch.Cluster, from, to *corev1.Pod) error {
	call := fmt.Sprintf("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 %s 8080", to.Status.PodIP)
	out, err := c.KM(ctx, "kubectl", "exec", from.Name, "--", "/bin/busybox", "sh", "-c", call).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "hello") {
		return fmt.Errorf("%s calls %s at %s: %w, %q", from.Name, to.Name, to.Status.PodIP, err, out)
	}
	return scratch.Until(ctx, 10*time.Second, func(ctx context.Context) error {
		log, err := c.KM(ctx, "kubectl", "logs", to.Name).CombinedOutput()
		if err == nil && !strings.Contains(string(log), from.Status.PodIP) {
			err = fmt.Errorf("%s does not know %s by its address %s, but logs %s", to.Name, from.Name, from.Status.PodIP, log)
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
	namespaces, err := filepath.Glob("/run/netns/*-" + node)
	if err != nil || len(namespaces) != 1 {
		t.Fatalf("namespaces of %s: %v %v", node, namespaces, err)
	}
	out, err := exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + namespaces[0]}, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v on %s: %v: %s", command, node, err, out)
	}
	return string(out)
}

func TestPodsOfSeveralNodesMeetByVXLANAlsoAfterOthersFlushedRulesAndRoutes(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir, "--nodes=2", "--node-cidr=10.214.8.0/28", "--network=vxlan", "--vxlan-port=8473", "--vxlan-vni=77")
		pods := greeters(t, c, "node-1", "node-2")
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
			return meets(ctx, c, pods[0], pods[1])
		})
		if took := time.Since(began); err != nil || took > 15*time.Second { // 10 s, and the call
			t.Errorf("flushed rules and routes are back after %s: %v", took, err)
		}
		podsMeet(t, c, pods)
	})
}
