package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

func TestMinionsKnowNodesBySlicesAndWatchNodesWithoutAScheduler(t *testing.T) {
	km := program(t, "km")
	leavesNothing(t, func(t *testing.T) {
		mesosPort := 20000 + freePort(t)%10000
		r := startRoles(t, km, mesosPort)
		stop := r.schedule(km, mesosPort, "--rollout=off")
		r.spread("web")
		r.awaitPeers("a scheduler keeps slices", 45*time.Second, "slices", 1)
		r.addNode("by-hand-1")
		r.awaitPeers("somebody has made a node", 5*time.Second, "slices", 2)
		stop()
		r.addNode("by-hand-2")
		r.awaitPeers("no scheduler runs, and somebody makes a node", 2*time.Minute, "nodes", 3)

		r.schedule(km, mesosPort, "--rollout=off")
		r.awaitPeers("a scheduler runs again", time.Minute, "slices", 3)
		if err := r.kube.CoreV1().Nodes().Delete(t.Context(), "by-hand-1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.awaitPeers("somebody has deleted a node", 5*time.Second, "slices", 2)
		if out := r.kubectl(km, "", "--namespace=k8sm-nodes", "get", "configmap", "nodes-0", "-o", "jsonpath={.data.nodes}"); !containsAll(out, []string{`"name":"by-hand-2"`, "10.244."}) {
			t.Errorf("the slice has\n%s", out)
		}
	})
}

// addNode makes a node without an agent, at the address of the others.
func (r *roles) addNode(name string) {
	r.t.Helper()
	node := r.minions()[0]
	made, err := r.kube.CoreV1().Nodes().Create(r.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil {
		made.Status.Addresses, made.ResourceVersion = node.Status.Addresses, ""
		_, err = r.kube.CoreV1().Nodes().UpdateStatus(r.t.Context(), made, metav1.UpdateOptions{})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// minions are the nodes that have one.
func (r *roles) minions() (nodes []*corev1.Node) {
	r.t.Helper()
	list, err := r.kube.CoreV1().Nodes().List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range list.Items {
		if list.Items[i].Annotations[api.AnnotationStatusPort] != "" {
			nodes = append(nodes, &list.Items[i])
		}
	}
	if len(nodes) != 2 {
		r.t.Fatalf("%d nodes have minions", len(nodes))
	}
	return nodes
}

// peersShown is the line of a minion's metrics about other nodes.
var peersShown = regexp.MustCompile(`(?m)^k8sm_minion_peers.*$`)

// awaitPeers waits until both minions know so many other nodes, from this source.
func (r *roles) awaitPeers(when string, limit time.Duration, source string, count int) {
	r.t.Helper()
	admin, err := clientcmd.BuildConfigFromFlags("", filepath.Join(r.dir, "admin.kubeconfig"))
	if err != nil {
		r.t.Fatal(err)
	}
	who := rest.CopyConfig(admin)
	who.CAFile, who.CAData, who.Insecure = "", nil, true // a minion has another CA than the API server
	want, begin := fmt.Sprintf("k8sm_minion_peers{source=%q} %d", source, count), time.Now()
	nodes := r.minions()
	err = scratch.Until(r.t.Context(), limit, func(context.Context) error {
		for _, node := range nodes {
			code, body, err := answers(who, onMinion(node, "/metrics"))
			if err != nil {
				return err
			}
			if shown := peersShown.FindAllString(body, -1); code != http.StatusOK || len(shown) != 1 || shown[0] != want {
				return fmt.Errorf("%s shows %q (%d), not %s", node.Name, shown, code, want)
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatalf("%s: %v", when, err)
	}
	r.t.Logf("%s: %s after %v", when, want, time.Since(begin).Round(100*time.Millisecond))
}
