package minion

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testSettings() settings {
	return settings{
		files: layout{"/var/lib/k8sm/k8sm/agent-1"},
		node:  "agent-1",
		agent: "S1",
		cluster: api.MinionConfig{
			ClusterDomain: "cluster.local", ClusterDNS: []string{"10.96.0.10"}, ClusterCIDR: "10.244.0.0/16",
			StaticPods:   "/etc/static",
			EvictionHard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%"},
		},
		addresses:   []netip.Addr{netip.MustParseAddr("192.0.2.7")},
		reserved:    map[string]string{"cpu": "100m", "memory": "1000000"},
		cgroup:      "/k8sm_00000001",
		resolvConf:  "/etc/resolv.conf",
		kubeletPort: 10250, kubeletHealthPort: 40001, proxyHealthPort: 40002, proxyMetricsPort: 40003,
	}
}

func TestConfigurationsAreTheGoldenOnes(t *testing.T) {
	s := testSettings()
	bare := s
	bare.cluster, bare.resolvConf = api.MinionConfig{}, ""
	hardened, off, limit := s, false, int64(100)
	hardened.cluster.Tracing = api.Tracing{Endpoint: "collector:4317", PerMillion: 500}
	hardened.cluster.LogFormat = "json"
	hardened.cluster.SeccompDefault, hardened.cluster.PodPidsLimit = &off, &limit
	hardened.cluster.TLSCipherSuites, hardened.cluster.TLSMinVersion = nil, "VersionTLS13"
	hardened.cluster.ProxyConfig = []byte(`{"conntrack":{"maxPerCore":32768},"iptables":{"masqueradeAll":true}}`)
	nftables := s
	nftables.cluster.ProxyMode = api.ProxyNFTables
	for file, content := range map[string]func() ([]byte, error){
		"proxy_nftables.yaml": nftables.proxy, "kubelet_set.yaml": hardened.kubelet, "proxy_set.yaml": hardened.proxy,
		"kubelet.yaml": s.kubelet, "proxy.yaml": s.proxy, "kubelet_bare.yaml": bare.kubelet, "proxy_bare.yaml": bare.proxy,
	} {
		t.Run(file, func(t *testing.T) {
			got, err := content()
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", file)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("differs (-golden +got):\n%s", diff)
			}
		})
	}
}

func TestPassedArgumentsComeLast(t *testing.T) {
	s := testSettings()
	s.cluster.KubeletArgs = []string{"max-pods=7", "v=4"}
	s.cluster.CredentialProviders = api.CredentialProviders{Config: "/c", BinDir: "/b"}
	if args := strings.Join(s.kubeletArgs(), " "); !strings.HasSuffix(args, "--node-ip=192.0.2.7 --image-credential-provider-config=/c --image-credential-provider-bin-dir=/b --max-pods=7 --v=4") {
		t.Errorf("kubelet arguments are %s", args)
	}
}

func TestArgumentsNameTheNodesOwnFiles(t *testing.T) {
	args := strings.Join(testSettings().kubeletArgs(), " ")
	for _, want := range []string{
		"--config=/var/lib/k8sm/k8sm/agent-1/kubelet.yaml", "--hostname-override=agent-1", "--node-ip=192.0.2.7",
		"--kubeconfig=/var/lib/k8sm/k8sm/agent-1/kubeconfig",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("%s lacks %s", args, want)
		}
	}
}

func TestDualStackNodeListensOnBothFamilies(t *testing.T) {
	s := testSettings()
	s.addresses = append(s.addresses, netip.MustParseAddr("2001:db8::7"))
	if args := strings.Join(s.kubeletArgs(), " "); !strings.Contains(args, "--node-ip=192.0.2.7,2001:db8::7") {
		t.Errorf("kubelet arguments are %s", args)
	}
	proxy, err := s.proxy()
	if err != nil || !strings.Contains(string(proxy), "- 192.0.2.7/32\n- 2001:db8::7/128\n") {
		t.Errorf("the proxy's configuration is %s, %v", proxy, err)
	}
}

func TestPortsDiffer(t *testing.T) {
	s := settings{addresses: []netip.Addr{netip.MustParseAddr(loopback)}}
	if err := s.choosePorts(kubeletPort); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{s.kubeletPort: true, s.kubeletHealthPort: true, s.proxyHealthPort: true, s.proxyMetricsPort: true}
	if len(seen) != 4 {
		t.Errorf("ports are %v", seen)
	}
}

func TestSecondKubeletOfAMachineTakesAnotherPort(t *testing.T) {
	first, err := listenFree(loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	wanted := testPort(first)
	second, err := listenFree(loopback, wanted)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if testPort(second) == wanted {
		t.Error("both have the same port")
	}
}
