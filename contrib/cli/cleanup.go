package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/minion"
)

const cleanUpName = "clean-up"

// cleanUpCommand removes what a node's minion left in this network namespace. km up runs it on each of its machines.
func cleanUpCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: cleanUpName + " CLUSTER ROOT-DIR NODE", Hidden: true, Args: cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			return serve(c, func(ctx context.Context) error { return minion.CleanUp(ctx, args[0], args[1], args[2]) })
		},
	}
}
