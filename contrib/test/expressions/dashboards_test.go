package expressions

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// grafana10 is the version of the schema that Grafana 10.0 writes. It reads that and earlier ones.
const grafana10 = 38

// dashboard is what these tests read of Grafana's JSON
// (https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).
type dashboard struct {
	UID, Title    string
	Tags          []string
	SchemaVersion int
	Templating    struct{ List []variable }
	Panels        []panel
}

type variable struct {
	Name, Type string
	Query      any // text or an object
	Definition string
	Datasource source
}

type source struct{ Type, UID string }

type panel struct {
	ID          int
	Title, Type string
	Datasource  source
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct{ Unit string }
	}
	Targets []target
}

type target struct {
	RefID, Expr, LegendFormat string
	Datasource                source
}

// fromVariable is where panels take their data from, so that a dashboard fits whatever the data source is called.
var fromVariable = source{Type: "prometheus", UID: "${datasource}"}

// dashboards are all of the product, by their files' names.
func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "contrib/dashboards/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the dashboards: %v, %v", files, err)
	}
	all := map[string]dashboard{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = d
	}
	return all
}

func TestDashboardsAreWhatGrafanaLoads(t *testing.T) {
	titles := map[string]string{}
	for file, d := range dashboards(t) {
		if want := "k8sm-" + strings.TrimSuffix(file, ".json"); d.UID != want {
			t.Errorf("%s: its uid is %q, want %q", file, d.UID, want)
		}
		if other := titles[d.Title]; other != "" || d.Title == "" {
			t.Errorf("%s: its title is %q, and so is that of %q", file, d.Title, other)
		}
		titles[d.Title] = file
		if d.SchemaVersion != grafana10 || !slices.Contains(d.Tags, "k8sm") {
			t.Errorf("%s: schemaVersion %d, tags %q", file, d.SchemaVersion, d.Tags)
		}
		if list := d.Templating.List; len(list) == 0 || list[0].Name != "datasource" || list[0].Type != "datasource" || list[0].Query != "prometheus" {
			t.Errorf("%s: the first variable is not its data source: %+v", file, list)
		}
		for _, v := range d.Templating.List[1:] {
			if v.Datasource != fromVariable || v.Type != "query" || !strings.HasPrefix(v.Definition, "label_values(") {
				t.Errorf("%s: variable %+v", file, v)
			}
		}
		if len(d.Panels) == 0 {
			t.Errorf("%s has no panels", file)
		}
	}
}

// units are those of Grafana's that the dashboards use
// (https://github.com/grafana/grafana/blob/main/packages/grafana-data/src/valueFormats/categories.ts).
var units = []string{"Bps", "bytes", "mbytes", "ms", "none", "ops", "percentunit", "reqps", "s"}

func TestEachPanelCanBeRead(t *testing.T) {
	for file, d := range dashboards(t) {
		var ids []int
		var titles []string
		taken := map[[2]int]string{} // cells of the grid
		for _, p := range d.Panels {
			if slices.Contains(ids, p.ID) || slices.Contains(titles, p.Type+p.Title) || p.Title == "" || p.ID == 0 {
				t.Errorf("%s: panel %d %q: another one has this number or title", file, p.ID, p.Title)
			}
			ids, titles = append(ids, p.ID), append(titles, p.Type+p.Title)
			if !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
				t.Errorf("%s: panel %q has the unit %q, want one of %q", file, p.Title, p.FieldConfig.Defaults.Unit, units)
			}
			if p.Type != "timeseries" && p.Type != "stat" || p.Datasource != fromVariable || len(p.Targets) == 0 {
				t.Errorf("%s: panel %q is a %s of %+v with %d expressions", file, p.Title, p.Type, p.Datasource, len(p.Targets))
			}
			at := p.GridPos
			if at.X < 0 || at.W < 1 || at.X+at.W > 24 {
				t.Errorf("%s: panel %q is at %+v, and the grid has 24 columns", file, p.Title, at)
			}
			for x := at.X; x < at.X+at.W; x++ {
				for y := at.Y; y < at.Y+at.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: panel %q lies on panel %q", file, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
		}
	}
}

func TestEachExpressionCanBeDrawn(t *testing.T) {
	var all []string
	for file, d := range dashboards(t) {
		for _, p := range d.Panels {
			var refs []string
			for _, target := range p.Targets {
				if slices.Contains(refs, target.RefID) || target.RefID == "" || target.Datasource != fromVariable {
					t.Errorf("%s: panel %q: expression %q of %+v", file, p.Title, target.RefID, target.Datasource)
				}
				refs = append(refs, target.RefID)
				expr := d.filled(t, target.Expr)
				all = append(all, expr)
				for _, label := range lost(expr, target.LegendFormat) {
					t.Errorf("%s: panel %q: the legend %q shows %s, which %s drops", file, p.Title, target.LegendFormat, label, expr)
				}
			}
		}
	}
	parses(t, all)
}

// parses has promtool read expressions, as recording rules.
func parses(t *testing.T, exprs []string) {
	t.Helper()
	var list []map[string]string
	for i, expr := range exprs {
		list = append(list, map[string]string{"record": fmt.Sprintf("drawn:%d", i), "expr": expr})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboards", "rules": list}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "drawn.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

var reference = regexp.MustCompile(`\$\{?([a-zA-Z_]+)\}?`)

// filled is an expression with values for Grafana's variables and for those of the dashboard.
func (d dashboard) filled(t *testing.T, expr string) string {
	t.Helper()
	return reference.ReplaceAllStringFunc(expr, func(found string) string {
		name := reference.FindStringSubmatch(found)[1]
		switch {
		case name == "__rate_interval":
			return "5m"
		case !slices.ContainsFunc(d.Templating.List, func(v variable) bool { return v.Name == name }):
			t.Errorf("%s uses $%s, which the dashboard does not have", expr, name)
		}
		return "some"
	})
}

var shown = regexp.MustCompile(`{{\s*([a-zA-Z_]+)\s*}}`)

var (
	grouping  = regexp.MustCompile(`\bby \(([^)]*)\)`)
	aggregate = regexp.MustCompile(`^(sum|min|max|count)\(`)
)

// lost are labels that a legend shows and that the outermost aggregation drops.
func lost(expr, legend string) (labels []string) {
	var kept []string
	if by := grouping.FindStringSubmatch(expr); by != nil {
		kept = strings.Split(by[1], ", ")
	} else if !aggregate.MatchString(expr) {
		return nil
	}
	for _, label := range shown.FindAllStringSubmatch(legend, -1) {
		if !slices.Contains(kept, label[1]) {
			labels = append(labels, label[1])
		}
	}
	return labels
}

func TestLegendsThatShowNothingAreFound(t *testing.T) {
	for expr, want := range map[string]int{
		`sum by (a) (rate(x[5m]))`: 1, `sum by (a, b) (x)`: 0, `topk(3, sum by (a) (x))`: 1, `max(x)`: 2, `x`: 0,
		`histogram_quantile(0.9, sum by (b, le) (rate(x_bucket[5m])))`: 1,
	} {
		if got := lost(expr, "{{a}} and {{b}}"); len(got) != want {
			t.Errorf("%s drops %q, want %d labels", expr, got, want)
		}
	}
}
