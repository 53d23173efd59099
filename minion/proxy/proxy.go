// Package proxy starts the stock kube-proxy. It and minion/kubelet are the only packages of the minion that import
// k8s.io/kubernetes. Package minion renders kube-proxy's configuration, and must link without it.
package proxy

import (
	"flag"

	"github.com/spf13/cobra"
	_ "k8s.io/component-base/logs/json/register"          // adds the log format json, as the stock program does
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // counts the proxy's API calls, as the stock program does
	_ "k8s.io/component-base/metrics/prometheus/version"  // tells the version in the proxy's metrics
	"k8s.io/kubernetes/cmd/kube-proxy/app"
)

// NewCommand returns the stock kube-proxy as a command named "proxy", with all its own flags
// (https://kubernetes.io/docs/reference/command-line-tools-reference/kube-proxy/). Its feature gates are per process: execute it
// only in a process that does nothing else. Run it through k8s.io/component-base/cli, which sets up its log.
func NewCommand() *cobra.Command {
	libraries := flag.CommandLine
	flag.CommandLine = flag.NewFlagSet("", flag.ContinueOnError)
	defer func() { flag.CommandLine = libraries }()
	for _, name := range []string{"boot_id_file", "machine_id_file"} { // of cAdvisor: it takes all that there are
		if f := libraries.Lookup(name); f != nil {
			flag.Var(f.Value, f.Name, f.Usage)
		}
	}
	cmd := app.NewProxyCommand()
	cmd.Use = "proxy"
	return cmd
}
