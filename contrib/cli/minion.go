package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/minion"
	"github.com/k8sm/k8sm/minion/keeper"
)

func minionCommand(c *common) *cobra.Command {
	var cfg minion.Config
	cmd := &cobra.Command{
		Use: "minion", Short: "Run the Mesos executor that makes its agent's machine a node", Args: cobra.NoArgs,
		Long: `A Mesos agent starts it as the executor of k8sm's tasks; it fails without the environment that an agent sets. It runs the stock
kubelet and kube-proxy, and serves the kubelet's container runtime interface (CRI) with Docker Engine.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("log-format") {
				cfg.Given.LogFormat = string(c.logFormat)
			}
			link, err := keeper.Adopt()
			if err != nil {
				return err
			}
			if err = usage(cfg.Given.Validate()); err == nil {
				err = serve(c, func(ctx context.Context) error { return minion.Run(ctx, cfg, link != nil) })
			}
			if err != nil {
				link.Ending(1)
			} else {
				link.Ending(0)
			}
			return err
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}
