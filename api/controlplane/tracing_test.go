package controlplane

import (
	"strings"
	"testing"

	genericoptions "k8s.io/apiserver/pkg/server/options"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

func TestTracingConfigurationIsWrittenForTheAPIServer(t *testing.T) {
	c, fs := withFlags(statedir.Dir(t.TempDir()))
	if err := fs.Parse([]string{"--otlp-endpoint=localhost:4317", "--otlp-sampling-rate-per-million=77"}); err != nil {
		t.Fatal(err)
	}
	if err := c.writeTracing(); err != nil {
		t.Fatal(err)
	}
	got, err := genericoptions.ReadTracingConfiguration(c.StateDir.TracingConfig())
	if err != nil || *got.Endpoint != "localhost:4317" || *got.SamplingRatePerMillion != 77 {
		t.Errorf("the API server reads %+v, %v", got, err)
	}
	minions, err := c.minionConfig()
	if err != nil || minions.Tracing != (api.Tracing{Endpoint: "localhost:4317", PerMillion: 77}) {
		t.Errorf("minions read %+v, %v", minions.Tracing, err)
	}
	usual, _ := withFlags("/s")
	if minions, err := usual.minionConfig(); err != nil || minions.Tracing != (api.Tracing{}) {
		t.Errorf("without the flag, minions read %+v, %v", minions.Tracing, err)
	}
}

func TestTracesNeedACollector(t *testing.T) {
	for args, want := range map[string]string{
		"--otlp-endpoint=localhost:4317":                                           "",
		"--otlp-endpoint=unix:///run/collector.sock":                               "",
		"--otlp-endpoint=[2001:db8::1]:4317":                                       "",
		"--otlp-endpoint=http://localhost:4317":                                    "--otlp-endpoint=http://localhost:4317: give HOST:PORT",
		"--otlp-endpoint=localhost":                                                "it has no port",
		"--otlp-endpoint=c:4317 --otlp-sampling-rate-per-million=1000001":          "--otlp-sampling-rate-per-million=1000001: give 0 to 1000000",
		"--otlp-endpoint=c:4317 --otlp-sampling-rate-per-million=-1":               "--otlp-sampling-rate-per-million=-1: give 0 to 1000000",
		"--otlp-endpoint=c:4317 --kube-apiserver-arg=tracing-config-file=/mine.js": "--kube-apiserver-arg=tracing-config-file=/mine.js: k8sm sets --tracing-config-file",
	} {
		c := withArgs(t, strings.Fields(args)...)
		if err := c.Validate(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}
