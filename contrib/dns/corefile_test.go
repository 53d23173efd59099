package dns

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata")

func addresses(texts ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, text := range texts {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}

func TestCorefileSaysWhatTheConfigurationSays(t *testing.T) {
	all := corefile{
		Listen: netip.MustParseAddrPort("10.0.0.5:10053"), Domain: "k8s.example", Kubeconfig: "/s t/dns.kubeconfig",
		Upstreams: addresses("10.0.0.2:53", "[fd00::2]:5353"), Import: "/etc/more",
		Measured: true,
	}
	for name, c := range map[string]corefile{
		"all":       all,
		"unforward": {Listen: netip.MustParseAddrPort("[fd00::5]:53"), Domain: "cluster.local", Kubeconfig: "/k"},
	} {
		file := filepath.Join("testdata", name+".corefile")
		got := c.render()
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestMachinesServersAreAskedInTheirOrder(t *testing.T) {
	text := "# a comment\nsearch example\nnameserver 127.0.0.53\nnameserver\nnameserver fe80::1%eth0\nnameserver nonsense\noptions edns0\nnameserver 10.0.0.2 # two"
	servers, left, err := Forwarding{}.upstreams([]byte(text), addresses("10.0.0.5:10053"))
	if err != nil || len(left) > 0 {
		t.Fatal(err, left)
	}
	want := addresses("127.0.0.53:53", "[fe80::1%eth0]:53", "10.0.0.2:53")
	if diff := cmp.Diff(want, servers, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestServerThatIsTheClustersOwnIsNotAsked(t *testing.T) {
	own := addresses("10.0.0.5:10053", "10.96.0.10:53")
	servers, left, err := Forwarding{}.upstreams([]byte("nameserver 10.96.0.10\nnameserver 10.0.0.5\n"), own)
	if err != nil || len(servers) != 1 || servers[0] != netip.MustParseAddrPort("10.0.0.5:53") || len(left) != 1 || !strings.Contains(left[0], "10.96.0.10") {
		t.Error(servers, left, err)
	}
	for _, given := range []string{"10.96.0.10", "10.0.0.5:10053"} {
		if _, _, err := (Forwarding{Upstreams: []string{given}}).upstreams(nil, own); err == nil || !strings.Contains(err.Error(), given) {
			t.Errorf("%s: %v", given, err)
		}
	}
}

func TestGivenServersAreAskedInsteadOfTheMachines(t *testing.T) {
	f := Forwarding{Upstreams: []string{"10.0.0.3", "[fd00::2]:5353", "fd00::3"}}
	servers, _, err := f.upstreams([]byte("nameserver 10.0.0.2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := addresses("10.0.0.3:53", "[fd00::2]:5353", "[fd00::3]:53")
	if diff := cmp.Diff(want, servers, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
