package assigner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
)

// Cluster is what the commands need from a cluster.
type Cluster struct {
	KV         clientv3.KV // Folder of its state
	Kubernetes kubernetes.Interface
	Close      func()
}

// Connect connects to the named cluster as its administrator. The caller must call Close.
type Connect func(ctx context.Context, name string) (Cluster, error)

// NewCommand returns `km assigner`. name is the default name of the cluster.
func NewCommand(connect Connect, name string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "assigner", Short: "Manage the pools of IP addresses that pods can request",
		Long: `Keeps pools of IP addresses in the cluster's etcd. A pod with the annotation ` + api.AnnotationIPPool + `: POOL gets a free address of that pool,
or the address in its annotation ` + api.AnnotationIP + `, and keeps it until it ends or is deleted. The scheduler assigns the address before
it launches the pod; km queue says why a pod waits for one. The commands run as the cluster's administrator: they find etcd and the
API server through --state-dir.`,
	}
	cmd.PersistentFlags().StringVar(&name, "cluster-name", name, "name of the cluster, as given to km scheduler")
	with := func(do func(ctx context.Context, cluster Cluster) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			cluster, err := connect(cmd.Context(), name)
			if err != nil {
				return err
			}
			defer cluster.Close()
			return do(cmd.Context(), cluster)
		}
	}
	cmd.AddCommand(importCommand(with), listCommand(with), releaseCommand(with))
	return cmd
}

// runner wraps a function on the cluster as a command's RunE.
type runner func(do func(context.Context, Cluster) error) func(*cobra.Command, []string) error

func importCommand(with runner) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Replace all pools by those of a YAML file", Args: cobra.ExactArgs(1),
		Long: `Replaces all pools by those of FILE ("-" is standard input), and prints the changes:

  pools:
  - name: office
    addresses: [192.0.2.0/24, 198.51.100.10-198.51.100.20, 198.51.100.7]
    exclude: [192.0.2.1]
    namespaces: [web, mail]

An IPv4 CIDR gives all its addresses but the first and the last; a range gives all of them. Only pods of the namespaces get addresses
of the pool; without the list, pods of all namespaces do. Pools that are not in the file are removed. The command changes nothing if
pools share an address, if they overlap the ranges of pods, services or nodes or have the address of a node, an agent, an API server or
a Mesos master, or if a pod uses an address that its pool would lose.`,
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the changes without making them")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		data, err := read(cmd.InOrStdin(), args[0])
		if err != nil {
			return err
		}
		pools, err := ParsePools(data)
		if err != nil {
			return fmt.Errorf("cannot import %s: %w", args[0], err)
		}
		return with(func(ctx context.Context, cluster Cluster) error {
			around, err := LookAround(ctx, cluster.Kubernetes)
			if err == nil {
				err = around.takeServers(ctx, cluster.Kubernetes)
			}
			if err != nil {
				return err
			}
			changes, err := New(cluster.KV).Import(ctx, pools, around, dryRun)
			if err != nil {
				return fmt.Errorf("cannot import %s: %w", args[0], err)
			}
			return printChanges(cmd.OutOrStdout(), changes)
		})(cmd, args)
	}
	return cmd
}

func read(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the pools: %w", err)
	}
	return data, nil
}

func printChanges(w io.Writer, changes []Change) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "no changes: the pools match the file")
		return err
	}
	for _, c := range changes {
		if _, err := fmt.Fprintf(w, "pool %s %s\n", c.Pool, c.text()); err != nil {
			return err
		}
	}
	return nil
}

// text describes the change.
func (c Change) text() string {
	text := fmt.Sprintf("changed: +%d -%d, %d addresses now", c.Added, c.Removed, c.After)
	switch {
	case c.Before == 0:
		text = fmt.Sprintf("added with %d addresses", c.After)
	case c.After == 0:
		return fmt.Sprintf("removed with its %d addresses", c.Before)
	}
	if c.NamespacesChanged {
		text += ", for pods of namespaces: " + namesOf(c.Namespaces)
	}
	if c.Keep > 0 {
		text += fmt.Sprintf("; %d pods of other namespaces keep their addresses until they end", c.Keep)
	}
	return text
}

// namesOf lists the namespaces of a pool.
func namesOf(namespaces []string) string {
	if namespaces == nil {
		return "<all>"
	}
	return strings.Join(namespaces, ", ")
}

func listCommand(with runner) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the pools and the address of each pod", Args: cobra.NoArgs,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "output format: table or json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("cannot use --output=%s: give table or json", output)
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return with(func(ctx context.Context, cluster Cluster) error {
			pools, err := New(cluster.KV).List(ctx)
			if err != nil {
				return err
			}
			if output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(pools)
			}
			return printPools(cmd.OutOrStdout(), pools)
		})(cmd, args)
	}
	return cmd
}

// printPools prints a line per pool, and below it a line per address in use.
func printPools(w io.Writer, pools []PoolUse) error {
	if len(pools) == 0 {
		_, err := fmt.Fprintln(w, "no pools; import some with km assigner import")
		return err
	}
	var text bytes.Buffer
	columns := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(columns, "POOL\tUSED\tFREE\tNAMESPACES\tADDRESSES")
	var used []string
	for _, p := range pools {
		addresses := strings.Join(p.Addresses, ", ")
		if len(p.Exclude) > 0 {
			addresses += " but not " + strings.Join(p.Exclude, ", ")
		}
		fmt.Fprintf(columns, "%s\t%d\t%d\t%s\t%s\n", p.Name, p.Used, p.Free, namesOf(p.Namespaces), addresses)
		for _, h := range p.Holders {
			used = append(used, fmt.Sprintf("%s/%s\t%s\t%s", p.Name, h.Address, h.Pod(), h.UID))
		}
	}
	_ = columns.Flush() // into memory
	if len(used) > 0 {
		fmt.Fprintf(columns, "\nADDRESS\tPOD\tUID\n%s\n", strings.Join(used, "\n"))
		_ = columns.Flush()
	}
	_, err := w.Write(text.Bytes())
	return err
}

func releaseCommand(with runner) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "release POOL/IP | [NAMESPACE/]POD", Short: "Release an address whose pod is gone", Args: cobra.ExactArgs(1),
		Long: `Releases one address, given as POOL/IP or by its pod. The scheduler does this itself when a pod ends; use this command when it cannot.`,
	}
	cmd.Flags().BoolVar(&force, "force", false, "release it although its pod exists: two pods can then have the same address until the first is deleted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return with(func(ctx context.Context, cluster Cluster) error {
			address, h, err := find(ctx, New(cluster.KV), args[0])
			if err != nil {
				return err
			}
			if err := over(ctx, cluster.Kubernetes, h); err != nil && !force {
				return fmt.Errorf("cannot release %s/%s: %w", h.Pool, address, err)
			}
			if err := New(cluster.KV).Release(ctx, h.UID); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "released %s/%s of pod %s\n", h.Pool, address, h.Pod())
			return err
		})(cmd, args)
	}
	return cmd
}

// find returns the specified address and its holder.
func find(ctx context.Context, a *Assigner, what string) (netip.Addr, Holder, error) {
	s, err := a.look(ctx)
	if err != nil {
		return netip.Addr{}, Holder{}, err
	}
	first, second, both := strings.Cut(what, "/")
	if !both {
		first, second = metav1.NamespaceDefault, what
	}
	if address, err := netip.ParseAddr(second); err == nil && both {
		h, taken := s.holders[address]
		if !taken || h.Pool != first {
			return address, h, fmt.Errorf("no pod has address %s of pool %s", address, first)
		}
		return address, h, nil
	}
	pod := api.PodKey{Namespace: first, Name: second}
	for address, h := range s.holders {
		if h.Pod() == pod {
			return address, h, nil
		}
	}
	return netip.Addr{}, Holder{}, fmt.Errorf("pod %s has no address of a pool", pod)
}

// over returns an error unless the holder is certainly gone.
func over(ctx context.Context, client kubernetes.Interface, h Holder) error {
	pod, err := client.CoreV1().Pods(h.Namespace).Get(ctx, h.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("cannot find out whether its pod %s is gone: %w", h.Pod(), err)
	case pod.UID != h.UID:
		return nil // another pod of that name
	}
	return fmt.Errorf("its pod %s exists: delete the pod", h.Pod())
}
