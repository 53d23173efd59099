package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// emptyPanels are panels, or single expressions of one, that may have nothing to show on a healthy cluster, with the reason.
var emptyPanels = map[string]string{
	`max(mesos_registrar_log_recovered{job="mesos"})`:           "the local Mesos keeps its registry in a file, not in a replicated log",
	"dns.json: Time that servers upstream take, mean":           "nobody asked for a name outside",
	"dns.json: Time until a changed service has its name, mean": "no headless service changed",
	"etcd.json: Answers that are no success":                    "all calls succeeded",
	"mesos.json: Quotas, used of the limit":                     "no role has a quota",
	"nodes.json: Calls of the runtime that failed":              "no call failed",
	"nodes.json: Disks":                                         "the machine's disks may be none below /dev",
	"nodes.json: Syncs that failed in the last hour":            "no sync failed",
	"pods.json: Memory, of the limit":                           "no container with a limit was read",
	"pods.json: Probes that fail":                               "no probe failed",
	"pods.json: Probes that failed in the last hour":            "no probe failed",
	"pods.json: Time that the limit of cpu takes away":          "no container with a limit was read",
	"scheduler.json: Evictions for maintenance and rollouts":    "nobody was evicted",
	"scheduler.json: Inverse offers":                            "no maintenance was planned",
}

// drawn is an expression of a dashboard.
type drawn struct{ panel, expr string }

// drawnExpressions are those of all dashboards, with all values of their variables.
func drawnExpressions(t *testing.T) (all []drawn) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the dashboards: %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, p := range dashboard.Panels {
			for _, target := range p.Targets {
				expr := regexp.MustCompile(`\$__rate_interval`).ReplaceAllString(target.Expr, "5m")
				expr = regexp.MustCompile(`\$[a-z]+`).ReplaceAllString(expr, ".+")
				all = append(all, drawn{filepath.Base(file) + ": " + p.Title, expr})
			}
		}
	}
	return all
}

// dashboardsShowTheCluster asks for what each panel shows of the last minutes, and whether each alert can be evaluated and is quiet.
func dashboardsShowTheCluster(t *testing.T, c *scratch.Cluster) {
	unknown := maps.Clone(emptyPanels)
	for _, d := range drawnExpressions(t) {
		delete(unknown, d.panel)
		delete(unknown, d.expr)
		reason := cmp.Or(emptyPanels[d.panel], emptyPanels[d.expr])
		switch series, err := seriesOf(t, c, d.expr); {
		case err != nil:
			t.Errorf("%s: %s: %v", d.panel, d.expr, err)
		case series == 0 && reason != "":
			t.Logf("%s is empty: %s", d.panel, reason)
		case series == 0:
			t.Errorf("%s is empty: %s", d.panel, d.expr)
		}
	}
	if len(unknown) > 0 {
		t.Errorf("no dashboard has the panels %v", unknown)
	}
	alertsAreQuiet(t, c)
}

// seriesOf is how many series an expression had in the last minutes.
func seriesOf(t *testing.T, c *scratch.Cluster, expr string) (int, error) {
	now := time.Now()
	body, err := c.Kube.CoreV1().RESTClient().Get().AbsPath(historyPath+"_range").Param("query", expr).Param("step", "30s").
		Param("start", now.Add(-15*time.Minute).Format(time.RFC3339)).Param("end", now.Format(time.RFC3339)).Do(t.Context()).Raw()
	if err != nil {
		return 0, fmt.Errorf("%w: %.300s", err, body)
	}
	var answer struct{ Data struct{ Result []any } }
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, err
	}
	return len(answer.Data.Result), nil
}

// alertsAreQuiet finds rules that cannot be evaluated, and alerts that fire.
func alertsAreQuiet(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	body, err := c.Kube.CoreV1().RESTClient().Get().AbsPath(filepath.Join(filepath.Dir(historyPath), "rules")).Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, State, Health, LastError string }
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, group := range answer.Data.Groups {
		for _, rule := range group.Rules {
			if rules++; rule.Health != "ok" || rule.State == "firing" {
				t.Errorf("the alert %s is %s, and its evaluation %s: %s", rule.Name, rule.State, rule.Health, rule.LastError)
			}
		}
	}
	if rules < 5 {
		t.Errorf("there are %d rules", rules)
	}
}
