package expressions

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/contrib/metrics/rules"
	"github.com/k8sm/k8sm/contrib/test/docs"
)

const (
	root   = "../../.."
	folder = root + "/contrib/metrics/rules"
)

// ruleFile is a Prometheus rule file.
type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []alertRule
	}
}

type alertRule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

// alerts are all rules of the product.
func alerts(t *testing.T) (all []alertRule) {
	t.Helper()
	files, err := rules.Files.ReadDir(".")
	if err != nil || len(files) == 0 {
		t.Fatalf("the rule files: %v, %v", files, err)
	}
	for _, file := range files {
		text, err := rules.Files.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		var content ruleFile
		if err := yaml.UnmarshalStrict(text, &content); err != nil {
			t.Fatalf("%s: %v", file.Name(), err)
		}
		for _, group := range content.Groups {
			all = append(all, group.Rules...)
		}
	}
	return all
}

// promtool runs Prometheus' own checker in the folder of the rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(root, "build/promtool"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; run `make test-deps` first", err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// files are those in the folder of the rules that match, by their names there.
func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	for i := range found {
		if found[i], err = filepath.Rel(folder, found[i]); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestPromtoolAcceptsTheRules(t *testing.T) {
	promtool(t, append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files(t, "*.yaml")...)...)
	promtool(t, append([]string{"test", "rules"}, files(t, "tests/*.yaml")...)...)
}

func TestEachAlertIsSeenFiring(t *testing.T) {
	fires := map[string]bool{}
	for _, file := range files(t, "tests/*.yaml") {
		text, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		var content struct {
			Tests []struct {
				AlertTests []struct {
					Alertname string
					Expected  []any `json:"exp_alerts"`
				} `json:"alert_rule_test"`
			}
		}
		if err := yaml.Unmarshal(text, &content); err != nil {
			t.Fatal(err)
		}
		for _, test := range content.Tests {
			for _, seen := range test.AlertTests {
				fires[seen.Alertname] = fires[seen.Alertname] || len(seen.Expected) > 0
			}
		}
	}
	for _, rule := range alerts(t) {
		if !fires[rule.Alert] {
			t.Errorf("no test in %s/tests sees %s firing", folder, rule.Alert)
		}
	}
}

func TestEachAlertHasItsRunbook(t *testing.T) {
	const address = "https://github.com/k8sm/k8sm/blob/main/docs/runbooks.md#"
	runbooks := page(t, "docs/runbooks.md")
	var names []string
	for _, rule := range alerts(t) {
		names = append(names, strings.ToLower(rule.Alert))
		if got, want := rule.Annotations["runbook_url"], address+strings.ToLower(rule.Alert); got != want {
			t.Errorf("%s: its runbook is %q, want %q", rule.Alert, got, want)
		}
		for _, annotation := range []string{"summary", "description"} {
			if rule.Annotations[annotation] == "" {
				t.Errorf("%s has no %s", rule.Alert, annotation)
			}
		}
		if severity := rule.Labels["severity"]; severity != "warning" && severity != "critical" {
			t.Errorf("%s: its severity is %q", rule.Alert, severity)
		}
	}
	sections := runbooks.Anchors()[1:] // the first is the page's own
	for _, name := range names {
		if !slices.Contains(sections, name) {
			t.Errorf("%s has no section %s", runbooks.Name, name)
		}
	}
	for _, section := range sections {
		if !slices.Contains(names, section) {
			t.Errorf("%s has a section %s, which no alert has", runbooks.Name, section)
		}
	}
}

// Who is woken by an alert wants to see something first.
func TestEachRunbookShowsCommands(t *testing.T) {
	sections := regexp.MustCompile(`(?m)^## `).Split(page(t, "docs/runbooks.md").Text, -1)[1:]
	for _, section := range sections {
		name, text, _ := strings.Cut(section, "\n")
		if !strings.Contains(text, "$ km ") {
			t.Errorf("the runbook of %s shows no command", name)
		}
	}
}

func page(t *testing.T, name string) docs.Page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return docs.Page{Name: name, Text: string(text)}
}
