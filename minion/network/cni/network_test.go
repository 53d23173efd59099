package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/minion/network"
)

// plugins is where Debian's package containernetworking-plugins has them.
const plugins = "/usr/lib/cni"

// bridged is what such plugins are usually told; the addresses are the node's, or 198.18.9.0/24.
const bridged = `{"cniVersion": "0.4.0", "name": "test", "plugins": [
	{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "DATA", %s}},
	{"type": "portmap", "capabilities": {"portMappings": true}},
	{"type": "bandwidth", "capabilities": {"bandwidth": true}}]}`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newTestNetwork is a network on a machine that is a network namespace of the test's own.
func newTestNetwork(t *testing.T, conf string) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Fatalf("%v; run `make test-deps` first", err)
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and the namespace with it
	namespace, err := netns.New()
	must(t, err)
	t.Cleanup(func() { namespace.Close() })
	loopback, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(loopback))
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	cfg := Config{Node: "agent-1", ConfDir: t.TempDir(), BinDir: plugins, Dir: filepath.Join(t.TempDir(), "cni")}
	if conf != "" {
		must(t, os.WriteFile(filepath.Join(cfg.ConfDir, "10-test.conflist"), []byte(strings.ReplaceAll(conf, "DATA", t.TempDir())), 0o600))
	}
	return New(cfg)
}

// newSandbox is a pod's sandbox, which ends with the test or before.
func newSandbox(t *testing.T, id string, ports ...network.Port) (s network.Sandbox, end func()) {
	t.Helper()
	machine, err := netns.Get()
	must(t, err)
	defer machine.Close()
	namespace, err := netns.New()
	must(t, err)
	must(t, netns.Set(machine))
	var ended bool
	end = func() {
		if !ended {
			ended = true
			namespace.Close()
		}
	}
	t.Cleanup(end)
	return network.Sandbox{ID: id, Pod: "default/" + id, UID: "uid-" + id, Namespace: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), namespace), Ports: ports}, end
}

// device returns a sandbox's.
func device(t *testing.T, s network.Sandbox) (netlink.Link, error) {
	t.Helper()
	namespace, err := netns.GetFromPath(s.Namespace)
	must(t, err)
	defer namespace.Close()
	inside, err := netlink.NewHandleAt(namespace)
	must(t, err)
	defer inside.Close()
	return inside.LinkByName(podDevice)
}

// leased are the addresses that host-local holds as given out.
func leased(t *testing.T, n *Network) (list []string) {
	t.Helper()
	conf, err := load(n.cfg.ConfDir)
	must(t, err)
	_, rest, _ := strings.Cut(string(conf.Bytes), `"dataDir":`)
	dir, _, _ := strings.Cut(strings.TrimLeft(rest, ` "`), `"`)
	files, err := filepath.Glob(filepath.Join(dir, "test", "1*"))
	must(t, err)
	for _, file := range files {
		list = append(list, filepath.Base(file))
	}
	return list
}

const fixed = `"subnet": "198.18.9.0/24"`

func TestPodsHaveWhatThePluginsGiveThem(t *testing.T) {
	n := newTestNetwork(t, fmt.Sprintf(bridged, `"capabilities": {}, "subnet": "198.18.9.0/24"`))
	must(t, n.Ready())
	web, _ := newSandbox(t, "web", network.Port{Protocol: "TCP", HostPort: 8080, ContainerPort: 80})
	web.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "10M"}
	addresses, err := n.Attach(t.Context(), web)
	must(t, err)
	if want := []netip.Addr{netip.MustParseAddr("198.18.9.2")}; !cmp.Equal(addresses, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("the pod has %v", addresses)
	}
	again, err := n.Attach(t.Context(), web)
	if err != nil || again[0] != addresses[0] || n.Addresses("web")[0] != addresses[0] {
		t.Errorf("attached again: %v %v", again, err)
	}
	if link, err := device(t, web); err != nil || link.Attrs().Flags&unix.IFF_UP == 0 {
		t.Errorf("the pod's device: %v %v", link, err)
	}
	if rules := iptables(t, "nat"); !strings.Contains(rules, "--dport 8080 -j DNAT --to-destination 198.18.9.2:80") {
		t.Errorf("the host port leads nowhere:\n%s", rules)
	}
	if shaped := shapers(t); shaped != 1 {
		t.Errorf("%d devices are shaped", shaped)
	}
	must(t, n.Detach(t.Context(), "web"))
	must(t, n.Detach(t.Context(), "web"))
	if _, err := device(t, web); err == nil || len(leased(t, n)) > 0 || n.Addresses("web") != nil {
		t.Errorf("left after the pod: device %v, addresses %v", err, leased(t, n))
	}
	if rules := iptables(t, "nat"); strings.Contains(rules, "8080") {
		t.Errorf("the host port is left:\n%s", rules)
	}
}

func TestPluginsGiveAddressesOfTheNodesRange(t *testing.T) {
	conf := strings.Replace(fmt.Sprintf(bridged, `"type": "host-local"`), `"type": "bridge"`, `"type": "bridge", "capabilities": {"ipRanges": true}`, 1)
	n := newTestNetwork(t, conf)
	must(t, n.Setup([]string{"198.18.7.0/24"}))
	pod, _ := newSandbox(t, "pod")
	addresses, err := n.Attach(t.Context(), pod)
	must(t, err)
	if addresses[0].String() != "198.18.7.2" {
		t.Errorf("the pod has %v", addresses)
	}
	must(t, n.Teardown())
}

func TestPodGetsItsAddressOfAPoolFromPluginsThatCanGiveIt(t *testing.T) {
	known := netip.MustParseAddr("198.18.9.77")
	able := strings.Replace(fmt.Sprintf(bridged, fixed), `"type": "bridge"`, `"type": "bridge", "capabilities": {"ips": true}`, 1)
	for conf, says := range map[string]string{
		able:                        "",
		fmt.Sprintf(bridged, fixed): "no plugin in the CNI configuration has the capability ips",
		strings.Replace(able, `"type": "bridge"`, `"type": "ptp"`, 1):                                                       "",
		strings.Replace(strings.Replace(able, "198.18.9.0/24", "198.18.8.0/24", 1), `"type": "bridge"`, `"type": "ptp"`, 1): "198.18.9.77",
	} {
		n := newTestNetwork(t, conf)
		pod, _ := newSandbox(t, "pod")
		pod.Address = known
		addresses, err := n.Attach(t.Context(), pod)
		if says == "" && (err != nil || len(addresses) != 1 || addresses[0] != known) {
			t.Errorf("the pod has %v, %v", addresses, err)
		}
		if says != "" && (err == nil || !strings.Contains(err.Error(), says) || n.Addresses("pod") != nil) {
			t.Errorf("the pod has %v, %v, want %q", addresses, err, says)
		}
		must(t, n.Detach(t.Context(), "pod"))
	}
}

func TestFileOfASinglePluginIsOneToo(t *testing.T) {
	n := newTestNetwork(t, "")
	conf := `{"cniVersion": "0.4.0", "name": "test", "type": "bridge", "bridge": "cni0", "isGateway": true,
		"ipam": {"type": "host-local", "dataDir": "` + t.TempDir() + `", "subnet": "198.18.9.0/24"}}`
	must(t, os.WriteFile(filepath.Join(n.cfg.ConfDir, "10-test.conf"), []byte(conf), 0o600))
	pod, _ := newSandbox(t, "pod")
	addresses, err := n.Attach(t.Context(), pod)
	if err != nil || addresses[0].String() != "198.18.9.2" || len(leased(t, n)) != 1 {
		t.Errorf("%v %v, given out are %v", addresses, err, leased(t, n))
	}
	n = New(n.cfg)
	must(t, n.Detach(t.Context(), "pod"))
	if got := leased(t, n); len(got) != 0 {
		t.Errorf("given out after the pod are %v", got)
	}
}

func TestWhatEndedUnseenIsTakenBackFromThePlugins(t *testing.T) {
	n := newTestNetwork(t, fmt.Sprintf(bridged, fixed))
	one, end := newSandbox(t, "one")
	two, _ := newSandbox(t, "two")
	for _, s := range []network.Sandbox{one, two} {
		_, err := n.Attach(t.Context(), s)
		must(t, err)
	}
	half := attachment{Sandbox: network.Sandbox{ID: "half", Pod: "default/half", Namespace: "/nowhere"}, Config: n.attached["one"].Config}
	must(t, n.store.save(half)) // a process that was killed while plugins worked
	n = New(n.cfg)
	end()
	// A process with the dead one's number has its path now: this thread, as it happens, with the machine's own network.
	stranger := n.attached["one"]
	stranger.Sandbox.Namespace = "/proc/thread-self/ns/net"
	n.attached["one"] = stranger
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: podDevice}}))
	must(t, n.Keep(t.Context(), []string{"two"}))
	if got := leased(t, n); !cmp.Equal(got, []string{"198.18.9.3"}) {
		t.Errorf("given out are %v, want what pod two has", got)
	}
	if _, err := netlink.LinkByName(podDevice); err != nil {
		t.Errorf("the machine's own device was removed: %v", err)
	}
	if n.Addresses("one") != nil || n.Addresses("two") == nil {
		t.Errorf("known are %v", n.attached)
	}
	must(t, n.Teardown())
	if got := leased(t, n); len(got) > 0 {
		t.Errorf("given out after all are gone: %v", got)
	}
	if _, err := os.Stat(n.cfg.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files are left: %v", err)
	}
}

func TestConfigurationThatCannotBeUsedIsSaidWhy(t *testing.T) {
	for name, test := range map[string]struct{ file, conf, want string }{
		"none":           {"readme.txt", "", "no CNI configuration in"},
		"not JSON":       {"10-a.conflist", "{", "10-a.conflist: error parsing configuration list"},
		"no plugins":     {"10-a.conflist", `{"cniVersion": "1.0.0", "name": "a", "plugins": []}`, "10-a.conflist: error parsing configuration list: no plugins in list"},
		"no type":        {"10-a.conf", `{"cniVersion": "1.0.0", "name": "a"}`, "10-a.conf: error parsing configuration: missing 'type'"},
		"missing plugin": {"10-a.conflist", `{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "calico"}]}`, `failed to find plugin "calico" in path [/usr/lib/cni]`},
		"new version":    {"10-a.conflist", `{"cniVersion": "1.1.0", "name": "a", "plugins": [{"type": "bridge"}]}`, `plugin bridge does not support config version "1.1.0"`},
	} {
		t.Run(name, func(t *testing.T) {
			n := newTestNetwork(t, "")
			must(t, os.WriteFile(filepath.Join(n.cfg.ConfDir, test.file), []byte(test.conf), 0o600))
			must(t, os.WriteFile(filepath.Join(n.cfg.ConfDir, "readme.txt"), nil, 0o600))
			if err := n.Ready(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			pod, _ := newSandbox(t, "pod")
			if _, err := n.Attach(t.Context(), pod); err == nil || n.Addresses("pod") != nil {
				t.Errorf("a pod was attached all the same: %v", err)
			}
			must(t, n.Detach(t.Context(), "pod"))
		})
	}
}

// moody is a plugin that is not ready while a file is there, and adds nothing.
const moody = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}' ;;
STATUS) [ ! -e MOOD ] || { echo '{"cniVersion": "1.1.0", "code": 50, "msg": "no addresses left"}'; exit 1; } ;;
ADD) echo '{"cniVersion": "1.1.0", "code": 11, "msg": "try again later"}'; exit 1 ;;
DEL) echo "$CNI_CONTAINERID" >>MOOD.deleted ;;
esac
`

func TestNetworkIsReadyAsThePluginsSay(t *testing.T) {
	n := newTestNetwork(t, `{"cniVersion": "1.1.0", "name": "test", "plugins": [{"type": "moody"}]}`)
	mood := filepath.Join(t.TempDir(), "mood")
	n.cfg.BinDir = t.TempDir()
	must(t, os.WriteFile(filepath.Join(n.cfg.BinDir, "moody"), []byte(strings.ReplaceAll(moody, "MOOD", mood)), 0o700))
	n = New(n.cfg)
	must(t, n.Ready())
	must(t, os.WriteFile(mood, nil, 0o600))
	if err := n.check(t.Context()); err == nil || n.Ready() == nil || !strings.Contains(err.Error(), "no addresses left") {
		t.Errorf("with plugins that are not ready: %v", err)
	}
	must(t, os.Remove(mood))
	must(t, n.check(t.Context()))
	pod, _ := newSandbox(t, "pod")
	if _, err := n.Attach(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "try again later") {
		t.Errorf("an error of a plugin: %v", err)
	}
	if deleted, err := os.ReadFile(mood + ".deleted"); err != nil || string(deleted) != "pod\n" || n.Addresses("pod") != nil {
		t.Errorf("what failed half-way was not taken back: %q %v", deleted, err)
	}
	pod.Ports = []network.Port{{Protocol: "TCP", HostPort: 1, ContainerPort: 1}}
	if _, err := n.Attach(t.Context(), pod); !errors.Is(err, errNoPorts) {
		t.Errorf("host ports without portmap: %v", err)
	}
}

func TestBandwidthThatIsNoneIsRefused(t *testing.T) {
	for _, text := range []string{"fast", "1", "2P"} {
		if got, err := bandwidth(map[string]string{"kubernetes.io/ingress-bandwidth": text}); err == nil || got != nil {
			t.Errorf("%s: %v", text, got)
		}
	}
	got, err := bandwidth(map[string]string{"kubernetes.io/ingress-bandwidth": "1M", "kubernetes.io/egress-bandwidth": "20M"})
	if want := map[string]int64{"ingressRate": 1e6, "ingressBurst": 1<<31 - 1, "egressRate": 20e6, "egressBurst": 1<<31 - 1}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
}

func TestRunAsksThePluginsAgainAndAgain(t *testing.T) {
	n := newTestNetwork(t, "")
	if n.Ready() == nil {
		t.Fatal("ready without a configuration")
	}
	must(t, os.WriteFile(filepath.Join(n.cfg.ConfDir, "10-test.conflist"), []byte(fmt.Sprintf(bridged, fixed)), 0o600))
	done := make(chan error, 1)
	go func() { done <- n.Run(t.Context()) }()
	for deadline := time.After(3 * checkEvery); n.Ready() != nil; {
		select {
		case <-deadline:
			t.Fatal(n.Ready())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// iptables lists a table's rules.
func iptables(t *testing.T, table string) string {
	t.Helper()
	out, err := exec.Command("iptables", "-t", table, "-S").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// shapers counts the devices that limit what passes.
func shapers(t *testing.T) (count int) {
	t.Helper()
	list, err := netlink.QdiscList(nil)
	must(t, err)
	for _, discipline := range list {
		if discipline.Type() == "tbf" {
			count++
		}
	}
	return count
}
