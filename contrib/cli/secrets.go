package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/api/controlplane"
)

func secretsCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Short: "Change the key that encrypts secrets in etcd"}
	cmd.AddCommand(&cobra.Command{
		Use: "rotate-key", Short: "Encrypt all secrets with a new key, and forget the old one", Args: cobra.NoArgs,
		Long: `Makes a new key, waits until the API server uses it, rewrites all secrets, and removes the old key from --state-dir. Call it on the
machine of a running km apiserver or km up. If it is interrupted, call it again: it goes on where it was.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absoluteDir(c)
			if err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				if err := controlplane.RotateKey(ctx, dir); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "all secrets are encrypted with a new key")
				return nil
			})
		},
	})
	return cmd
}
