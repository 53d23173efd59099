package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/api/controlplane"
)

func secretsCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Short: "Change the key that encrypts secrets in etcd"}
	how := controlplane.KeyRotation{Patience: time.Minute}
	rotate := &cobra.Command{
		Use: "rotate-key", Short: "Encrypt all secrets with a new key, and forget the old one", Args: cobra.NoArgs,
		Long: `Makes a new key, brings it to all control planes, waits until their API servers use it, rewrites all secrets, and removes the old key from
all state directories. Call it on the machine of a running km apiserver or km up. If it is interrupted, call it again, on any such machine:
it goes on where it was. It waits for a control plane that died, and says so.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absoluteDir(c)
			if err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				if err := controlplane.RotateKey(ctx, dir, how); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "all secrets are encrypted with a new key")
				return nil
			})
		},
	}
	addWithout(rotate, &how.Without)
	cmd.AddCommand(rotate)
	return cmd
}

// addWithout adds a flag for control planes that a command does not wait for.
func addWithout(cmd *cobra.Command, addresses *[]string) {
	cmd.Flags().StringSliceVar(addresses, "without", nil, "don't wait for the control planes at these addresses, `HOST:PORT,...`, which are gone for good. One that runs is refused")
}
