package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/contrib/dns"
	"github.com/k8sm/k8sm/contrib/metrics"
)

func metricsCommand(c *common) *cobra.Command {
	var cfg metrics.Config
	cmd := &cobra.Command{
		Use: "metrics", Short: "Run a server of the cluster's metrics", Args: unknownCommand,
		Long: `Serves metrics.k8s.io, which kubectl top and HorizontalPodAutoscalers use, to the cluster's API servers. Reads the metrics of all parts
of the cluster, keeps them in --state-dir, and answers PromQL. km apiserver and km up run this server. It has its identity and
certificates from --state-dir.`,
		RunE: func(*cobra.Command, []string) error {
			cfg.Dir = c.dir()
			if err := usage(cfg.Validate()); err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				return withAPIServers(ctx, c.dir().MetricsKubeconfig(), c.dir(), func(ctx context.Context, kubeconfig string) error {
					cfg.Kubeconfig = kubeconfig
					return metrics.Run(ctx, cfg)
				})
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	cmd.AddCommand(metricsQueryCommand(c))
	return cmd
}

// metricsOf completes the configuration of the metrics server beside a control plane, and tells the control plane whether there is one.
// None runs if no node can reach the control plane.
func metricsOf(c *common, plane *controlplane.Config, replicas dns.Replicas, beside metrics.Beside) metrics.Beside {
	beside.Enabled = beside.Enabled && plane.Reachable()
	plane.Metrics = beside.Enabled
	beside.Dir, beside.LogLevel, beside.LogFormat = plane.StateDir, c.logLevel.String(), string(c.logFormat)
	beside.ClusterName, beside.DNS = plane.ClusterName, replicas.MetricsAddresses()
	if beside.Address == "" {
		beside.Address = plane.Advertised()
	}
	return beside
}
