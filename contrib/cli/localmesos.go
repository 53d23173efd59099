package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/contrib/localmesos"
)

func localMesosCommand(c *common) *cobra.Command {
	var cfg localmesos.Config
	cmd := &cobra.Command{
		Use: "local-mesos", Short: "Run a Mesos master and agents for a laptop and for tests", Args: cobra.NoArgs,
		Long: `Runs a Mesos master and its agents in one process, on loopback: the v1 scheduler, executor and operator APIs as a real Mesos
answers them, with executors as real processes. It is for trying things; it authenticates schedulers only. Flags
have the names and the syntax of Mesos's own. Ctrl-C ends the executors too.`,
		RunE: func(*cobra.Command, []string) error {
			if err := usage(cfg.Validate()); err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error { return localmesos.Run(ctx, cfg) })
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}
