package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/docs"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// securityPage is the page whose tables the tests try.
const securityPage = "docs/security.md"

// securityTable returns the table below a heading of the page about security.
func securityTable(t *testing.T, heading string) docs.Table {
	t.Helper()
	list, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.Name != securityPage {
			continue
		}
		for _, table := range p.Tables() {
			if table.Heading == heading {
				return table
			}
		}
	}
	t.Fatalf("%s has no table below %q", securityPage, heading)
	return docs.Table{}
}

// errRefused is why an attempt failed that the cluster did not allow. Any other error says that the attempt itself is wrong.
var errRefused = errors.New("refused")

// refusedf returns an error that is errRefused.
func refusedf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errRefused, fmt.Sprintf(format, args...))
}

// attempt tries what a row says, as somebody. It returns nil if that is allowed.
type attempt[W any] func(ctx context.Context, as W) error

// tryTable compares each cell of the table below the heading with what happens.
func tryTable[W any](t *testing.T, heading string, who map[string]W, attempts map[string]attempt[W]) {
	t.Helper()
	for _, problem := range tried(t.Context(), securityTable(t, heading), who, attempts) {
		t.Errorf("%s: %s: %s", securityPage, heading, problem)
	}
}

// tried returns the cells of a table that are not what happens. Columns name who tries, rows what. Columns and rows that only the
// table or only the test has are problems too.
func tried[W any](ctx context.Context, table docs.Table, who map[string]W, attempts map[string]attempt[W]) (problems []string) {
	columns, rows := table.Header[1:], []string{}
	for _, row := range table.Rows {
		rows = append(rows, row[0])
	}
	problems = append(differ("column", columns, who), differ("row", rows, attempts)...)
	for _, row := range table.Rows {
		try := attempts[row[0]]
		if len(row) != len(table.Header) {
			problems = append(problems, fmt.Sprintf("row %q has %d cells", row[0], len(row)))
			continue
		}
		for i, cell := range row[1:] {
			if as, ok := who[columns[i]]; ok && try != nil {
				if problem := triedCell(ctx, cell, func(ctx context.Context) error { return try(ctx, as) }); problem != "" {
					problems = append(problems, fmt.Sprintf("%s: %s: %s", columns[i], row[0], problem))
				}
			}
		}
	}
	return problems
}

// differ compares what the table has with what the test has.
func differ[V any](what string, table []string, test map[string]V) (problems []string) {
	for _, name := range table {
		if _, ok := test[name]; !ok {
			problems = append(problems, fmt.Sprintf("%s %q is not tried", what, name))
		}
	}
	for name := range test {
		if !slices.Contains(table, name) {
			problems = append(problems, fmt.Sprintf("the table has no %s %q", what, name))
		}
	}
	slices.Sort(problems)
	return problems
}

func triedCell(ctx context.Context, cell string, try func(context.Context) error) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := try(ctx)
	switch {
	case err != nil && !errors.Is(err, errRefused):
		return fmt.Sprintf("the attempt failed: %v", err)
	case cell == "yes" && err != nil:
		return fmt.Sprintf("the page says yes, but it is %v", err)
	case cell == "no" && err == nil:
		return "the page says no, but it is allowed"
	case cell != "yes" && cell != "no":
		return fmt.Sprintf("the cell says %q: write yes or no", cell)
	}
	return ""
}

// securityIsAsThePageSays tries the tables of the page about security on a cluster of several nodes. web is a pod on the first one.
func securityIsAsThePageSays(t *testing.T, c *scratch.Cluster, dir string, web *corev1.Pod) {
	targets := prepareTargets(t, c)
	t.Run("in the API", func(t *testing.T) { identitiesMayDoWhatThePageSays(t, c, dir, targets) })
	t.Run("on machines", func(t *testing.T) { machinesKeepWhatThePageSays(t, c, dir) })
	t.Run("from the network", func(t *testing.T) { networkAllowsWhatThePageSays(t, c, dir, web) })
	t.Run("in Mesos", func(t *testing.T) { readersOfMesosSeeWhatThePageSays(t, c, dir, targets.pod) })
	t.Run("open ports", func(t *testing.T) { listenersAreListed(t, c, dir) })
	remove(t, c, targets.pod)
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), targets.pending.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func TestWrongCellsOfTheSecurityPageAreFound(t *testing.T) {
	table := docs.Table{Header: []string{"try", "a", "b", "c"}, Rows: [][]string{
		{"only a may", "yes", "yes", "no"}, {"all may", "yes", "no", "no"}, {"broken", "yes", "no", "no"}, {"unknown", "yes", "no", "no"},
		{"short", "yes"}, {"vague", "perhaps", "no", "no"},
	}}
	onlyA := func(_ context.Context, as string) error {
		if as != "a" {
			return refusedf("you are not a")
		}
		return nil
	}
	got := tried(t.Context(), table, map[string]string{"a": "a", "b": "b", "d": "d"}, map[string]attempt[string]{
		"only a may": onlyA, "vague": onlyA, "short": onlyA, "more": onlyA,
		"all may": func(context.Context, string) error { return nil },
		"broken":  func(context.Context, string) error { return errors.New("no such thing") },
	})
	want := []string{
		`column "c" is not tried`, `the table has no column "d"`, `row "unknown" is not tried`, `the table has no row "more"`,
		"b: only a may: the page says yes, but it is refused: you are not a",
		"b: all may: the page says no, but it is allowed",
		"a: broken: the attempt failed: no such thing", "b: broken: the attempt failed: no such thing",
		`row "short" has 2 cells`, `a: vague: the cell says "perhaps": write yes or no`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the problems (-want +got):\n%s", diff)
	}
}
