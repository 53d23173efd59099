package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/statedir"
)

func snapshotCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Save a cluster's state to a file, and restore it"}
	cmd.AddCommand(&cobra.Command{
		Use: "save FILE", Short: "Save etcd, the certificates and the keys of secrets of a cluster that runs", Args: cobra.ExactArgs(1),
		Long: `Saves what a control plane needs and cannot make anew to one file: a copy of etcd, the certificate authorities with their
certificates and keys, and the keys that secrets are encrypted with. Logs and metrics are not in it. Call it on the machine of a
control plane that runs. Whoever has the file has the cluster: keep it as safe as --state-dir.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := absoluteDir(c)
			if err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				m, err := controlplane.SaveSnapshot(ctx, dir, args[0])
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "saved %s: %d keys of etcd, at revision %d\n", args[0], m.Etcd.Keys, m.Etcd.Revision)
				warnOfKeys(cmd.ErrOrStderr(), m)
				return nil
			})
		},
	}, &cobra.Command{
		Use: "restore FILE", Short: "Make a state directory from what km snapshot save has saved", Args: cobra.ExactArgs(1),
		Long: `Makes --state-dir, which must be empty or missing, from a snapshot. The cluster's etcd has one member then. Clients that have seen
later changes than the snapshot's list all objects anew. End all of the old control plane first: two of one cluster destroy it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := absoluteDir(c)
			if err != nil {
				return err
			}
			return serve(c, func(context.Context) error {
				m, err := snapshot.Restore(args[0], dir)
				if err != nil {
					return err
				}
				next := "Start the control plane as before; an address that is new gets its certificates"
				if m.CA == "" {
					next = "It has etcd alone: start km etcd, and control planes with the pki/ and encryption.json that they had"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "restored %s as of %s: %d keys of etcd. %s\n", dir, m.Created.Format(time.RFC3339), m.Etcd.Keys, next)
				warnOfKeys(cmd.ErrOrStderr(), m)
				return nil
			})
		},
	})
	return cmd
}

// warnOfKeys tells of secrets that the snapshot's keys do not decrypt.
func warnOfKeys(errs io.Writer, m snapshot.Manifest) {
	if len(m.OtherKeys) > 0 {
		fmt.Fprintf(errs, "km: keys of secrets that are not in the snapshot: %s. Keep the file of --encryption-provider-config with it, else nobody can read them\n",
			strings.Join(m.OtherKeys, ", "))
	}
}

// absoluteDir returns the state directory, for files that name its paths.
func absoluteDir(c *common) (statedir.Dir, error) {
	dir, err := filepath.Abs(c.stateDir)
	if err != nil {
		return "", fmt.Errorf("cannot find %s: %w", c.stateDir, err)
	}
	return statedir.Dir(dir), nil
}
