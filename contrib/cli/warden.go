package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/minion"
	"github.com/k8sm/k8sm/minion/warden"
)

// wardenCommand cleans up after a killed minion. The warden, a small program that waits on the node, executes it.
func wardenCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: warden.Command, Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			work, err := warden.Resume(args)
			if err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error { return minion.CleanUpKilled(ctx, work) })
		},
	}
}
