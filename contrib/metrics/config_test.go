package metrics

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/cli/configfile"
	"github.com/k8sm/k8sm/contrib/metrics/history"
	"github.com/k8sm/k8sm/contrib/metrics/targets"
)

// beside has the flags at their defaults, and an address.
func beside() (*Beside, *pflag.FlagSet) {
	var b Beside
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	b.AddFlags(fs)
	b.Address, b.ClusterName, b.Dir = "10.0.0.5", "k8sm", "/s"
	return &b, fs
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// child is the configuration that the process has which b would start.
func child(t *testing.T, b *Beside) Config {
	t.Helper()
	text, err := b.file()
	if err != nil {
		t.Fatal(err)
	}
	var c Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(fs)
	if err := configfile.Apply(fs, write(t, "metrics.yaml", string(text))); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	c.Dir = b.Dir
	return c
}

func TestEveryFlagReachesTheProcess(t *testing.T) {
	scrape := write(t, "scrape.yaml", "scrape_configs: [{job_name: mine, static_configs: [{targets: ['10.0.0.9:1']}]}]")
	rules := t.TempDir()
	historyOf := func(has func(history.Config) bool) func(Config) bool {
		return func(c Config) bool { return has(c.history(nil)) }
	}
	tests := map[string]struct {
		value string
		shows func(Config) bool
	}{
		"metrics-address":       {"10.0.0.6", func(c Config) bool { return c.options().SecureServing.BindAddress.Equal(net.ParseIP("10.0.0.6")) }},
		"metrics-port":          {"4443", func(c Config) bool { return c.options().SecureServing.BindPort == 4443 && c.listen().Port() == 4443 }},
		"metrics-retention":     {"36h", historyOf(func(h history.Config) bool { return h.Retention == 36*time.Hour })},
		"metrics-max-size":      {"512MiB", historyOf(func(h history.Config) bool { return h.MaxSize == 512<<20 })},
		"metrics-scrape-config": {scrape, historyOf(func(h history.Config) bool { return h.ScrapeConfigFile == scrape })},
		"metrics-rules":         {rules, historyOf(func(h history.Config) bool { return h.RulesDir == rules })},
		"alertmanager": {"http://10.0.0.7:9093,http://10.0.0.8:9093", historyOf(func(h history.Config) bool {
			return slices.Equal(h.Alertmanagers, []string{"http://10.0.0.7:9093", "http://10.0.0.8:9093"})
		})},
	}
	_, all := beside()
	all.VisitAll(func(f *pflag.Flag) {
		test, ok := tests[f.Name]
		if !ok && f.Name != "metrics" { // see contrib/cli
			t.Errorf("--%s has no test of its effect", f.Name)
		}
		if !ok {
			return
		}
		usual, _ := beside()
		if test.shows(child(t, usual)) {
			t.Errorf("the effect of --%s is there without it", f.Name)
		}
		b, fs := beside()
		if err := fs.Set(f.Name, test.value); err != nil {
			t.Fatal(err)
		}
		if err := b.Validate(); err != nil {
			t.Errorf("--%s=%s: %v", f.Name, test.value, err)
		}
		if !test.shows(child(t, b)) {
			t.Errorf("--%s=%s has no effect", f.Name, test.value)
		}
	})
}

func TestDefaultsReachTheProcess(t *testing.T) {
	b, _ := beside()
	b.DNS, b.ClusterName, b.Logs = []string{"127.0.0.1:10063", "127.0.0.1:10064"}, "other", "10.0.0.5:10261"
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	c := child(t, b)
	if diff := cmp.Diff(b.Config, c, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-beside +process):\n%s", diff)
	}
	fixed := c.fixed(statedir.Etcd{Endpoints: []string{"https://127.0.0.1:2379", "https://10.0.0.2:2379"}})
	want := map[string][]string{
		targets.JobDNS: {"127.0.0.1:10063", "127.0.0.1:10064"}, targets.JobMetrics: {"10.0.0.5:10260"}, targets.JobLogs: {"10.0.0.5:10261"}, targets.JobEtcd: {"127.0.0.1:2379", "10.0.0.2:2379"},
	}
	if diff := cmp.Diff(want, fixed); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	if h := c.history(nil); h.Dir != "/s/metrics" || h.Retention != 15*24*time.Hour || h.MaxSize != 1<<30 {
		t.Errorf("kept is %+v", h)
	}
}

func TestNoLimitOfSizeIsNone(t *testing.T) {
	b, fs := beside()
	if err := fs.Set("metrics-max-size", "0"); err != nil {
		t.Fatal(err)
	}
	if h := child(t, b).history(nil); h.MaxSize >= 0 {
		t.Errorf("the limit is %d", h.MaxSize)
	}
}

func TestWrongSettingsAreRefusedByName(t *testing.T) {
	for want, set := range map[string][2]string{
		"cannot use --metrics-port=0":                             {"metrics-port", "0"},
		"cannot use --metrics-address=127.0.0.1: give an address": {"metrics-address", "127.0.0.1"},
		"cannot use --metrics-address=here: not an IP address":    {"metrics-address", "here"},
		"cannot use --metrics-retention=1h: give at least 2h":     {"metrics-retention", "1h"},
		"cannot use --metrics-max-size=1MiB: give at least 32MiB": {"metrics-max-size", "1MiB"},
		"cannot use --alertmanager: give URLs":                    {"alertmanager", "10.0.0.7:9093"},
		"cannot use --metrics-rules: open /nowhere: no such file": {"metrics-rules", "/nowhere"},
		"cannot use --metrics-scrape-config: ":                    {"metrics-scrape-config", "/nowhere"},
		"a.yaml:2: field targts not found":                        {"metrics-scrape-config", write(t, "a.yaml", "scrape_configs:\n- {job_name: x, targts: []}\n")},
		`there are two jobs of the name "x"`:                      {"metrics-scrape-config", write(t, "b.yaml", "scrape_configs: [{job_name: x}, {job_name: x}]")},
	} {
		b, fs := beside()
		if err := fs.Set(set[0], set[1]); err != nil {
			t.Fatal(err)
		}
		if err := b.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--%s=%s: %v, want %q", set[0], set[1], err, want)
		}
	}
	for flag, value := range map[string]string{"metrics-retention": "long", "metrics-max-size": "much"} {
		if _, fs := beside(); fs.Set(flag, value) == nil {
			t.Errorf("--%s=%s is taken", flag, value)
		}
	}
}

func TestPortInUseIsRefusedByName(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, _ := beside()
	b.Address, b.Port = "127.0.0.1", l.Addr().(*net.TCPAddr).Port
	if err := b.Free(); err == nil || !strings.Contains(err.Error(), "--metrics-port") {
		t.Errorf("got %v", err)
	}
	if b.Enabled = false; b.Free() != nil || b.Validate() != nil {
		t.Error("without metrics the port matters")
	}
}
