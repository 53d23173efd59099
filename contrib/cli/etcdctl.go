package cli

import (
	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/contrib/cli/clients"
)

func etcdctlCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "etcdctl", Short: "Stock etcdctl, with the address and certificates of this cluster's etcd", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return clients.Etcdctl(c.dir(), args) },
	}
}
