package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/contrib/localmesos"
)

func localMesosCommand(c *common) *cobra.Command {
	var cfg localmesos.Config
	cmd := &cobra.Command{
		Use: "local-mesos", Short: "Run a small Mesos master and agents, for laptops and tests", Args: cobra.NoArgs,
		Long: `Runs a Mesos master and its agents in one process, on loopback. It serves Mesos' v1 scheduler, executor and operator APIs and
runs executors as real processes. Everyone must authenticate; without --credentials, schedulers and operators do so as principal
k8sm with the secret in the file "secret" of --work-dir. It is not for production: all in it runs as its own user. Flags have Mesos'
names and syntax. Ctrl-C ends the executors too.`,
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
