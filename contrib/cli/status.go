package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/scheduler/status"
)

// statusCommands show what a scheduler holds.
func statusCommands(c *common) []*cobra.Command {
	return []*cobra.Command{
		statusCommand(c, "offers", "Show the Mesos offers that the scheduler holds", (*status.Client).Offers, status.PrintOffers),
		statusCommand(c, "tasks", "Show the Mesos tasks of the pods", (*status.Client).Tasks, status.PrintTasks),
		statusCommand(c, "nodes", "Show the nodes with the versions of km that run there, and how a rollout stands", (*status.Client).Nodes, status.PrintNodes),
		statusCommand(c, "queue", "Show the pods that wait for a task, and why", (*status.Client).Queue, status.PrintQueue),
	}
}

func statusCommand[T any](c *common, name, short string, read func(*status.Client, context.Context) ([]T, error),
	table func(io.Writer, time.Time, []T) error) *cobra.Command {
	var output, address, clusterName, serverName string
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		Long: short + `. It asks the leading scheduler as the cluster's administrator, whose kubeconfig is in --state-dir; where that one serves its
status is in etcd, unless --status-address says so.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output=%s: give table or json", output)
			}
			client, err := statusClient(cmd.Context(), c.dir(), clusterName, address, serverName)
			if err != nil {
				return err
			}
			list, err := read(client, cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return status.PrintJSON(cmd.OutOrStdout(), list)
			}
			return table(cmd.OutOrStdout(), time.Now(), list)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "how to print it: table or json")
	cmd.Flags().StringVar(&address, "status-address", "", "`host:port` on which the scheduler serves its status (default: where the leading one does)")
	cmd.Flags().StringVar(&clusterName, "cluster-name", defaultName, "name of the cluster, as km scheduler has it")
	cmd.Flags().StringVar(&serverName, "tls-server-name", statedir.SchedulerServerName, "name that the scheduler's certificate has to be for")
	return cmd
}

// statusClient asks as the administrator of the cluster in the directory.
func statusClient(ctx context.Context, dir statedir.Dir, name, address, serverName string) (*status.Client, error) {
	if _, err := os.Stat(dir.AdminKubeconfig()); errors.Is(err, os.ErrNotExist) {
		return nil, dir.NoCluster()
	}
	admin, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read who the administrator is: %w", err)
	}
	if address == "" {
		if address, err = leaderAddress(ctx, dir, name); err != nil {
			return nil, fmt.Errorf("cannot find the leading scheduler: %w; or say by --status-address where it serves its status", err)
		}
	}
	return status.NewClient(address, status.Identity{
		CA: admin.CAData, Cert: admin.CertData, Key: admin.KeyData, ServerName: serverName,
	})
}

// leaderAddress asks the cluster's etcd where the leading scheduler serves its status.
func leaderAddress(ctx context.Context, dir statedir.Dir, name string) (string, error) {
	takeOverKlog() // etcd's client tells there of each connection that is closed
	etcd, err := dir.Etcd()
	if err != nil {
		return "", err
	}
	store, err := state.Open(ctx, stateConfig(etcd, name))
	if err != nil {
		return "", err
	}
	defer store.Close()
	return status.FindLeader(ctx, store)
}
