// Package kubelet starts the stock kubelet. It and minion/proxy are the only packages of the minion that import k8s.io/kubernetes,
// so that a new Kubernetes version changes two small packages. Package minion renders the kubelet's configuration, and must link
// without it.
package kubelet

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	_ "k8s.io/component-base/logs/json/register"          // adds the log format json, as the stock program does
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // counts the kubelet's API calls, as the stock program does
	_ "k8s.io/component-base/metrics/prometheus/version"  // tells the version in the kubelet's metrics
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/minion/cadvisor"
)

// NewCommand returns the stock kubelet as a command, with all its own flags
// (https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/). Its cAdvisor knows the containers of the runtime
// interface that the file of --config names. It installs its own handlers for SIGTERM and SIGINT, and feature gates are per process:
// execute it only in a process that does nothing else. Run it through k8s.io/component-base/cli, which sets up and flushes its log.
func NewCommand(ctx context.Context) *cobra.Command {
	cmd := app.NewKubeletCommand(ctx)
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		endpoint, err := runtimeEndpoint(args)
		if err != nil {
			return err
		}
		if endpoint != "" {
			if err := cadvisor.Register(endpoint); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
	return cmd
}

// runtimeEndpoint reads the endpoint of the runtime interface from the file of --config. Without the flag it is "".
func runtimeEndpoint(args []string) (string, error) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true // the kubelet checks them
	flags.Usage = func() {}
	file := flags.String("config", "", "")
	if err := flags.Parse(args); err != nil || *file == "" {
		return "", nil // so it does with these arguments
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return "", fmt.Errorf("cannot read the kubelet's configuration: %w", err)
	}
	var config kubeletconfig.KubeletConfiguration
	if err := yaml.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("cannot read the kubelet's configuration %s: %w", *file, err)
	}
	return config.ContainerRuntimeEndpoint, nil
}
