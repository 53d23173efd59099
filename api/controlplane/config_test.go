package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// effect is all that a configuration leads to.
type effect struct {
	apiServer, controllerManager flags
	names                        []string
	lives                        statedir.Lives
	minions                      api.MinionConfig
	etcd                         *embed.Config
	runs                         [2]*pflag.FlagSet // the flags of kube-apiserver and kube-controller-manager as they run
}

// effectOf applies the configuration without starting anything.
func effectOf(t *testing.T, c Config) effect {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	etcd := statedir.Etcd{Endpoints: c.EtcdServers, CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile}
	minions, err := c.minionConfig()
	if err != nil {
		t.Fatal(err)
	}
	apiServer, manager := optionsOf(t, c)
	spec := c.pkiSpec(&ports{api: l})(time.Now())
	return effect{
		runs:              [2]*pflag.FlagSet{apiServer, manager},
		apiServer:         c.apiServerFlags(etcd),
		controllerManager: c.controllerManagerFlags(),
		names:             spec.ServerNames,
		lives:             spec.Lives,
		minions:           minions,
		etcd:              c.etcdConfig(0, zap.NewNop()),
	}
}

// The ports' effect is seen by TestUsedPortIsOneClearErrorBeforeAnythingStarts.
func TestEveryFlagHasAnEffect(t *testing.T) {
	usual := effectOf(t, defaults("/s"))
	tests := flagTests()
	maps.Copy(tests, securityFlagTests())
	_, all := withFlags("/s")
	all.VisitAll(func(f *pflag.Flag) {
		if f.Name == "secure-port" || f.Name == "etcd-port" || f.Name == "node-cidr-mask-size-ipv6" || // see TestRangesOfBothFamilies
			strings.HasPrefix(f.Name, "snapshot-") || // see TestRestored…
			slices.Contains([]string{"join", "token-file", "change-settings"}, f.Name) || // see masters_test.go
			f.Name == "insecure-etcd" || // see TestInvalidConfiguration…
			f.Name == "registry-ca" || // see TestCertificatesOfRegistries…
			f.Name == "image-credential-provider-bin-dir" || // goes with the configuration
			f.Name == "otlp-sampling-rate-per-million" || // see TestTracingConfiguration…
			strings.HasPrefix(f.Name, "oidc-") || f.Name == "authentication-config" || f.Name == "admission-control-config-file" { // see TestAuthentication…, TestAdmission…
			return
		}
		test, ok := tests[f.Name]
		if !ok {
			t.Errorf("--%s has no test of its effect", f.Name)
			return
		}
		c, fs := withFlags("/s")
		if err := fs.Set(f.Name, test.value); err != nil {
			t.Fatal(err)
		}
		if !test.shows(effectOf(t, *c)) {
			t.Errorf("--%s=%s has no effect", f.Name, test.value)
		}
		if test.shows(usual) {
			t.Errorf("the effect of --%s is there without it", f.Name)
		}
	})
}

func TestServingNamesAreInTheCertificate(t *testing.T) {
	c := defaults("/s")
	c.ServingNames = []string{"old.example"}
	if e := effectOf(t, c); !slices.Contains(e.names, "old.example") || !slices.Contains(e.names, "localhost") {
		t.Errorf("the certificate is for %q", e.names)
	}
}

// flagTest is a value of a flag, and tells whether its effect shows.
type flagTest struct {
	value string
	shows func(effect) bool
}

func flagTests() map[string]flagTest {
	minions := func(has func(api.MinionConfig) bool) func(effect) bool {
		return func(e effect) bool { return has(e.minions) }
	}
	has := func(program func(effect) flags, flag, value string) func(effect) bool {
		return func(e effect) bool { return program(e)[flag] == value }
	}
	apiServer := func(e effect) flags { return e.apiServer }
	manager := func(e effect) flags { return e.controllerManager }
	runs := func(i int, flag, value string) func(effect) bool {
		return func(e effect) bool { return e.runs[i].Lookup(flag).Value.String() == value }
	}
	return map[string]flagTest{
		"kube-apiserver-arg":          {"goaway-chance=0.01", runs(0, "goaway-chance", "0.01")},
		"kube-controller-manager-arg": {"concurrent-gc-syncs=7", runs(1, "concurrent-gc-syncs", "7")},
		"kubelet-arg":                 {"max-pods=7", minions(func(m api.MinionConfig) bool { return slices.Equal(m.KubeletArgs, []string{"max-pods=7"}) })},
		"kube-proxy-arg": {"masquerade-all=true", minions(func(m api.MinionConfig) bool {
			return string(m.ProxyConfig) == `{"iptables":{"masqueradeAll":true}}`
		})},
		"bind-address":              {"127.0.0.9", has(apiServer, "bind-address", "127.0.0.9")},
		"advertise-address":         {"10.0.0.9", func(e effect) bool { return slices.Contains(e.names, "10.0.0.9") }},
		"enable-aggregator-routing": {"false", has(apiServer, "enable-aggregator-routing", "false")},
		"etcd-quota":                {"4Gi", func(e effect) bool { return e.etcd.QuotaBackendBytes == 4<<30 }},
		"etcd-servers":              {"https://e:1", has(apiServer, "etcd-servers", "https://e:1")},
		"etcd-cafile":               {"/ca", has(apiServer, "etcd-cafile", "/ca")},
		"etcd-certfile":             {"/cert", has(apiServer, "etcd-certfile", "/cert")},
		"etcd-keyfile":              {"/key", has(apiServer, "etcd-keyfile", "/key")},
		"cert-lifetime": {"24h", func(e effect) bool {
			return e.lives.Leaf == 24*time.Hour && e.controllerManager["cluster-signing-duration"] == "24h0m0s"
		}},
		"ca-lifetime":                      {"50000h", func(e effect) bool { return e.lives.Authority == 50000*time.Hour }},
		"tls-san":                          {"more.example", func(e effect) bool { return slices.Contains(e.names, "more.example") }},
		"control-plane-endpoint":           {"all.example:443", func(e effect) bool { return slices.Contains(e.names, "all.example") }},
		"service-cluster-ip-range":         {"10.9.0.0/16", func(e effect) bool { return slices.Contains(e.names, "10.9.0.1") }},
		"cluster-cidr":                     {"10.8.0.0/16", has(manager, "cluster-cidr", "10.8.0.0/16")},
		"node-cidr-mask-size-ipv4":         {"26", has(manager, "node-cidr-mask-size-ipv4", "26")},
		"cluster-domain":                   {"x.y", has(apiServer, "service-account-issuer", "https://kubernetes.default.svc.x.y")},
		"cluster-dns":                      {"10.96.0.10", minions(func(m api.MinionConfig) bool { return slices.Equal(m.ClusterDNS, []string{"10.96.0.10"}) })},
		"node-root-dir":                    {"/r", minions(func(m api.MinionConfig) bool { return m.RootDir == "/r" })},
		"docker-host":                      {"unix:///d", minions(func(m api.MinionConfig) bool { return m.DockerHost == "unix:///d" })},
		"docker-cert-path":                 {"/c", minions(func(m api.MinionConfig) bool { return m.DockerCertPath == "/c" })},
		"allow-plain-docker-host":          {"true", minions(func(m api.MinionConfig) bool { return m.AllowPlainDocker })},
		"minion-idle-timeout":              {"7m", minions(func(m api.MinionConfig) bool { return m.IdleTimeout.Duration == 7*time.Minute })},
		"minion-cleanup-delay":             {"7m", minions(func(m api.MinionConfig) bool { return m.CleanupDelay.Duration == 7*time.Minute })},
		"minion-status-port":               {"7", minions(func(m api.MinionConfig) bool { return *m.StatusPort == 7 })},
		"falcon":                           {"tcp://f:8433", minions(func(m api.MinionConfig) bool { return m.Falcon.Target == "tcp://f:8433" })},
		"falcon-step":                      {"77", minions(func(m api.MinionConfig) bool { return m.Falcon.Step == 77 })},
		"falcon-node":                      {"true", minions(func(m api.MinionConfig) bool { return m.Falcon.Node })},
		"image-rewrite":                    {"docker.io=h.example/hub", minions(func(m api.MinionConfig) bool { return m.ImageRewrites["docker.io"] == "h.example/hub" })},
		"image-credential-provider-config": {"/c", minions(func(m api.MinionConfig) bool { return m.CredentialProviders.Config == "/c" })},
		"otlp-endpoint": {"c:4317", func(e effect) bool {
			return e.apiServer[tracingFlag] == "/s/tracing.json" && e.minions.Tracing == api.Tracing{Endpoint: "c:4317", PerMillion: 10000}
		}},
		"static-pod-path":      {"/p", minions(func(m api.MinionConfig) bool { return m.StaticPods == "/p" })},
		"contain-pods":         {"true", minions(func(m api.MinionConfig) bool { return *m.ContainPods })},
		"network-policy":       {"false", minions(func(m api.MinionConfig) bool { return !m.EnforcesNetworkPolicies() })},
		"network":              {"vxlan", minions(func(m api.MinionConfig) bool { return m.Network.Mode == api.NetworkVXLAN })},
		"cni-conf-dir":         {"/c", minions(func(m api.MinionConfig) bool { return m.Network.CNIConfDir == "/c" })},
		"cni-bin-dir":          {"/b", minions(func(m api.MinionConfig) bool { return m.Network.CNIBinDir == "/b" })},
		"vxlan-vni":            {"77", minions(func(m api.MinionConfig) bool { return m.Network.VXLANVNI == 77 })},
		"vxlan-port":           {"4789", minions(func(m api.MinionConfig) bool { return m.Network.VXLANPort == 4789 })},
		"eviction-hard":        {"memory.available<1Gi", minions(func(m api.MinionConfig) bool { return m.EvictionHard["memory.available"] == "1Gi" })},
		"proxy-mode":           {"nftables", minions(func(m api.MinionConfig) bool { return m.ProxyMode == api.ProxyNFTables })},
		"service-external-ips": {"203.0.113.0/28", has(apiServer, "enable-admission-plugins", "NodeRestriction")},

		"service-node-port-range": {"20000-20010", func(e effect) bool {
			return e.apiServer["service-node-port-range"] == "20000-20010" && e.minions.NodePorts == "20000-20010"
		}},
	}
}

func securityFlagTests() map[string]flagTest {
	minions := func(has func(api.MinionConfig) bool) func(effect) bool {
		return func(e effect) bool { return has(e.minions) }
	}
	given := func(flag, value string) func(effect) bool {
		return func(e effect) bool { return e.apiServer[flag] == value }
	}
	return map[string]flagTest{
		"tls-cipher-suites": {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", func(e effect) bool {
			return e.apiServer["tls-cipher-suites"] == "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" && len(e.minions.TLSCipherSuites) == 1 && len(e.etcd.CipherSuites) == 1
		}},
		"tls-min-version": {"VersionTLS13", func(e effect) bool {
			return e.apiServer["tls-min-version"] == "VersionTLS13" && e.minions.TLSMinVersion == "VersionTLS13" && e.etcd.TlsMinVersion == "TLS1.3" &&
				len(e.etcd.CipherSuites)+len(e.minions.TLSCipherSuites)+len(e.apiServer["tls-cipher-suites"]) == 0
		}},
		"seccomp-default":            {"false", minions(func(m api.MinionConfig) bool { return !*m.SeccompDefault })},
		"pod-max-pids":               {"7", minions(func(m api.MinionConfig) bool { return *m.PodPidsLimit == 7 })},
		"audit-policy-file":          {"/policy", given("audit-policy-file", "/policy")},
		"audit-log-path":             {"", given("audit-policy-file", "")},
		"audit-log-maxage":           {"7", given("audit-log-maxage", "7")},
		"audit-log-maxbackup":        {"7", given("audit-log-maxbackup", "7")},
		"audit-log-maxsize":          {"7", given("audit-log-maxsize", "7")},
		"encryption-provider-config": {"/e", given("encryption-provider-config", "/e")},
	}
}

func TestRangesOfBothFamilies(t *testing.T) {
	c := defaults("/s")
	c.ServiceCIDR, c.ClusterCIDR, c.NodeMaskIPv6 = "10.96.0.0/16,fd96::/112", "10.244.0.0/16,fd00:244::/48", 62
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	e := effectOf(t, c)
	if !slices.Contains(e.names, "10.96.0.1") || !slices.Contains(e.names, "fd96::1") {
		t.Errorf("the API server's certificate is for %v", e.names)
	}
	if m := e.controllerManager; m["node-cidr-mask-size-ipv4"] != "24" || m["node-cidr-mask-size-ipv6"] != "62" || m["cluster-cidr"] != c.ClusterCIDR {
		t.Errorf("kube-controller-manager is given %v", m)
	}
	if e.minions.ClusterCIDR != c.ClusterCIDR || e.minions.ServiceCIDR != c.ServiceCIDR {
		t.Errorf("minions are told %s and %s", e.minions.ClusterCIDR, e.minions.ServiceCIDR)
	}
}

// withFlags is a configuration with its flags at their defaults.
func withFlags(dir statedir.Dir) (*Config, *pflag.FlagSet) {
	c := &Config{StateDir: dir, ClusterName: "k8sm"}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(fs)
	return c, fs
}

func TestInvalidConfigurationIsRefusedByName(t *testing.T) {
	for want, spoil := range map[string]func(*Config){
		"--state-dir":                          func(c *Config) { c.StateDir = "" },
		"--bind-address=here":                  func(c *Config) { c.BindAddress = "here" },
		"--advertise-address=there":            func(c *Config) { c.AdvertiseAddress = "there" },
		"set --advertise-address":              func(c *Config) { c.BindAddress = "0.0.0.0" },
		"--service-cluster-ip-range=10.96.0.0": func(c *Config) { c.ServiceCIDR = "10.96.0.0" },
		"--cluster-cidr=":                      func(c *Config) { c.ClusterCIDR = "" },
		"the range is 10.96.0.0/16":            func(c *Config) { c.ServiceCIDR = "10.96.0.1/16" },
		"--service-cluster-ip-range=10.244.8.0/22: it overlaps --cluster-cidr=10.244.0.0/16": func(c *Config) { c.ServiceCIDR = "10.244.8.0/22" },
		"fd96::/112: it overlaps --cluster-cidr=fd96::/48":                                   func(c *Config) { c.ServiceCIDR, c.ClusterCIDR = "10.96.0.0/16,fd96::/112", "10.244.0.0/16,fd96::/48" },
		"use the same IP families":                                                           func(c *Config) { c.ClusterCIDR = "10.244.0.0/16,fd00:244::/48" },
		"must be one range, or one IPv4 and one IPv6 range":                                  func(c *Config) { c.ClusterCIDR = "10.244.0.0/16,10.245.0.0/16" },
		"a range of services may not be larger than /108": func(c *Config) {
			c.ServiceCIDR, c.ClusterCIDR = "10.96.0.0/16,fd96::/64", "10.244.0.0/16,fd00:244::/48"
		},
		"--cluster-cidr=127.0.0.0/16: it contains the API server's own address": func(c *Config) { c.ClusterCIDR = "127.0.0.0/16" },
		"its first range must have the IP family of --advertise-address=192.0.2.1": func(c *Config) {
			c.AdvertiseAddress, c.ServiceCIDR, c.ClusterCIDR = "192.0.2.1", "fd96::/112", "fd00:244::/48"
		},
		"--node-cidr-mask-size-ipv4=12: use 16 to 30": func(c *Config) { c.NodeMaskIPv4 = 12 },
		"--node-cidr-mask-size-ipv6=80: use 48 to 64": func(c *Config) {
			c.ServiceCIDR, c.ClusterCIDR, c.NodeMaskIPv6 = "10.96.0.0/16,fd96::/112", "10.244.0.0/16,fd00:244::/48", 80
		},
		"--service-external-ips=203.0.113.1: not a CIDR":              func(c *Config) { c.ServiceExternalIPs = []string{"203.0.113.1"} },
		"--service-external-ips=203.0.113.1/28: it has host bits set": func(c *Config) { c.ServiceExternalIPs = []string{"203.0.113.1/28"} },
		"--service-external-ips=10.96.0.0/24: it overlaps":            func(c *Config) { c.ServiceExternalIPs = []string{"10.96.0.0/24"} },
		"--service-external-ips=127.0.0.0/8: it contains":             func(c *Config) { c.ServiceExternalIPs = []string{"127.0.0.0/8"} },

		"--enable-aggregator-routing=false with --metrics": func(c *Config) { c.Metrics, c.AggregatorRouting = true, false },
		"--enable-aggregator-routing=false with --logs":    func(c *Config) { c.Logs, c.AggregatorRouting = true, false },

		"without --etcd-servers":                          func(c *Config) { c.EtcdCertFile = "cert" },
		"--snapshot-keep=0: give 1":                       func(c *Config) { c.Snapshots.Dir, c.Snapshots.Keep = "d", 0 },
		"--etcd-quota=1Mi: give 64Mi or more":             func(c *Config) { c.EtcdQuota = 1 << 20 },
		"set --insecure-etcd":                             func(c *Config) { c.EtcdServers = []string{"http://10.0.0.5:2379"} },
		"--node-root-dir=nodes":                           func(c *Config) { c.NodeRootDir = "nodes" },
		"--static-pod-path=pods":                          func(c *Config) { c.Minions.StaticPods = "pods" },
		"--minion-status-port=65536":                      func(c *Config) { *c.Minions.StatusPort = 65536 },
		"--minion-idle-timeout=-1s":                       func(c *Config) { c.Minions.IdleTimeout.Duration = -time.Second },
		"--minion-cleanup-delay=0s":                       func(c *Config) { c.Minions.CleanupDelay.Duration = 0 },
		"--network=bridge: use auto":                      func(c *Config) { c.Minions.Network.Mode = "bridge" },
		"--vxlan-vni=16777216":                            func(c *Config) { c.Minions.Network.VXLANVNI = 1 << 24 },
		"--vxlan-port=-1":                                 func(c *Config) { c.Minions.Network.VXLANPort = -1 },
		"--eviction-hard=memory<1":                        func(c *Config) { c.EvictionHard = "memory<1" },
		"--cluster-domain=a_b":                            func(c *Config) { c.ClusterDomain = "a_b" },
		"--cluster-dns=dns.example":                       func(c *Config) { c.ClusterDNS = []string{"dns.example"} },
		"--cluster-dns=10.96.0.10,10.96.0.11,":            func(c *Config) { c.ClusterDNS = []string{"10.96.0.10", "10.96.0.11", "10.96.0.12"} },
		"--cni-conf-dir=cni":                              func(c *Config) { c.Minions.Network.CNIConfDir = "cni" },
		"--cni-bin-dir=bin":                               func(c *Config) { c.Minions.Network.CNIBinDir = "bin" },
		"--proxy-mode=ipvs: use iptables or nftables":     func(c *Config) { c.Minions.ProxyMode = "ipvs" },
		"--service-node-port-range=30000: use":            func(c *Config) { c.Minions.NodePorts = "30000" },
		"--service-node-port-range=30100-30000":           func(c *Config) { c.Minions.NodePorts = "30100-30000" },
		"--image-credential-provider-bin-dir, or neither": func(c *Config) { c.Minions.CredentialProviders.Config = "/c" },
		"--image-credential-provider-bin-dir=bin":         func(c *Config) { c.Minions.CredentialProviders = api.CredentialProviders{Config: "/c", BinDir: "bin"} },
		"--image-rewrite=docker.io: give REGISTRY=TARGET": func(c *Config) { c.ImageRewrites = []string{"docker.io"} },
		"docker.io has another target already, a.example": func(c *Config) { c.ImageRewrites = []string{"docker.io=a.example", "docker.io=b.example"} },
		"--image-rewrite=docker.io=hub":                   func(c *Config) { c.ImageRewrites = []string{"docker.io=hub"} },
		"--falcon-step=0: give seconds":                   func(c *Config) { c.Minions.Falcon.Step = 0 },
		"--falcon-node without --falcon":                  func(c *Config) { c.Minions.Falcon.Node = true },
		"--falcon: \"127.0.0.1:1988\" begins with":        func(c *Config) { c.Minions.Falcon.Target = "127.0.0.1:1988" },
	} {
		c := defaults("/s")
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	c := defaults("/s")
	if err := c.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	c.EtcdServers, c.InsecureEtcd = []string{"http://10.0.0.5:2379"}, true
	if err := c.Validate(); err != nil {
		t.Errorf("an etcd without TLS that is meant: %v", err)
	}
}

func TestPathsAreMadeAbsolute(t *testing.T) {
	c := defaults("here")
	c.EtcdCAFile = "ca"
	c, err := c.absolute()
	if err != nil || !filepath.IsAbs(string(c.StateDir)) || !filepath.IsAbs(c.EtcdCAFile) || c.EtcdKeyFile != "" {
		t.Errorf("got %q, %q, %q, %v", c.StateDir, c.EtcdCAFile, c.EtcdKeyFile, err)
	}
}

func TestLoopbackIsNotPutBehindAService(t *testing.T) {
	c := defaults("/s")
	if got := c.apiServerFlags(statedir.Etcd{})["endpoint-reconciler-type"]; got != "none" {
		t.Errorf("on loopback: got %q", got)
	}
	c.AdvertiseAddress = "10.0.0.9"
	if got := c.apiServerFlags(statedir.Etcd{})["endpoint-reconciler-type"]; got != "" {
		t.Errorf("on a real address: got %q", got)
	}
}

func TestControllerManagersElectALeaderOnlyWhenThereMayBeSeveral(t *testing.T) {
	c := defaults("/s")
	if got := c.controllerManagerFlags()["leader-elect"]; got != "false" {
		t.Errorf("with the embedded etcd: %s", got)
	}
	c.EtcdServers = []string{"http://e:1"}
	if got := c.controllerManagerFlags()["leader-elect"]; got != "true" {
		t.Errorf("with an etcd of its own: %s", got)
	}
}

func TestOperatorsMayGiveControllerManagersALongerLease(t *testing.T) {
	c := defaults("/s")
	c.EtcdServers = []string{"http://e:1"}
	lease := func() string {
		o, err := c.controllerManagerOptions()
		if err != nil {
			t.Fatal(err)
		}
		elects := o.Generic.LeaderElection
		return fmt.Sprint(elects.LeaderElect, elects.LeaseDuration.Duration, elects.RenewDeadline.Duration, elects.RetryPeriod.Duration)
	}
	if got := lease(); got != "true 7s 5s 1s" {
		t.Errorf("got %s", got)
	}
	c.ControllerManagerArgs = []string{"leader-elect-lease-duration=15s", "leader-elect-renew-deadline=10s", "leader-elect-retry-period=2s"}
	if got := lease(); got != "true 15s 10s 2s" {
		t.Errorf("as Kubernetes' own: got %s", got)
	}
}

func TestLayersStopFromTheTop(t *testing.T) {
	var order []string
	layer := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return nil
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := whileRunning(ctx, start(ctx, layer("lower")), func(ctx context.Context) error {
		return whileRunning(ctx, start(ctx, layer("upper")), func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			order = append(order, "body")
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"body", "upper", "lower"}, order); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFailureOfALayerStopsWhatStandsOnIt(t *testing.T) {
	broken := errors.New("broken")
	for name, end := range map[string]error{"with an error": broken, "without a word": nil} {
		err := whileRunning(t.Context(), start(t.Context(), func(context.Context) error { return end }),
			func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		if want := map[bool]error{true: broken, false: errEnded}[end != nil]; !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
}

func TestNodesSeeOthersPodsOnlyForNetworkPolicies(t *testing.T) {
	enforce := false
	if rules := networkPolicyRules(api.MinionConfig{NetworkPolicy: &enforce}); rules == nil || len(rules) > 0 {
		t.Errorf("without enforcement: %v, want none, and as a list: it takes back what was granted", rules)
	}
	if rules := networkPolicyRules(api.MinionConfig{}); len(rules) == 0 {
		t.Error("with enforcement: none")
	}
}

func TestAddOnsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	c := defaults(statedir.Dir(t.TempDir()))
	if err := c.StateDir.Prepare(statedir.Spec{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	c.AdvertiseAddress, c.Metrics, c.Logs = "10.0.0.9", true, true
	addOns, err := c.addOns()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range addOns {
		key := strings.Join([]string{kindOf(o), o.GetNamespace(), o.GetName()}, " ")
		if seen[key] {
			t.Errorf("%s is there twice, and one would undo the other", key)
		}
		seen[key] = true
	}
}

// With a lease, the stock program returns before its controllers have ended. Then it must not be started.
func TestControllerManagerStartsWhenTheOneBeforeHasEnded(t *testing.T) {
	var before *cache.InformerName
	eventually(t, func(context.Context) string { // another test's may be ending
		var err error
		before, err = cache.NewInformerName(informerName)
		return problemOf(err)
	})
	if informerNameIsFree() == nil {
		t.Error("a controller manager would start beside another one")
	}
	before.Release()
	for range 2 { // to ask is not to take
		if err := informerNameIsFree(); err != nil {
			t.Error(err)
		}
	}
}
