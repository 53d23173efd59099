package expressions

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// A pod may serve metrics under any name, and its series have the job "pods". So each selector names its job; but for these, which
// Prometheus makes by itself, it is enough to leave pods out.
var ofPrometheus = []string{"ALERTS", "up"}

// owners are the jobs that the metrics of docs/reference.md are of, by how their names begin.
var owners = map[string]string{"k8sm_scheduler_": "k8sm-scheduler", "k8sm_minion_": "k8sm-minion", "mesos_": "mesos"}

// known are the names of all series, each with its job: those of the reference, and those that stock programs serve.
func known(t *testing.T) map[[2]string]bool {
	t.Helper()
	names := map[[2]string]bool{}
	for _, table := range page(t, "docs/reference.md").Tables() {
		if len(table.Header) > 1 && table.Header[1] == "jobs" {
			everywhere(names, table.Rows)
		}
		if len(table.Header) < 2 || table.Header[0] != "metric" || table.Header[1] != "type" {
			continue
		}
		for _, row := range table.Rows {
			for _, found := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(row[0], -1) {
				for _, suffix := range suffixes[row[1]] {
					names[[2]string{found[1] + suffix, owner(found[1])}] = true
				}
			}
		}
	}
	listed := len(names)
	lists, err := filepath.Glob("testdata/stock/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(string(text)) {
			names[[2]string{name, strings.TrimSuffix(filepath.Base(list), ".txt")}] = true
		}
	}
	if listed < 50 || len(names)-listed < 200 {
		t.Fatalf("only %d metrics are in the reference, and %d are stock ones", listed, len(names)-listed)
	}
	return names
}

// everywhere adds the gauges that many jobs have. Jobs are in the second column of the first row.
func everywhere(names map[[2]string]bool, rows [][]string) {
	words := regexp.MustCompile("`([a-z0-9_-]+)`")
	for _, row := range rows {
		for _, metric := range words.FindAllStringSubmatch(row[0], -1) {
			for _, job := range words.FindAllStringSubmatch(rows[0][1], -1) {
				names[[2]string{metric[1], job[1]}] = true
			}
		}
	}
}

// suffixes of the series that a metric has, by its type.
var suffixes = map[string][]string{"gauge": {""}, "counter": {""}, "histogram": {"_bucket", "_sum", "_count"}}

func owner(name string) string {
	for prefix, job := range owners {
		if strings.HasPrefix(name, prefix) {
			return job
		}
	}
	return ""
}

// missing says what is wrong with the series that an expression reads.
func missing(there map[[2]string]bool, expr string) (problems []string) {
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return []string{err.Error()}
	}
	parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		var job *labels.Matcher
		for _, m := range selector.LabelMatchers {
			if m.Name == "job" {
				job = m
			}
		}
		switch {
		case slices.Contains(ofPrometheus, selector.Name) && job != nil && (job.Value == "pods") == (job.Type == labels.MatchNotEqual):
		case job == nil || job.Type == labels.MatchNotEqual || job.Type == labels.MatchNotRegexp:
			problems = append(problems, selector.String()+" takes series of pods too")
		case !slices.ContainsFunc(strings.Split(job.Value, "|"), func(job string) bool { return there[[2]string{selector.Name, job}] }):
			problems = append(problems, selector.String()+" is neither in docs/reference.md nor in testdata/stock")
		}
		return nil
	})
	return problems
}

func TestEachMetricExists(t *testing.T) {
	there := known(t)
	check := func(where, expr string) {
		for _, problem := range missing(there, expr) {
			t.Errorf("%s: %s", where, problem)
		}
	}
	for _, rule := range alerts(t) {
		check(rule.Alert, rule.Expr)
	}
	all := dashboards(t)
	for _, file := range slices.Sorted(maps.Keys(all)) {
		d := all[file]
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				check(file+", panel "+p.Title, d.filled(t, target.Expr))
			}
		}
		for _, v := range d.Templating.List[1:] {
			values := regexp.MustCompile(`^label_values\((.*), [a-z_]+\)$`).FindStringSubmatch(v.Definition)
			if values == nil {
				t.Errorf("%s: variable %s: %s", file, v.Name, v.Definition)
				continue
			}
			check(file+", variable "+v.Name, d.filled(t, values[1]))
		}
	}
}

func TestExpressionsOfWhatIsNotThereAreFound(t *testing.T) {
	there := map[[2]string]bool{{"x", "a"}: true, {"y", "b"}: true}
	for expr, problems := range map[string]int{
		`sum(rate(x{job="a"}[5m]))`: 0, `x{job=~"a|b"} + y{job="b"}`: 0, `up{job!="pods"} == 0`: 0, `x{job="b"}`: 1, `z{job="a"}`: 1,
		`x`: 1, `x{job=~".+"}`: 1, `up`: 1, `x{job="b"} + z{job="b"}`: 2, `x{job!="pods"}`: 1, `sum by (x) (x)`: 1, `max by (l, m) (x{job="a", l="b"}[5m]) or y`: 1,
	} {
		if got := missing(there, expr); len(got) != problems {
			t.Errorf("%s has the problems %q, want %d", expr, got, problems)
		}
	}
}
