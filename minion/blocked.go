package minion

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
)

// prober is a pod network that finds out which other nodes answer this machine and not its pods.
type prober interface {
	Blocked(ctx context.Context) ([]string, error)
}

// blockedPeers returns what finds out whether other nodes get what the pods of this one send, and says what to do if not; nil for a
// network that does not find out.
func (n *node) blockedPeers(client kubernetes.Interface) func(context.Context) []string {
	network, ok := n.network.(prober)
	if !ok {
		return nil
	}
	var told string // logged last
	return func(ctx context.Context) []string {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		names, err := network.Blocked(ctx)
		if err != nil {
			n.log.WithError(err).Debug("whether other nodes get what pods send is not known")
			return nil
		}
		// A node whose minion has ended leads nothing to its pods.
		names = slices.DeleteFunc(names, func(name string) bool { return !isReady(ctx, client, name) })
		if len(names) == 0 {
			told = ""
			return nil
		}
		problem := blockedProblem(names)
		if problem != told {
			n.log.Warn(problem)
			told = problem
		}
		return []string{problem}
	}
}

// blockedProblem says what to do about nodes that do not get what pods send.
func blockedProblem(nodes []string) string {
	const most = 3
	named := strings.Join(nodes[:min(len(nodes), most)], ", ")
	if more := len(nodes) - most; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	return "packets of pods do not reach " + named + ", which this machine itself reaches: a cloud that checks the sources of packets, or a firewall, drops them; " +
		"turn that check off for the machines, or give the control plane --network=vxlan"
}

// isReady tells whether the node has a kubelet that runs. A minion may list nodes, but get only its own.
func isReady(ctx context.Context, client kubernetes.Interface, name string) bool {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()})
	if err != nil || len(list.Items) == 0 {
		return false
	}
	return slices.ContainsFunc(list.Items[0].Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
