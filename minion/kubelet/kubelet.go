// Package kubelet starts the stock kubelet. It and minion/proxy are the only packages of the minion that import k8s.io/kubernetes,
// so that a new Kubernetes version changes two small packages. Package minion renders the kubelet's configuration, and must link
// without it.
package kubelet

import (
	"context"

	"github.com/spf13/cobra"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // counts the kubelet's API calls, as the stock program does
	_ "k8s.io/component-base/metrics/prometheus/version"  // tells the version in the kubelet's metrics
	"k8s.io/kubernetes/cmd/kubelet/app"
)

// NewCommand returns the stock kubelet as a command, with all its own flags
// (https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/). It installs its own handlers for SIGTERM and SIGINT,
// and feature gates are per process: execute it only in a process that does nothing else. Run it through k8s.io/component-base/cli,
// which sets up and flushes its log.
func NewCommand(ctx context.Context) *cobra.Command {
	return app.NewKubeletCommand(ctx)
}
