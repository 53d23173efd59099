package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/minion"
	"github.com/k8sm/k8sm/minion/warden"
)

// wardenCommand does the work of a process that has waited in the package warden: the minion starts it.
func wardenCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: warden.Command, Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return serve(c, func(ctx context.Context) error { return minion.CleanUpKilled(ctx, args[0]) })
		},
	}
}
