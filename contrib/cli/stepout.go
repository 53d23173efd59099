package cli

import (
	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/minion/stepout"
)

// stepOutCommand runs in a container that a minion starts through Docker Engine.
func stepOutCommand() *cobra.Command {
	return &cobra.Command{
		Use: stepout.Command, Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return stepout.Board(args[0]) },
	}
}
