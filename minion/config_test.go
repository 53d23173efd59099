package minion

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/executor/mesos"
)

// told returns a cluster's configuration.
func told() api.MinionConfig {
	contain := true
	return api.MinionConfig{
		ClusterDomain: "x.y", RootDir: "/told", DockerHost: "unix:///told", IdleTimeout: &metav1.Duration{Duration: time.Hour},
		CleanupDelay: &metav1.Duration{Duration: time.Minute},
		ProxyMode:    api.ProxyIPTables,
		StatusPort:   ptr(7),
		StaticPods:   "/told-pods", ContainPods: &contain, EvictionHard: map[string]string{"memory.available": "1Gi"},
		Network: api.PodNetwork{Mode: api.NetworkVXLAN, VXLANVNI: 1, VXLANPort: 2, CNIConfDir: "/told-conf", CNIBinDir: "/told-bin"},
	}
}

func settled(t *testing.T, told api.MinionConfig, args ...string) api.MinionConfig {
	t.Helper()
	var c Config
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	got, err := c.settle(told)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestClusterConfigurationApplies(t *testing.T) {
	if diff := cmp.Diff(told(), settled(t, told())); diff != "" {
		t.Errorf("(-told +settled):\n%s", diff)
	}
}

func TestEveryFlagOverridesTheCluster(t *testing.T) {
	not := false
	effects := map[string]struct {
		value string
		want  func(*api.MinionConfig)
	}{
		"minion-idle-timeout":     {"0", func(c *api.MinionConfig) { c.IdleTimeout = &metav1.Duration{} }},
		"minion-cleanup-delay":    {"7s", func(c *api.MinionConfig) { c.CleanupDelay = &metav1.Duration{Duration: 7 * time.Second} }},
		"root-dir":                {"/r", func(c *api.MinionConfig) { c.RootDir = "/r" }},
		"docker-host":             {"unix:///d", func(c *api.MinionConfig) { c.DockerHost = "unix:///d" }},
		"docker-cert-path":        {"/c", func(c *api.MinionConfig) { c.DockerCertPath = "/c" }},
		"allow-plain-docker-host": {"true", func(c *api.MinionConfig) { c.AllowPlainDocker = true }},
		"static-pod-path":         {"/p", func(c *api.MinionConfig) { c.StaticPods = "/p" }},
		"proxy-mode":              {"nftables", func(c *api.MinionConfig) { c.ProxyMode = api.ProxyNFTables }},
		"contain-pods":            {"false", func(c *api.MinionConfig) { c.ContainPods = &not }},
		"network-policy":          {"false", func(c *api.MinionConfig) { c.NetworkPolicy = &not }},
		// It has no effect on MinionConfig. TestMinionCommandHasTheEngineAddress in scheduler/run tests who sets it.
		api.MinionEngineFlag:         {"unix:///e", func(*api.MinionConfig) {}},
		api.MinionEngineCertPathFlag: {"/e", func(*api.MinionConfig) {}},
		"eviction-hard":              {"pid.available<5%", func(c *api.MinionConfig) { c.EvictionHard = map[string]string{"pid.available": "5%"} }},
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&Config{}).AddFlags(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		effect, ok := effects[f.Name]
		if !ok {
			t.Errorf("--%s has no test case", f.Name)
			return
		}
		want := told()
		effect.want(&want)
		if diff := cmp.Diff(want, settled(t, told(), "--"+f.Name+"="+effect.value)); diff != "" {
			t.Errorf("--%s=%s (-want +settled):\n%s", f.Name, effect.value, diff)
		}
	})
}

func TestDockerHostComesFromFlagThenEnvironmentThenCluster(t *testing.T) {
	for _, test := range []struct{ flag, environment, cluster, want string }{
		{"unix:///flag", "unix:///env", "unix:///told", "unix:///flag"},
		{"", "unix:///env", "unix:///told", "unix:///env"},
		{"", "", "unix:///told", "unix:///told"},
		{"", "", "", api.DefaultDockerHost},
	} {
		c := Config{Given: api.MinionConfig{DockerHost: test.flag}, dockerHost: test.environment}
		got, err := c.settle(api.MinionConfig{DockerHost: test.cluster})
		if err != nil || got.DockerHost != test.want {
			t.Errorf("flag %q, environment %q, cluster %q: %q, %v", test.flag, test.environment, test.cluster, got.DockerHost, err)
		}
	}
}

func TestCertificatesOfTheEngineComeFromFlagThenEnvironmentThenCluster(t *testing.T) {
	for _, test := range []struct{ flag, environment, told, want string }{
		{"/flag", "/env", "/told", "/flag"}, {"", "/env", "/told", "/env"}, {"", "", "/told", "/told"}, {"", "", "", ""},
	} {
		c := Config{Given: api.MinionConfig{DockerCertPath: test.flag}, dockerCertPath: test.environment, engineCertPath: test.told}
		got, err := c.settle(api.MinionConfig{DockerCertPath: test.told})
		if err != nil || got.DockerCertPath != test.want {
			t.Errorf("%+v: %q, %v", test, got.DockerCertPath, err)
		}
		if got := c.wayOut(mesos.Config{}, "/sandbox", false).DockerCertPath; got != test.want {
			t.Errorf("%+v, to leave the container: %q", test, got)
		}
	}
}

func TestMinionRefusesAnEngineThatOthersReachWithoutTLS(t *testing.T) {
	c := Config{dockerHost: "tcp://192.0.2.1:2375"} // of the agent's environment
	if _, err := c.settle(api.MinionConfig{}); err == nil || !strings.Contains(err.Error(), "--docker-cert-path") {
		t.Errorf("got %v", err)
	}
	for _, cluster := range []api.MinionConfig{{AllowPlainDocker: true}, {DockerCertPath: "/certs"}} {
		if _, err := c.settle(cluster); err != nil {
			t.Errorf("%+v: %v", cluster, err)
		}
	}
}

func TestStepOutUsesEngineOfFlagThenEnvironmentThenScheduler(t *testing.T) {
	for _, test := range []struct{ flag, environment, scheduler, want string }{
		{"unix:///flag", "unix:///env", "unix:///told", "unix:///flag"},
		{"", "unix:///env", "unix:///told", "unix:///env"},
		{"", "", "unix:///told", "unix:///told"},
		{"", "", "", api.DefaultDockerHost},
	} {
		c := Config{Given: api.MinionConfig{DockerHost: test.flag}, dockerHost: test.environment, engine: test.scheduler}
		if got := c.wayOut(mesos.Config{}, "/sandbox", false).DockerHost; got != test.want {
			t.Errorf("flag %q, environment %q, scheduler %q: %q", test.flag, test.environment, test.scheduler, got)
		}
	}
}

func TestMinionWithoutConfigurationHasDefaults(t *testing.T) {
	got := settled(t, api.MinionConfig{})
	want := api.MinionConfig{
		RootDir: defaultRootDir, DockerHost: api.DefaultDockerHost, IdleTimeout: &metav1.Duration{Duration: 20 * time.Minute},
		CleanupDelay: &metav1.Duration{Duration: 5 * time.Minute},
		StatusPort:   ptr(10268),
		ProxyMode:    api.ProxyIPTables,
		Network:      api.PodNetwork{Mode: api.NetworkAuto, VXLANVNI: 5050, VXLANPort: 8472, CNIConfDir: "/etc/cni/net.d", CNIBinDir: "/opt/cni/bin"},
		EvictionHard: map[string]string{"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +settled):\n%s", diff)
	}
}

func TestMinionRejectsInvalidFlags(t *testing.T) {
	for flag, says := range map[string]string{
		"--minion-idle-timeout=soon": "soon",
		"--eviction-hard=memory":     "SIGNAL<VALUE",
		"--contain-pods=perhaps":     "perhaps",
	} {
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		(&Config{}).AddFlags(flags)
		if err := flags.Parse([]string{flag}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	yes, no := true, false
	if _, err := (Config{Given: api.MinionConfig{NetworkPolicy: &yes}}).settle(api.MinionConfig{NetworkPolicy: &no}); err == nil {
		t.Error("--network-policy=true was accepted although the cluster does not let nodes read policies")
	}
	if _, err := (Config{Given: api.MinionConfig{StaticPods: "here"}}).settle(api.MinionConfig{}); err == nil {
		t.Error("a static pods directory below the sandbox was accepted")
	}
}

func TestLogFormatOfAWrapperWinsOverTheClusters(t *testing.T) {
	for _, test := range []struct{ given, cluster, want string }{{"", "", ""}, {"", "json", "json"}, {"json", "text", "json"}, {"text", "json", "text"}} {
		got, err := Config{Given: api.MinionConfig{LogFormat: test.given}}.settle(api.MinionConfig{LogFormat: test.cluster})
		if err != nil || got.LogFormat != test.want {
			t.Errorf("%+v: got %q, %v", test, got.LogFormat, err)
		}
	}
}
