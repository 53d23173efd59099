package minion

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
)

// prober is a pod network that finds nodes which answer this machine but not its pods.
type prober interface {
	Blocked(ctx context.Context) ([]string, error)
}

// watchNetwork returns a function that returns the problems with the other nodes.
func (n *node) watchNetwork(client kubernetes.Interface) func(context.Context) []string {
	blocked := n.blockedPeers(client)
	return func(ctx context.Context) []string {
		problems := n.routes.get()
		if blocked != nil {
			problems = append(problems, blocked(ctx)...)
		}
		return problems
	}
}

// blockedPeers returns a function that checks whether packets from this node's pods reach the other nodes, and describes the remedy
// if not. It returns nil if the network cannot check that.
func (n *node) blockedPeers(client kubernetes.Interface) func(context.Context) []string {
	network, ok := n.network.(prober)
	if !ok {
		return nil
	}
	var logged string // the last problem
	return func(ctx context.Context) []string {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		names, err := network.Blocked(ctx)
		if err != nil {
			n.log.WithError(err).Debug("cannot check whether packets from pods reach other nodes")
			return nil
		}
		// A node without a running minion routes nothing to its pods.
		names = slices.DeleteFunc(names, func(name string) bool { return !isReady(ctx, client, name) })
		if len(names) == 0 {
			logged = ""
			return nil
		}
		problem := blockedProblem(names)
		if problem != logged {
			n.log.Warn(problem)
			logged = problem
		}
		return []string{problem}
	}
}

// blockedProblem says which nodes do not receive packets from this node's pods, and what to do.
func blockedProblem(nodes []string) string {
	const most = 3
	named := strings.Join(nodes[:min(len(nodes), most)], ", ")
	if more := len(nodes) - most; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	return "packets from pods do not reach " + named + ", although this machine does: a firewall, or the cloud's source address check, drops them; " +
		"turn that check off for these machines, or start the control plane with --network=vxlan"
}

// isReady reports whether the node's kubelet is running. It lists, because a minion may get only its own node.
func isReady(ctx context.Context, client kubernetes.Interface, name string) bool {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()})
	if err != nil || len(list.Items) == 0 {
		return false
	}
	return api.NodeReady(&list.Items[0])
}
