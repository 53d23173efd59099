package logs

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestFlagsOfAControlPlaneReachTheProcess(t *testing.T) {
	var b Beside
	fs := pflag.NewFlagSet("apiserver", pflag.ContinueOnError)
	b.AddFlags(fs)
	if b.Retention != 7*24*time.Hour || b.MaxSize != 10<<30 || b.NamespaceRate != 0 || !b.Enabled || b.Port != 10261 {
		t.Errorf("the defaults are %+v", b)
	}
	err := fs.Parse([]string{
		"--logs-address=10.0.0.5", "--logs-port=1234", "--logs-retention=36h", "--logs-max-size=512MiB", "--logs-namespace-rate=100", "--logs-ingest-address=10.0.0.5:9428",
		"--logs-syslog-address=10.0.0.5:1514",
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Dir, b.LogLevel, b.LogFormat, b.Files = "/s", "debug", "json", map[string]string{"audit": "/s/log/audit.log", "km": "/s/log/km.log"}
	want := Config{
		Dir: "/s", Address: "10.0.0.5", Port: 1234, Retention: 36 * time.Hour, MaxSize: 512 << 20, NamespaceRate: 100, Files: b.Files, IngestAddress: "10.0.0.5:9428",
		SyslogAddress: "10.0.0.5:1514",
	}
	if diff := cmp.Diff(want, b.Config); diff != "" {
		t.Error(diff)
	}
	var got Config
	child := pflag.NewFlagSet("logstore", pflag.ContinueOnError)
	got.AddFlags(child)
	given := map[string]*string{}
	for _, name := range []string{"state-dir", "log-level", "log-format"} {
		given[name] = child.String(name, "", "")
	}
	args := b.args()
	if args[0] != "logstore" {
		t.Fatal(args)
	}
	if err := child.Parse(args[1:]); err != nil {
		t.Fatal(err)
	}
	got.Dir = want.Dir
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the process has: %s", diff)
	}
	if *given["state-dir"] != "/s" || *given["log-level"] != "debug" || *given["log-format"] != "json" {
		t.Errorf("%q", args)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if b.Serves() != "10.0.0.5:1234" {
		t.Errorf("it serves at %s", b.Serves())
	}
}
