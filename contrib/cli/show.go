package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/scheduler/status"
)

// watchInterval is how often --watch asks the scheduler.
const watchInterval = time.Second

// kind describes one kind of thing in the scheduler, and how km shows it.
type kind[T any] struct {
	// singular and plural are its names; plural is also the command.
	singular, plural, short string
	// prefix comes before each name that -o name prints, as in kubectl.
	prefix string
	read   func(*status.Client, context.Context) ([]T, error)
	// columns of a table; -o wide adds those with a priority.
	columns []metav1.TableColumnDefinition
	// rows returns the lines of one thing, one cell per column.
	rows func(now time.Time, one T) [][]any
	// name is what -o name prints. names are what select it on the command line.
	name  func(T) string
	names func(T) []string
	// namespace is nil for kinds without one.
	namespace func(T) string
}

func column(name string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string"}
}

func wide(name string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Priority: 1}
}

// or returns the cell, or <none> if it is empty, as kubectl does.
func or(cell string) string {
	if cell == "" {
		return "<none>"
	}
	return cell
}

// age formats how long ago something was, as kubectl does.
func age(now, then time.Time) string { return duration.HumanDuration(max(0, now.Sub(then))) }

// splitPod takes "namespace/name" apart.
func splitPod(pod string) (namespace, name string) {
	namespace, name, found := strings.Cut(pod, "/")
	if !found {
		return "", pod
	}
	return namespace, name
}

// showing has the flags of a command that shows things.
type showing struct {
	output, namespace                string
	all, watch, noHeaders, events    bool
	address, clusterName, serverName string
}

// outputs are what --output takes; "" is a table.
var outputs = []string{"", "wide", "json", "yaml", "name"}

func (s *showing) addFlags(cmd *cobra.Command, namespaced bool) {
	fs := cmd.Flags()
	fs.StringVarP(&s.output, "output", "o", "", "output `format`: wide, json, yaml or name (default: a table)")
	fs.BoolVar(&s.noHeaders, "no-headers", false, "print no header line")
	fs.BoolVarP(&s.watch, "watch", "w", false, "keep printing changes until Ctrl-C")
	fs.BoolVar(&s.events, "output-watch-events", false, "with --watch: print ADDED, MODIFIED or DELETED in each line")
	if namespaced {
		fs.StringVarP(&s.namespace, "namespace", "n", "", "show only pods of this `namespace` (default: all)")
		fs.BoolVarP(&s.all, "all-namespaces", "A", false, "show pods of all namespaces; this is the default")
	}
	s.addSchedulerFlags(fs)
}

// addSchedulerFlags adds those that say which scheduler is asked.
func (s *showing) addSchedulerFlags(fs *pflag.FlagSet) {
	fs.StringVar(&s.address, "status-address", "", "`host:port` of the scheduler's status server (default: the leading scheduler's)")
	fs.StringVar(&s.clusterName, "cluster-name", defaultName, "`name` of the cluster, as given to km scheduler")
	fs.StringVar(&s.serverName, "tls-server-name", statedir.SchedulerServerName, "`name` in the scheduler's certificate")
}

func (s *showing) check() error {
	if s.output == "table" { // the default of earlier versions
		s.output = ""
	}
	if !slices.Contains(outputs, s.output) {
		return fmt.Errorf("cannot use --output=%s: give wide, json, yaml or name", s.output)
	}
	if s.all && s.namespace != "" {
		return errors.New("cannot use --namespace with --all-namespaces")
	}
	if s.events && (!s.watch || s.output != "" && s.output != "wide") {
		return errors.New("cannot use --output-watch-events without --watch, or with an --output other than wide")
	}
	return checkAddresses(named{"status-address", s.address})
}

// showCommand is the command that shows things of a kind.
func showCommand[T any](c *common, k kind[T]) *cobra.Command {
	var s showing
	cmd := &cobra.Command{
		Use: k.plural + " [NAME...]", Short: k.short, Args: cobra.ArbitraryArgs,
		Long: k.short + `. With names, show only those.

The command asks the leading scheduler as the cluster's administrator. The administrator's kubeconfig is in --state-dir; the
scheduler's address comes from etcd, unless --status-address gives it.`,
		Example: "  km " + k.plural + "\n  km " + k.plural + " -o wide --watch\n  km " + k.plural + " -o yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := usage(s.check()); err != nil {
				return err
			}
			client, err := statusClient(cmd.Context(), c.dir(), s)
			if err != nil {
				return err
			}
			v := newViewer(k, s, args)
			v.out, v.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			read := func(ctx context.Context) ([]T, error) { return k.read(client, ctx) }
			if !s.watch {
				return v.show(cmd.Context(), read)
			}
			return serve(c, func(ctx context.Context) error { return v.follow(ctx, read) })
		},
	}
	s.addFlags(cmd, k.namespace != nil)
	return cmd
}

// viewer prints things of a kind. One goroutine uses it.
type viewer[T any] struct {
	kind     kind[T]
	showing  showing
	selected []string
	out      io.Writer
	errs     io.Writer
	now      func() time.Time
	table    printers.ResourcePrinter
}

func newViewer[T any](k kind[T], s showing, selected []string) *viewer[T] {
	return &viewer[T]{
		kind: k, showing: s, selected: selected, out: io.Discard, errs: io.Discard, now: time.Now,
		table: printers.NewTablePrinter(printers.PrintOptions{NoHeaders: s.noHeaders, Wide: s.output == "wide"}),
	}
}

// show prints what is there now. A name that selects nothing is an error.
func (v *viewer[T]) show(ctx context.Context, read func(context.Context) ([]T, error)) error {
	list, err := read(ctx)
	if err != nil {
		return err
	}
	list, missing := v.selectFrom(list)
	if err := v.print(list); err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s %q not found", v.kind.singular, missing[0])
	}
	return nil
}

// selectFrom returns the things that the command line selects, and the names that match nothing.
func (v *viewer[T]) selectFrom(list []T) (selected []T, missing []string) {
	found := map[string]bool{}
	selected = []T{}
	for _, one := range list {
		if v.kind.namespace != nil && v.showing.namespace != "" && v.kind.namespace(one) != v.showing.namespace {
			continue
		}
		wanted := len(v.selected) == 0
		for _, name := range v.kind.names(one) {
			if slices.Contains(v.selected, name) {
				wanted, found[name] = true, true
			}
		}
		if wanted {
			selected = append(selected, one)
		}
	}
	for _, name := range v.selected {
		if !found[name] {
			missing = append(missing, name)
		}
	}
	return selected, missing
}

func (v *viewer[T]) print(list []T) error {
	var all any = list
	if len(v.selected) == 1 && len(list) == 1 {
		all = list[0]
	}
	switch v.showing.output {
	case "json":
		e := json.NewEncoder(v.out)
		e.SetIndent("", "  ")
		return e.Encode(all)
	case "yaml":
		text, err := yaml.Marshal(all)
		if err != nil {
			return fmt.Errorf("cannot write YAML: %w", err)
		}
		_, err = v.out.Write(text)
		return err
	case "name":
		for _, one := range list {
			if _, err := fmt.Fprintf(v.out, "%s/%s\n", v.kind.prefix, v.kind.name(one)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) == 0 && len(v.selected) == 0 {
		_, err := fmt.Fprintf(v.errs, "No %s found.\n", v.kind.things())
		return err
	}
	return v.printTable("", list)
}

// things is the plural for "No ... found".
func (k kind[T]) things() string {
	if k.singular == "pod" {
		return "waiting pods"
	}
	return k.plural
}

// printTable prints the rows of a table; event is for --output-watch-events, else "".
func (v *viewer[T]) printTable(event string, list []T) error {
	table := &metav1.Table{ColumnDefinitions: slices.Clone(v.kind.columns)}
	for _, one := range list {
		for _, cells := range v.kind.rows(v.now(), one) {
			table.Rows = append(table.Rows, metav1.TableRow{Cells: cells})
		}
	}
	if event != "" {
		return v.table.PrintObj(&metav1.WatchEvent{Type: event, Object: runtime.RawExtension{Object: table}}, v.out)
	}
	return v.table.PrintObj(table, v.out)
}

// follow prints the current list and then each change until ctx ends. Like kubectl, it prints a deleted thing once more.
func (v *viewer[T]) follow(ctx context.Context, read func(context.Context) ([]T, error)) error {
	if v.showing.output == "" || v.showing.output == "wide" {
		columns := printers.GetNewTabWriter(v.out)
		defer columns.Flush()
		v.out = columns
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var before []T
	for first := true; ; first = false {
		list, err := read(ctx)
		if err != nil {
			return err
		}
		list, _ = v.selectFrom(list)
		if err := v.printChanges(before, list, first); err != nil {
			return err
		}
		before = list
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printChanges prints things that were added, modified or deleted between the lists.
func (v *viewer[T]) printChanges(before, after []T, first bool) error {
	if flusher, ok := v.out.(interface{ Flush() error }); ok {
		defer func() { _ = flusher.Flush() }() // the next line fails if the terminal is gone
	}
	if first && !v.showing.events {
		if len(after) == 0 {
			return nil
		}
		return v.print(after)
	}
	find := func(list []T, one T) (T, bool) {
		i := slices.IndexFunc(list, func(other T) bool { return v.kind.names(other)[0] == v.kind.names(one)[0] })
		if i < 0 {
			return one, false
		}
		return list[i], true
	}
	for _, one := range after {
		event := "ADDED"
		if old, there := find(before, one); there {
			event = "MODIFIED"
			if reflect.DeepEqual(old, one) {
				continue
			}
		}
		if err := v.printChange(event, one); err != nil {
			return err
		}
	}
	for _, one := range before {
		if _, there := find(after, one); !there {
			if err := v.printChange("DELETED", one); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *viewer[T]) printChange(event string, one T) error {
	switch {
	case v.showing.events:
		return v.printTable(event, []T{one})
	case v.showing.output == "" || v.showing.output == "wide":
		return v.printTable("", []T{one})
	}
	if v.showing.output == "yaml" {
		if _, err := io.WriteString(v.out, "---\n"); err != nil {
			return err
		}
	}
	return v.print([]T{one})
}

// statusClient returns a client with the administrator's certificate.
func statusClient(ctx context.Context, dir statedir.Dir, s showing) (*status.Client, error) {
	if _, err := os.Stat(dir.AdminKubeconfig()); errors.Is(err, os.ErrNotExist) {
		return nil, dir.NoCluster()
	}
	admin, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
	}
	address := s.address
	if address == "" {
		if address, err = leaderAddress(ctx, dir, s.clusterName); err != nil {
			return nil, fmt.Errorf("cannot find the leading scheduler: %w; or give its address by --status-address", err)
		}
	}
	return status.NewClient(address, status.Identity{
		CA: admin.CAData, Cert: admin.CertData, Key: admin.KeyData, ServerName: s.serverName,
	})
}

// leaderAddress asks the cluster's etcd where the leading scheduler serves its status.
func leaderAddress(ctx context.Context, dir statedir.Dir, name string) (string, error) {
	takeOverKlog() // etcd's client logs each closed connection there
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
