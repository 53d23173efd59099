package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/contrib/metrics"
)

// query has the flags of `km metrics query`.
type query struct {
	output    string
	at        string
	noHeaders bool
}

func metricsQueryCommand(c *common) *cobra.Command {
	var q query
	cmd := &cobra.Command{
		Use: "query PROMQL", Short: "Show the value of a PromQL expression", Args: cobra.ExactArgs(1),
		Long: `Asks the metrics server for the value of a PromQL expression (https://prometheus.io/docs/prometheus/latest/querying/basics/), as the
cluster's administrator. The administrator's kubeconfig is in --state-dir.`,
		Example: `  km metrics query 'sum by (namespace) (container_memory_working_set_bytes)'
  km metrics query 'up == 0'
  km metrics query 'rate(container_cpu_usage_seconds_total[5m])' --time=2026-11-30T12:00:00Z -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := q.check()
			if err := usage(err); err != nil {
				return err
			}
			config, err := clientcmd.BuildConfigFromFlags("", c.dir().AdminKubeconfig())
			if errors.Is(err, fs.ErrNotExist) {
				return c.dir().NoCluster()
			}
			if err != nil {
				return fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
			}
			value, warnings, err := metrics.Query(cmd.Context(), config, args[0], at)
			if err != nil {
				return err
			}
			for _, warning := range warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "km: %s\n", warning)
			}
			return q.print(cmd.OutOrStdout(), cmd.ErrOrStderr(), value)
		},
	}
	cmd.Flags().StringVarP(&q.output, "output", "o", "", "output `format`: json, as Prometheus has it (default: a table)")
	cmd.Flags().StringVar(&q.at, "time", "", "`when`, as in 2026-11-30T12:00:00Z (default: now)")
	cmd.Flags().BoolVar(&q.noHeaders, "no-headers", false, "print no header line")
	return cmd
}

// check checks the flags, and returns the time.
func (q query) check() (time.Time, error) {
	if q.output != "" && q.output != "json" {
		return time.Time{}, fmt.Errorf("cannot use --output=%s: give json", q.output)
	}
	if q.at == "" {
		return time.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, q.at)
	if err != nil {
		return at, fmt.Errorf("cannot use --time=%s: give a time as in 2026-11-30T12:00:00Z", q.at)
	}
	return at, nil
}

func (q query) print(out, errs io.Writer, value model.Value) error {
	if q.output == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"resultType": value.Type().String(), "result": value})
	}
	table := valueTable(value)
	if len(table.Rows) == 0 {
		_, err := fmt.Fprintln(errs, "No series found.")
		return err
	}
	return printers.NewTablePrinter(printers.PrintOptions{NoHeaders: q.noHeaders}).PrintObj(table, out)
}

// sample is a value of a series.
type sample struct {
	labels model.Metric
	at     model.Time
	value  string
}

// valueTable has a column for each label. A range has a row for each of its samples, with the time.
func valueTable(value model.Value) *metav1.Table {
	var samples []sample
	timed := false
	switch v := value.(type) {
	case model.Vector:
		for _, s := range v {
			samples = append(samples, sample{s.Metric, s.Timestamp, textOf(s.Value, s.Histogram)})
		}
	case model.Matrix:
		timed = true
		for _, series := range v {
			for _, s := range series.Values {
				samples = append(samples, sample{series.Metric, s.Timestamp, s.Value.String()})
			}
			for _, s := range series.Histograms {
				samples = append(samples, sample{series.Metric, s.Timestamp, s.Histogram.String()})
			}
		}
	case *model.Scalar:
		samples = []sample{{value: v.Value.String()}}
	case *model.String:
		samples = []sample{{value: v.Value}}
	}
	return tableOf(samples, timed)
}

func textOf(value model.SampleValue, histogram *model.SampleHistogram) string {
	if histogram != nil {
		return histogram.String()
	}
	return value.String()
}

// tableOf keeps the order: an expression such as topk has sorted the samples.
func tableOf(samples []sample, timed bool) *metav1.Table {
	names := map[model.LabelName]bool{}
	for _, s := range samples {
		for name := range s.labels {
			names[name] = true
		}
	}
	labels := slices.Sorted(maps.Keys(names)) // __name__ is first
	table := &metav1.Table{}
	for _, name := range labels {
		title := string(name)
		if name == model.MetricNameLabel {
			title = "Metric"
		}
		table.ColumnDefinitions = append(table.ColumnDefinitions, column(title))
	}
	if timed {
		table.ColumnDefinitions = append(table.ColumnDefinitions, column("Time"))
	}
	table.ColumnDefinitions = append(table.ColumnDefinitions, column("Value"))
	for _, s := range samples {
		var cells []any
		for _, name := range labels {
			cells = append(cells, string(s.labels[name]))
		}
		if timed {
			cells = append(cells, s.at.Time().UTC().Format(time.RFC3339))
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: append(cells, s.value)})
	}
	return table
}
