package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/minion"
)

// member has the flags of a member of etcd.
type member struct {
	etcd.Member
	tls controlplane.TLS
}

func etcdCommand(c *common) *cobra.Command {
	var m member
	var join []string
	cmd := &cobra.Command{
		Use: "etcd", Short: "Run a member of the cluster's etcd, for control planes on several machines", Args: cobra.NoArgs,
		Long: `Runs one member of an etcd of 3 or 5 members. The first start of the first member makes a new cluster, or goes on with the embedded etcd
that a control plane had in --state-dir. Other members join it: km etcd join. km apiserver and km scheduler with the same --state-dir
use this etcd.`,
		RunE: func(*cobra.Command, []string) error { return m.run(c, join) },
	}
	m.AddFlags(cmd.Flags())
	cmd.Flags().StringSliceVar(&join, "join", nil, "client `URL,...` of members whose cluster this one joins at its first start; later starts don't need them (default: a new cluster)")
	m.tls.AddFlags(cmd.Flags())
	cmd.AddCommand(configurable(joinCommand(c)), leaveCommand(c), recoverCommand(c), etcdStatusCommand(c), defragCommand(c))
	return cmd
}

// run runs the member.
func (m *member) run(c *common, join []string) error {
	for _, one := range join {
		if u, err := url.Parse(one); err != nil || u.Scheme != "https" || u.Host == "" {
			return usage(fmt.Errorf("cannot join %s: give the client URLs of members, such as https://10.0.0.5:2379", one))
		}
	}
	dir, err := absoluteDir(c)
	if err != nil {
		return err
	}
	m.Dir = dir
	if m.Name == "" {
		if m.Name, err = os.Hostname(); err != nil {
			return fmt.Errorf("cannot find this machine's name: %w; give --name", err)
		}
	}
	if m.Advertise == "" {
		ip, err := minion.MachineIP()
		if err != nil {
			return fmt.Errorf("cannot find this machine's address: %w; give --advertise-address", err)
		}
		m.Advertise = ip.String()
	}
	if err := usage(m.Validate(), m.tls.Validate()); err != nil {
		return err
	}
	if m.Snapshots.Dir != "" {
		if m.Snapshots.Dir, err = filepath.Abs(m.Snapshots.Dir); err != nil {
			return fmt.Errorf("cannot find --snapshot-dir: %w", err)
		}
	}
	m.Suites, m.MinTLS = m.tls.Etcd()
	m.Ready = c.notify.ready
	return serve(c, func(ctx context.Context) error { return m.Run(ctx, join) })
}

func joinCommand(c *common) *cobra.Command {
	var m member
	cmd := &cobra.Command{
		Use: "join URL[,URL...]", Short: "Run a member that joins the etcd of the members with these client URLs", Args: cobra.ExactArgs(1),
		Long: `Adds this machine's member to a cluster that is there, and runs it: it copies the others' data, then it votes. Copy pki/ of a machine
with a member to --state-dir first. Later starts with the same command go on with the data that is there. A service has the URLs by
--join of km etcd instead.`,
		Example: "  km etcd join https://10.0.0.5:2379",
		RunE: func(_ *cobra.Command, args []string) error {
			return m.run(c, strings.Split(args[0], ","))
		},
	}
	m.AddFlags(cmd.Flags())
	m.tls.AddFlags(cmd.Flags())
	return cmd
}

func leaveCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "leave [NAME]", Short: "Remove a member of etcd: this machine's, or a dead one by name", Args: cobra.MaximumNArgs(1),
		Long: `Removes a member from the cluster, by its name or id in km etcd status; without one, this machine's. A leader hands its lead on first.
The member's process ends, and its data is set aside. It refuses if the remaining members that answer would be no majority.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			access, err := c.dir().Etcd()
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			} else if _, err := os.Stat(c.dir().EtcdData()); err != nil || !access.Managed {
				return usage(fmt.Errorf("no member of km etcd has its data in %s: give the name of a member", c.dir()))
			}
			return serve(c, func(ctx context.Context) error {
				if err := etcd.Leave(ctx, access, name); err != nil {
					return fmt.Errorf("cannot remove %s from etcd: %w", cmp.Or(name, "this machine's member"), err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is no member of etcd any more\n", cmp.Or(name, "this machine's member"))
				return nil
			})
		},
	}
}

func recoverCommand(c *common) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "recover", Short: "Go on from this machine's member alone, when too many of the others are gone for good", Args: cobra.NoArgs,
		Long: `Makes this machine's member, which must not run, a cluster of its own with all data that it has: etcd's --force-new-cluster. The others
are members no more, whatever they have. It refuses while anything answers at the address of another member. Then start km etcd, and let
new members join it. Changes that only the lost members had are lost.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absoluteDir(c)
			if err != nil {
				return err
			}
			s, err := etcd.FindSurvivor(dir)
			if err != nil {
				return err
			}
			if len(s.Others) == 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "%s has no other member beside it: start km etcd\n", s.Name)
				return nil
			}
			others := strings.Join(s.Others, ", ")
			if !yes {
				return usage(fmt.Errorf("cannot make %s a cluster of its own: this ends the membership of %s for good; if they can never run again, say so by --yes", s.Name, others))
			}
			return serve(c, func(ctx context.Context) error {
				if err := s.GoOn(ctx); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is a cluster of its own, without %s: start km etcd; never start these again with their data\n", s.Name, others)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "the other members are gone for good")
	return cmd
}

// etcdMembers is how members are shown.
var etcdMembers = kind[etcd.Status]{
	singular: "member", plural: "members", prefix: "member",
	columns: []metav1.TableColumnDefinition{
		column("Name"), column("Role"), column("Size"), column("In use"), column("Quota"), column("Lag"), column("Alarms"), column("Version"),
		column("Problem"), wide("ID"), wide("Client URL"), wide("Peer URL"),
	},
	rows: func(_ time.Time, s etcd.Status) [][]any {
		return [][]any{{or(s.Name), cmp.Or(s.Role, "unknown"), mebibytes(s.Size), mebibytes(s.InUse), mebibytes(s.Quota), fmt.Sprint(s.Lag), or(strings.Join(s.Alarms, ",")),
			or(s.Version), or(s.Problem), s.ID, or(strings.Join(s.ClientURLs, ",")), strings.Join(s.PeerURLs, ",")}}
	},
	name:  func(s etcd.Status) string { return cmp.Or(s.Name, s.ID) },
	names: func(s etcd.Status) []string { return []string{cmp.Or(s.Name, s.ID), s.ID} },
}

// mebibytes formats a size in MiB.
func mebibytes(size int64) string {
	if size == 0 {
		return "<none>"
	}
	return resource.NewQuantity((size+1<<20-1)>>20<<20, resource.BinarySI).String()
}

func etcdStatusCommand(c *common) *cobra.Command {
	var s showing
	cmd := &cobra.Command{
		Use: "status [NAME...]", Short: "Show etcd's members, who leads, their databases and alarms", Args: cobra.ArbitraryArgs,
		Long: `Shows the members of the cluster's etcd, the embedded one too: their roles, the size of their databases, what of it is in use, the quota at
which they take no more writes, by how many entries of the log they are behind, and alarms. It also says what to do.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(outputs, s.output) {
				return usage(fmt.Errorf("cannot use --output=%s: give wide, json, yaml or name", s.output))
			}
			return withEtcd(c, func(ctx context.Context, client *clientv3.Client) error {
				all, err := etcd.Read(ctx, client)
				if err != nil {
					return err
				}
				v := newViewer(etcdMembers, s, args)
				v.out, v.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
				err = v.show(ctx, func(context.Context) ([]etcd.Status, error) { return all, nil })
				for _, advice := range etcd.Advice(all) {
					fmt.Fprintf(cmd.ErrOrStderr(), "km: %s\n", advice)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&s.output, "output", "o", "", "output `format`: wide, json, yaml or name (default: a table)")
	cmd.Flags().BoolVar(&s.noHeaders, "no-headers", false, "print no header line")
	return cmd
}

func defragCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "defrag", Short: "Give the unused room in etcd's databases back, and end the alarm NOSPACE", Args: cobra.NoArgs,
		Long: `Defragments the members, one after another, the leader last; each answers nobody for about a second for 100 MB. If the alarm NOSPACE is
on, it compacts first, and ends the alarm afterwards.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withEtcd(c, func(ctx context.Context, client *clientv3.Client) error {
				done, err := etcd.Recover(ctx, client)
				for _, name := range done {
					fmt.Fprintf(cmd.OutOrStdout(), "defragmented %s\n", name)
				}
				return err
			})
		},
	}
}

// withEtcd calls do with a client of the state directory's etcd.
func withEtcd(c *common, do func(context.Context, *clientv3.Client) error) error {
	access, err := c.dir().Etcd()
	if err != nil {
		return err
	}
	client, err := etcd.Dial(access)
	if err != nil {
		return err
	}
	err = serve(c, func(ctx context.Context) error { return do(ctx, client) })
	if closing := client.Close(); !errors.Is(closing, context.Canceled) {
		err = errors.Join(err, closing)
	}
	return err
}
