package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// The tests below share one cluster with a pod that serves.
func TestNetworkPolicies(t *testing.T) {
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir)
		address := serving(t, c)
		t.Run("a pod that may not talk does not, not even at first", func(t *testing.T) { silentFromTheStart(t, c, address) })
		t.Run("a pod is reached by those who may, and by its node", func(t *testing.T) { reachedByFriends(t, c, address) })
		t.Run("rules that something else removes come back", func(t *testing.T) { rulesComeBack(t, address) })
		t.Run("rules hold without a minion, and for the next one", func(t *testing.T) { rulesOutliveTheMinion(t, c, address) })
	})
}

// enforcesNothing checks --network-policy=false.
func enforcesNothing(t *testing.T, c *scratch.Cluster) {
	address := serving(t, c)
	enforce(t, c, "deny-all", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}})
	talks(t, c, "caller", "stranger", address)
	if table := policyTable(t.Context()); table != "" {
		t.Errorf("there are rules:\n%s", table)
	}
}

// serving returns the address of a pod that answers at port 80.
func serving(t *testing.T, c *scratch.Cluster) string {
	t.Helper()
	web := pod("web", "/bin/busybox mkdir /www; exec /bin/busybox httpd -f -p 80 -h /www")
	web.Labels = map[string]string{"app": "web"}
	web.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}
	create(t, c, web)
	return awaitPhase(t, c, web.Name, corev1.PodRunning).Status.PodIP
}

func enforce(t *testing.T, c *scratch.Cluster, name string, spec networkingv1.NetworkPolicySpec) {
	t.Helper()
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	if _, err := c.Kube.NetworkingV1().NetworkPolicies("default").Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// caller is a pod that runs a script in which $IP is an address.
func caller(name, app, address, script string) *corev1.Pod {
	p := pod(name, "IP="+address+"; "+script)
	p.Labels = map[string]string{"app": app}
	return p
}

// talks runs a pod that has to reach the address.
func talks(t *testing.T, c *scratch.Cluster, name, app, address string) {
	t.Helper()
	p := create(t, c, caller(name, app, address, "exec /bin/busybox nc -w 5 $IP 80 </dev/null"))
	awaitPhase(t, c, name, corev1.PodSucceeded)
	remove(t, c, p)
}

// silenced runs a pod until it does not reach the address any more.
func silenced(t *testing.T, c *scratch.Cluster, name, app, address string) {
	t.Helper()
	p := create(t, c, caller(name, app, address, "while /bin/busybox nc -w 2 $IP 80 </dev/null; do /bin/busybox sleep 1; done"))
	awaitPhase(t, c, name, corev1.PodSucceeded)
	remove(t, c, p)
}

func silentFromTheStart(t *testing.T, c *scratch.Cluster, address string) {
	enforce(t, c, "silent", networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "silent"}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
	})
	silenced(t, c, "first", "silent", address) // from here on the policy is in force
	var pods []*corev1.Pod
	for i := range 5 {
		const tries = "for i in 1 2 3; do /bin/busybox nc -w 1 $IP 80 </dev/null && exit 1; done; exit 0"
		pods = append(pods, create(t, c, caller(fmt.Sprint("silent-", i), "silent", address, tries)))
	}
	talks(t, c, "talker", "talker", address)
	for _, p := range pods {
		awaitPhase(t, c, p.Name, corev1.PodSucceeded)
		remove(t, c, p)
	}
}

func reachedByFriends(t *testing.T, c *scratch.Cluster, address string) {
	http := intstr.FromString("http")
	enforce(t, c, "friends", networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "friend"}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &http}},
		}},
	})
	silenced(t, c, "stranger", "stranger", address)
	connection, err := net.DialTimeout("tcp", net.JoinHostPort(address, "80"), 5*time.Second)
	if err != nil {
		t.Fatalf("the node does not reach its pod: %v", err)
	}
	connection.Close()
	// The API server learns of the address of a pod that has just started, and tells it to the node, while it calls.
	p := create(t, c, caller("friend", "friend", address, "until /bin/busybox nc -w 2 $IP 80 </dev/null; do :; done"))
	awaitPhase(t, c, p.Name, corev1.PodSucceeded)
	remove(t, c, p)
}

// policyTable is what nft lists of the node's table; "" if it is not there.
func policyTable(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, "nft", "list", "tables").Output()
	for _, line := range strings.Split(string(out), "\n") {
		if strings.HasPrefix(line, "table inet k8sm-policy-") {
			listed, _ := exec.CommandContext(ctx, "nft", append([]string{"list"}, strings.Fields(line)...)...).Output()
			return string(listed)
		}
	}
	return ""
}

// isolated reports whether the rules isolate the address.
func isolated(ctx context.Context, address string) error {
	if table := policyTable(ctx); !strings.Contains(table, address+" : goto ingress-pods/default/") {
		return errors.New("the pod is not isolated: " + table)
	}
	return nil
}

func rulesComeBack(t *testing.T, address string) {
	table, _, _ := strings.Cut(policyTable(t.Context()), " {")
	if out, err := exec.CommandContext(t.Context(), "nft", append([]string{"delete"}, strings.Fields(table)...)...).CombinedOutput(); err != nil {
		t.Fatalf("cannot delete %q: %v: %s", table, err, out)
	}
	if err := scratch.Until(t.Context(), 10*time.Second, func(ctx context.Context) error { return isolated(ctx, address) }); err != nil {
		t.Error(err)
	}
}

func rulesOutliveTheMinion(t *testing.T, c *scratch.Cluster, address string) {
	before := pidOf(t, c, "minion")
	kill(t, c, "minion")
	if err := isolated(t.Context(), address); err != nil {
		t.Errorf("right after the minion was killed: %v", err)
	}
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		if now := running(t, c, "minion"); len(now) != 1 || now[0] == before {
			return fmt.Errorf("minions are %v", now)
		}
		return isolated(ctx, address)
	})
	if err != nil {
		t.Error(err)
	}
	silenced(t, c, "late-stranger", "stranger", address)
	if err := isolated(t.Context(), address); err != nil {
		t.Errorf("with the next minion: %v", err)
	}
}
