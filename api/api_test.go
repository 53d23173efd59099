package api_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/k8sm/k8sm/api"
)

func TestTaskIDTellsPodAndAttempt(t *testing.T) {
	id := api.NewTaskID("0b9c3a5e-uid", 3)
	if id != "0b9c3a5e-uid.3" {
		t.Errorf("NewTaskID = %q", id)
	}
	pod, attempt, err := id.Parse()
	if pod != types.UID("0b9c3a5e-uid") || attempt != 3 || err != nil {
		t.Errorf("Parse = %q, %d, %v", pod, attempt, err)
	}
}

func TestForeignTaskIDIsAnError(t *testing.T) {
	for _, id := range []api.TaskID{"", "spark", ".1", "uid.", "uid.0", "uid.-1", "uid.x"} {
		if pod, attempt, err := id.Parse(); err == nil {
			t.Errorf("%q.Parse() = %q, %d, nil", id, pod, attempt)
		}
	}
}

func TestWarmTaskIDNamesItsAgentAndIsNoPods(t *testing.T) {
	id := api.NewWarmTaskID("1f-2e-S0", 1767225600)
	if agent, ok := id.Warm(); id != "warm-1f-2e-S0.1767225600" || agent != "1f-2e-S0" || !ok {
		t.Errorf("%s: %q, %v", id, agent, ok)
	}
	for _, other := range []api.TaskID{"", "warm-", "warm-.1", "warm-S0", "warm-S0.x", "0b9c3a5e-uid.3", "spark.1"} {
		if agent, ok := other.Warm(); ok {
			t.Errorf("%q is taken for a task that keeps %q warm", other, agent)
		}
	}
}

func TestProviderIDNamesTheAgent(t *testing.T) {
	agent, ok := api.AgentOfProviderID(api.ProviderID("1234-S0"))
	if agent != "1234-S0" || !ok {
		t.Errorf("round trip gave %q, %v", agent, ok)
	}
	for _, foreign := range []string{"", "mesos://", "aws:///eu/i-1"} {
		if agent, ok := api.AgentOfProviderID(foreign); ok {
			t.Errorf("AgentOfProviderID(%q) = %q, true", foreign, agent)
		}
	}
}

func TestNodeNameIsTheHostnameOrAnError(t *testing.T) {
	for hostname, want := range map[string]string{
		"Worker-1.Example.COM": "worker-1.example.com",
		"127.0.0.1":            "127.0.0.1",
		"under_score":          "",
		"":                     "",
	} {
		got, err := api.NodeName(hostname)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("NodeName(%q) = %q, %v; want %q", hostname, got, err, want)
		}
	}
}

func TestAttributeBecomesALabelThatKubernetesTakes(t *testing.T) {
	for _, s := range []string{"rack", "fault domain/1", "[1-4]", strings.Repeat("x", 62) + "--y", "-", "ü"} {
		if bad := validation.IsValidLabelValue(api.LabelValue(s)); len(bad) > 0 {
			t.Errorf("LabelValue(%q) = %q: %v", s, api.LabelValue(s), bad)
		}
	}
	if bad := validation.IsQualifiedName(api.AttributeLabel("fault domain/1")); len(bad) > 0 {
		t.Errorf("AttributeLabel: %v", bad)
	}
}

func TestPortMappingsAreReadAsTheyWereWritten(t *testing.T) {
	mappings := []api.PortMapping{{ContainerPort: 80, Protocol: "TCP", HostPort: 31005}, {ContainerPort: 53, Protocol: "UDP", HostPort: 31006}}
	text := api.FormatPortMappings(mappings)
	if text != "80/TCP=31005,53/UDP=31006" {
		t.Errorf("written as %q", text)
	}
	if got, err := api.ParsePortMappings(text); err != nil || !slices.Equal(got, mappings) {
		t.Errorf("read as %v, %v", got, err)
	}
	if got, err := api.ParsePortMappings(""); err != nil || len(got) > 0 {
		t.Errorf("nothing was read as %v, %v", got, err)
	}
	for _, bad := range []string{"80", "80=31005", "80/TCP", "80/tcp=31005", "0/TCP=31005", "80/TCP=65536", "80/TCP=31005,", "web/80/TCP=1"} {
		if got, err := api.ParsePortMappings(bad); err == nil || !strings.Contains(err.Error(), api.AnnotationPortMappings) {
			t.Errorf("%q was read as %v, %v", bad, got, err)
		}
	}
}

func TestBootstrapWithAFieldMissingIsAnError(t *testing.T) {
	whole := `{"cluster":"a","node":"n","apiServer":"https://x","ca":"Y2E=","token":"t.s"}`
	b, err := api.ParseBootstrap([]byte(whole))
	if err != nil || string(b.CA) != "ca" || b.Node != "n" {
		t.Fatalf("ParseBootstrap(whole) = %+v, %v", b, err)
	}
	for _, field := range []string{"cluster", "node", "apiServer", "ca", "token"} {
		if _, err := api.ParseBootstrap([]byte(strings.Replace(whole, `"`+field+`"`, `"other"`, 1))); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
	if _, err := api.ParseBootstrap([]byte("{")); err == nil {
		t.Error("half a document was read")
	}
}

func TestDockerEngineThatOthersReachNeedsTLS(t *testing.T) {
	for host, plain := range map[string]bool{
		"": false, "unix:///var/run/docker.sock": false, "tcp://127.0.0.1:2375": false, "tcp://[::1]:2375": false, "tcp://localhost": false,
		"tcp://192.0.2.1:2375": true, "tcp://[2001:db8::1]:2375": true, "tcp://0.0.0.0:2375": true, "tcp://engine": true, "tcp://localhost.example:2375": true, "tcp://": true,
	} {
		err := api.MinionConfig{DockerHost: host}.Validate()
		if (err != nil) != plain || plain && (!strings.Contains(err.Error(), "--docker-cert-path") || !strings.Contains(err.Error(), "--allow-plain-docker-host")) {
			t.Errorf("%q: %v", host, err)
		}
		for _, c := range []api.MinionConfig{{DockerHost: host, DockerCertPath: "/c"}, {DockerHost: host, AllowPlainDocker: true}} {
			if err := c.Validate(); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		}
	}
	if err := (api.MinionConfig{DockerCertPath: "certs"}).Validate(); err == nil || !strings.Contains(err.Error(), "--docker-cert-path=certs") {
		t.Errorf("a relative directory: %v", err)
	}
}

func TestEvictionThresholdsAreWhatAKubeletTakes(t *testing.T) {
	got, err := api.ParseEviction("memory.available<100Mi, nodefs.available<10%,pid.available<0%")
	want := map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "pid.available": "0%"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("read as %v, %v", got, err)
	}
	for text, says := range map[string]string{
		"": "SIGNAL<VALUE", "memory.available": "SIGNAL<VALUE", "memory<1Gi": "imagefs.available", "memory.available<0": "above 0",
		"memory.available<-1Gi": "above 0", "memory.available<101%": "0% to 100%", "nodefs.available<much": "much",
		"pid.available<1%,pid.available<2%": "twice",
	} {
		if got, err := api.ParseEviction(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q was read as %v, %v; want an error with %q", text, got, err, says)
		}
	}
	for value, want := range map[string]int64{"100Mi": 100 << 20, "10%": 100, "12.5%": 125, "0%": 0} {
		if got, err := api.EvictionThreshold(value, 1000); err != nil || got != want {
			t.Errorf("%s of 1000 is %d, %v; want %d", value, got, err, want)
		}
	}
}

func TestKubernetesVersionIsTheOneInGoMod(t *testing.T) {
	data, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if r.Mod.Path == "k8s.io/kubernetes" && r.Mod.Version != api.KubernetesVersion {
			t.Errorf("KubernetesVersion is %s, go.mod has %s", api.KubernetesVersion, r.Mod.Version)
		}
	}
}

func TestSettingsAreWhatMinionsTakeAtTheirStart(t *testing.T) {
	read := func(text string) api.MinionConfig {
		t.Helper()
		c, err := api.ReadMinionConfig(map[string]string{api.MinionConfigKey: text})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const one = `{"clusterDomain":"a","kubeletArgs":["v=2"],"registryCAs":{"x":"eA==","y":"eQ=="},"proxyConfig":{"b":1,"a":2}}`
	settings := read(one).Settings()
	for _, same := range []string{
		one, `{"registryCAs":{"y":"eQ==","x":"eA=="},"proxyConfig":{"b":1,"a":2},"kubeletArgs":["v=2"],"clusterDomain":"a","ofTheFuture":1}`,
		strings.Replace(one, "{", `{"nodePorts":"1-2",`, 1), strings.Replace(one, "{", `{"kubeletServingCA":"eA==",`, 1),
	} {
		if got := read(same).Settings(); got != settings {
			t.Errorf("%s has other settings", same)
		}
	}
	for _, other := range []string{
		strings.Replace(one, `"a"`, `"b"`, 1), strings.Replace(one, "v=2", "v=3", 1), strings.Replace(one, "eA==", "eQ==", 1),
		strings.Replace(one, `"b":1`, `"b":2`, 1), strings.Replace(one, "{", `{"evictionHard":{"pid.available":"1%"},`, 1), "{}",
	} {
		if got := read(other).Settings(); got == settings {
			t.Errorf("%s has the same settings", other)
		}
	}
}
