package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/mesos"
)

func frameworkCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "framework", Short: "Show the frameworks of Mesos, and end one that no cluster owns any more"}
	cmd.AddCommand(frameworkListCommand(c), teardownCommand(c))
	return cmd
}

// addMasterFlags adds the flags of km scheduler by which it reaches the master.
func addMasterFlags(fs *pflag.FlagSet, cfg *mesos.Config) {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(all)
	for _, name := range []string{"mesos-master", "mesos-principal", "mesos-secret-file", "mesos-ca-file", "mesos-cert-file", "mesos-key-file", "mesos-connect-timeout"} {
		fs.AddFlag(all.Lookup(name))
	}
}

// frameworks is how frameworks are shown.
var frameworks = kind[mesos.Framework]{
	singular: "framework", plural: "frameworks", prefix: "framework",
	columns: []metav1.TableColumnDefinition{
		column("ID"), column("Name"), column("Connected"), column("Tasks"), column("Age"), column("Principal"),
	},
	rows: func(now time.Time, f mesos.Framework) [][]any {
		connected := "no"
		if f.Connected {
			connected = "yes"
		}
		return [][]any{{string(f.ID), f.Name, connected, fmt.Sprint(f.Tasks), age(now, f.Registered), or(f.Principal)}}
	},
	name:  func(f mesos.Framework) string { return string(f.ID) },
	names: func(f mesos.Framework) []string { return []string{string(f.ID), f.Name} },
}

func frameworkListCommand(c *common) *cobra.Command {
	var cfg mesos.Config
	var s showing
	cmd := &cobra.Command{
		Use: "list [NAME...]", Short: "Show the frameworks of Mesos, with their tasks and whether a scheduler is connected", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(outputs, s.output) {
				return usage(fmt.Errorf("cannot use --output=%s: give wide, json, yaml or name", s.output))
			}
			master, err := mesos.New(cfg)
			if err != nil {
				return usage(err)
			}
			v := newViewer(frameworks, s, args)
			v.out, v.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return serve(c, func(ctx context.Context) error { return v.show(ctx, master.Frameworks) })
		},
	}
	addMasterFlags(cmd.Flags(), &cfg)
	cmd.Flags().StringVarP(&s.output, "output", "o", "", "output `format`: wide, json, yaml or name (default: a table)")
	cmd.Flags().BoolVar(&s.noHeaders, "no-headers", false, "print no header line")
	return cmd
}

func teardownCommand(c *common) *cobra.Command {
	var cfg mesos.Config
	cmd := &cobra.Command{
		Use: "teardown ID", Short: "End a framework, with all its tasks, whose scheduler will never come back", Args: cobra.ExactArgs(1),
		Long: `Asks the leading Mesos master to end a framework: all its tasks and executors, at once and for good. For a cluster whose etcd is lost
without a snapshot: Mesos keeps what it ran for --mesos-failover-timeout, and nobody else can end it. It refuses while a scheduler of
the framework is connected.`,
		Example: "  km framework list k8sm --mesos-master=10.0.0.1:5050\n  km framework teardown 5c2a1f6e-0000 --mesos-master=10.0.0.1:5050 --mesos-principal=k8sm --mesos-secret-file=/etc/k8sm/secret",
		RunE: func(cmd *cobra.Command, args []string) error {
			master, err := mesos.New(cfg)
			if err != nil {
				return usage(err)
			}
			return serve(c, func(ctx context.Context) error {
				ended, err := master.Teardown(ctx, api.FrameworkID(args[0]))
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "framework %s (%s) has ended, with %d tasks\n", ended.ID, ended.Name, ended.Tasks)
				return nil
			})
		},
	}
	addMasterFlags(cmd.Flags(), &cfg)
	return cmd
}
