package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/k8sm/k8sm/contrib/upgrade"
)

func upgradeCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "upgrade", Short: "Plan the upgrade of the cluster to this km"}
	var r clusterReader
	var output, file string
	plan := &cobra.Command{
		Use: "plan", Short: "Show what would be upgraded to this km, in which order, and what is in the way", Args: cobra.NoArgs,
		Long: `Reads the versions of etcd's members, API servers, schedulers and nodes, compares them with this km, and shows what would be upgraded in
which order. Shows what is in the way, too: versions that must not run side by side, APIs that are in use and removed, budgets that let no
pod be evicted, nodes that are not ready, an old snapshot, certificates that end. It changes nothing. Run the new km on the machine of a
control plane. It fails if something is in the way.`,
		Example: "  km upgrade plan\n  km upgrade plan --snapshot=/backup/k8sm.tar\n  km upgrade plan -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"", "json"}, output) {
				return usage(fmt.Errorf("cannot use --output=%s: give json", output))
			}
			if err := usage(checkAddresses(named{"status-address", r.show.address}), checkFiles(named{"snapshot", file})); err != nil {
				return err
			}
			takeOverKlog()
			r.dir, r.snapshot = c.dir(), file
			ctx, cancel := context.WithTimeout(cmd.Context(), planPatience)
			defer cancel()
			state, err := r.read(ctx)
			if err != nil {
				return err
			}
			p := upgrade.Make(state)
			if err := printPlan(cmd.OutOrStdout(), output, p); err != nil {
				return err
			}
			if len(p.Blocks) > 0 {
				return fmt.Errorf("cannot upgrade yet: %d in the way, see above", len(p.Blocks))
			}
			return nil
		},
	}
	plan.Flags().StringVarP(&output, "output", "o", "", "output `format`: json (default: text)")
	plan.Flags().StringVar(&file, "snapshot", "", "`file` that km snapshot save has written, if snapshots are not on a schedule")
	r.show.addSchedulerFlags(plan.Flags())
	cmd.AddCommand(plan)
	return cmd
}

// planPatience bounds the reading of a cluster.
const planPatience = time.Minute

func printPlan(w io.Writer, output string, p upgrade.Plan) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(p)
	}
	fmt.Fprintf(w, "To %s:\n\n", p.Target)
	if len(p.Steps) == 0 {
		fmt.Fprintln(w, "All parts have these versions.")
	} else {
		table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{column("Step"), column("Part"), column("Name"), column("From"), column("To")}}
		for i, s := range p.Steps {
			to := cmp.Or(s.What, s.To.String())
			table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{fmt.Sprint(i + 1), s.Kind, s.Name, s.From.String(), to}})
		}
		if err := printers.NewTablePrinter(printers.PrintOptions{}).PrintObj(table, w); err != nil {
			return err
		}
		fmt.Fprintln(w, "\nUpgrade one part after the other. The scheduler upgrades nodes by itself.")
	}
	for _, list := range []struct {
		title string
		lines []string
	}{{"To know", p.Warnings}, {"In the way", p.Blocks}} {
		if len(list.lines) > 0 {
			fmt.Fprintf(w, "\n%s:\n", list.title)
		}
		for _, line := range list.lines {
			fmt.Fprintf(w, "- %s\n", line)
		}
	}
	return nil
}
