package dns

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
)

func defaults() Config {
	var c Config
	c.AddFlags(pflag.NewFlagSet("", pflag.ContinueOnError))
	return c
}

func TestFlagsOfAServerHaveTheirEffect(t *testing.T) {
	var c Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(fs)
	err := fs.Parse([]string{"--kubeconfig=/k", "--address=10.0.0.5", "--port=5353", "--upstream=10.0.0.2,10.0.0.3", "--import=/i",
		"--metrics-address=127.0.0.1:9153", "--tls-cert-file=/c", "--tls-private-key-file=/p", "--client-ca-file=/a",
		"--allowed-networks=10.1.0.0/16,10.2.0.7"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Kubeconfig != "/k" || c.Address != "10.0.0.5" || c.Port != 5353 || !slices.Equal(c.Upstreams, []string{"10.0.0.2", "10.0.0.3"}) || c.Import != "/i" {
		t.Errorf("%+v", c)
	}
	if want := []string{"10.1.0.0/16", "10.2.0.7"}; !slices.Equal(c.AllowedNetworks, want) {
		t.Errorf("allowed are %v, want %v", c.AllowedNetworks, want)
	}
	if c.Metrics != (Metrics{"127.0.0.1:9153", "/c", "/p", "/a"}) {
		t.Errorf("metrics: %+v", c.Metrics)
	}
	if c.health() != "127.0.0.1:5353" {
		t.Errorf("health at %s", c.health())
	}
	if c.HealthAddress = "10.0.0.5:80"; c.health() != "10.0.0.5:80" {
		t.Errorf("health at %s", c.health())
	}
}

func TestWhatCannotBeFollowedIsNamedByItsFlag(t *testing.T) {
	for want, spoil := range map[string]func(*Config){
		"--port=0":                    func(c *Config) { c.Port = 0 },
		"--address=here":              func(c *Config) { c.Address = "here" },
		"--address=127.0.0.1":         func(c *Config) { c.Address = "127.0.0.1" },
		"--address=0.0.0.0":           func(c *Config) { c.Address = "0.0.0.0" },
		"--health-address=":           func(c *Config) { c.HealthAddress = "nowhere" },
		"--upstream=dns.example":      func(c *Config) { c.Upstreams = []string{"10.0.0.2", "dns.example"} },
		"--metrics-address=here":      func(c *Config) { c.Metrics.Address = "here" },
		"--tls-cert-file":             func(c *Config) { c.Metrics.Address, c.CertFile = "127.0.0.1:1", "/missing" },
		"--allowed-networks: \"lan\"": func(c *Config) { c.AllowedNetworks = []string{"10.0.0.0/8", "lan"} },
		"--import: open /missing:":    func(c *Config) { c.Import = "/missing" },
	} {
		c := defaults()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
}

func TestReplicasAreStartedAsTheirFlagsSay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "more")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var r Replicas
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	r.AddFlags(fs, 2)
	err := fs.Parse([]string{"--dns-replicas=3", "--dns-address=10.0.0.5", "--dns-port=7000", "--dns-upstream=10.0.0.2", "--dns-import=" + file, "--dns-metrics-port=9000",
		"--dns-allowed-networks=10.1.0.0/16,10.2.0.7"})
	if err != nil {
		t.Fatal(err)
	}
	r.Kubeconfig, r.LogLevel, r.LogFormat, r.CertFile, r.KeyFile, r.ClientCAFile = "/k", "debug", "json", "/c", "/p", "/a"
	if err := r.Validate(); err != nil || r.Count != 3 {
		t.Error(r.Count, err)
	}
	want := "dns --kubeconfig=/k --address=10.0.0.5 --port=7002 --log-level=debug --log-format=json --metrics-address=127.0.0.1:9002 --tls-cert-file=/c --tls-private-key-file=/p --client-ca-file=/a --upstream=10.0.0.2 --import=" + file + " --allowed-networks=10.1.0.0/16,10.2.0.7"
	if got := strings.Join(r.child(2, nil).Args, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestReplicasThatCannotRunAreRefusedByFlag(t *testing.T) {
	for want, spoil := range map[string]func(*Replicas){
		"--dns-replicas=-1":         func(r *Replicas) { r.Count = -1 },
		"--dns-port=65535":          func(r *Replicas) { r.Port = 65535 },
		"--dns-metrics-port=65535":  func(r *Replicas) { r.MetricsPort = 65535 },
		"--dns-address=localhost":   func(r *Replicas) { r.Address = "localhost" },
		"--dns-upstream=10.0.0.2:x": func(r *Replicas) { r.Upstreams = []string{"10.0.0.2:x"} },
		"--dns-allowed-networks":    func(r *Replicas) { r.AllowedNetworks = []string{"10.0.0.0/33"} },
		"--dns-import":              func(r *Replicas) { r.Import = "/missing" },
	} {
		var r Replicas
		r.AddFlags(pflag.NewFlagSet("", pflag.ContinueOnError), 2)
		r.Address = "10.0.0.5"
		spoil(&r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	if err := (Replicas{}).Validate(); err != nil {
		t.Errorf("none: %v", err)
	}
}

func TestWhatCoreDNSLogsKeepsItsLevel(t *testing.T) {
	for message, want := range map[string]logrus.Level{
		"[FATAL] plugin/loop: Loop": logrus.ErrorLevel, "[ERROR] x": logrus.ErrorLevel, "[WARNING] x": logrus.WarnLevel,
		"[INFO] x": logrus.InfoLevel, "[DEBUG] x": logrus.DebugLevel, "x": logrus.InfoLevel,
	} {
		if level, text := readLevel(message); level != want || strings.HasPrefix(text, "[") {
			t.Errorf("%q: %v %q", message, level, text)
		}
	}
}
