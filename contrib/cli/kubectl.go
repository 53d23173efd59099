package cli

import (
	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/contrib/cli/clients"
)

func kubectlCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "kubectl", Short: "Stock kubectl, as this cluster's administrator", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return clients.Kubectl(c.dir(), args) },
	}
}
