package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/contrib/logs"
)

func logstoreCommand(c *common) *cobra.Command {
	var cfg logs.Config
	cmd := &cobra.Command{
		Use: "logstore", Short: "Run a store of the cluster's logs", Args: cobra.NoArgs,
		Long: `Keeps what containers and the cluster's own programs write, which minions ship to it, in --state-dir, and answers km logs. km apiserver and
km up run this store. It has its identity and certificates from --state-dir.`,
		RunE: func(*cobra.Command, []string) error {
			cfg.Dir = c.dir()
			if err := usage(cfg.Validate()); err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				return withAPIServers(ctx, c.dir().LogsKubeconfig(), c.dir(), func(ctx context.Context, kubeconfig string) error {
					cfg.Kubeconfig = kubeconfig
					return logs.Run(ctx, cfg)
				})
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}

// logsOf completes the configuration of the log store beside a control plane, and tells the control plane whether there is one. None runs
// if no node can reach the control plane.
func logsOf(c *common, plane *controlplane.Config, beside logs.Beside) logs.Beside {
	beside.Enabled = beside.Enabled && plane.Reachable()
	plane.Logs = beside.Enabled
	beside.Dir, beside.LogLevel, beside.LogFormat = plane.StateDir, c.logLevel.String(), string(c.logFormat)
	beside.Files = map[string]string{}
	if path := plane.Audit.LogPath; path != "" && path != "-" {
		beside.Files["audit"] = plane.StateDir.In(path)
	}
	if beside.Address == "" {
		beside.Address = plane.Advertised()
	}
	return beside
}
