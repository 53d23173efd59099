package machines

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var update = flag.Bool("update", false, "rewrite the expected rules")

func config(dir string) Config {
	return Config{
		Cluster: "test", Dir: dir, Count: 2, CIDR: "10.214.0.0/24", Ports: []Port{{"tcp", 6443}, {"udp", 53}},
		Closed: map[string]string{"--cluster-cidr": "10.245.0.0/16", "--service-cluster-ip-range": "10.97.0.0/16"},
	}
}

// dual is config for a cluster of both IP families.
func dual(dir string) Config {
	cfg := config(dir)
	cfg.CIDR = "10.214.0.0/24,fd00:214::/64"
	cfg.Closed = map[string]string{"--cluster-cidr": "10.245.0.0/16,fd00:245::/56", "--service-cluster-ip-range": "10.97.0.0/16,fd00:97::/112"}
	return cfg
}

func planned(t *testing.T, cfg Config) *Machines {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEachMachineHasANameAnAddressAndMarksOfItsCluster(t *testing.T) {
	m := planned(t, config("/var/lib/one"))
	if m.Gateway.String() != "10.214.0.1" {
		t.Errorf("the gateway is %s", m.Gateway)
	}
	for i, want := range []Machine{{Name: "node-1", Address: netip.MustParseAddr("10.214.0.2")}, {Name: "node-2", Address: netip.MustParseAddr("10.214.0.3")}} {
		got := m.List[i]
		if got.Name != want.Name || got.Address != want.Address || !strings.HasPrefix(filepath.Base(got.namespace), "test-") || len(got.link) > 15 {
			t.Errorf("machine %d is %+v", i, got)
		}
	}
	other := planned(t, config("/var/lib/two"))
	if m.bridge() == other.bridge() || m.List[0].link == other.List[0].link || m.List[0].namespace == other.List[0].namespace {
		t.Errorf("two state directories have the same names: %+v", m.List[0])
	}
}

func TestDefaultRangesAreOfTheFamiliesThatPodsHave(t *testing.T) {
	one, two := config("/d"), dual("/d")
	one.CIDR, two.CIDR = "", ""
	if got := planned(t, one).cidr(); got != DefaultCIDR {
		t.Errorf("by default they are in %s", got)
	}
	m := planned(t, two)
	if got := m.cidr(); got != DefaultCIDR+","+DefaultCIDR6 || m.List[1].Address6 != netip.MustParseAddr("fd6b:6d73::3") {
		t.Errorf("with IPv6 they are in %s, such as %s", got, m.List[1].Address6)
	}
}

func TestWhatCannotBeIsRefusedByTheNameOfItsFlag(t *testing.T) {
	for says, change := range map[string]func(*Config){
		"--nodes=0":                         func(c *Config) { c.Count = 0 },
		"--nodes=101":                       func(c *Config) { c.Count = 101 },
		"--cluster-name=a/b":                func(c *Config) { c.Cluster = "a/b" },
		"--node-cidr=x":                     func(c *Config) { c.CIDR = "x" },
		"--node-cidr=10.1.1.1/24":           func(c *Config) { c.CIDR = "10.1.1.1/24" },
		"--node-cidr=fd00::/64":             func(c *Config) { c.CIDR = "fd00::/64" },
		"--node-cidr=10.1.0.0/24,x":         func(c *Config) { c.CIDR = "10.1.0.0/24,x" },
		"give 10.214.0.0/24,fd6b:6d73::/64": func(c *Config) { *c = dual("/d"); c.CIDR = "10.214.0.0/24" },
		"--node-cidr=fd00:245::/64":         func(c *Config) { *c = dual("/d"); c.CIDR = "10.214.0.0/24,fd00:245::/64" },
		"addresses for 1 nodes":             func(c *Config) { c.CIDR = "10.214.0.0/30" },
		"--cluster-cidr=10.245":             func(c *Config) { c.CIDR = "10.245.7.0/24" },
		"--service-cluster-ip-rang":         func(c *Config) { c.CIDR = "10.0.0.0/8"; delete(c.Closed, "--cluster-cidr") },
	} {
		cfg := config("/d")
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
}

func TestRulesOfThisMachine(t *testing.T) {
	var text strings.Builder
	m := planned(t, dual("/var/lib/one"))
	for _, prefix := range m.ranges {
		for _, c := range m.chains(prefix) {
			fmt.Fprintf(&text, "%s: %s: %s jumps to %s\n", prefix, c.table, c.parent, c.name)
			for _, rule := range c.rules {
				fmt.Fprintf(&text, "    %s\n", strings.Join(rule, " "))
			}
		}
	}
	const golden = "testdata/rules.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("(-want +got; -update rewrites):\n%s", diff)
	}
}

func TestPodsAreReachedByTheMachineOfTheirNode(t *testing.T) {
	node := func(address string, cidrs ...string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: address}, Spec: corev1.NodeSpec{PodCIDRs: cidrs},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: address}}},
		}
	}
	both := node("10.214.0.2", "10.245.0.0/24", "fd00:245::/64")
	both.Status.Addresses = append(both.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "fd00:214::2"})
	got := planned(t, dual("/d")).podRoutes([]*corev1.Node{both, node("10.214.0.3"), node("192.168.0.9", "10.245.9.0/24")})
	want := map[netip.Prefix]netip.Addr{
		netip.MustParsePrefix("10.245.0.0/24"): netip.MustParseAddr("10.214.0.2"),
		netip.MustParsePrefix("fd00:245::/64"): netip.MustParseAddr("fd00:214::2"),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

// made are machines that are up, in the network namespace of this process.
func made(t *testing.T) *Machines {
	t.Helper()
	return madeOf(t, config(t.TempDir()))
}

func madeOf(t *testing.T, cfg Config) *Machines {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	m := planned(t, cfg)
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	if err := m.Up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(record(m.cfg.Dir)); errors.Is(err, os.ErrNotExist) {
			return
		}
		if err := m.Down(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// state is what of this machine's network Up changes.
func state(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `ip -o -br link | cut -d' ' -f1 | sort; ip -4 route show table all | sort; ip -6 route | grep -v fe80 | sort; iptables-save | grep K8SM; ip6tables-save | grep K8SM; ls /run/netns 2>/dev/null; true`).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), " linkdown", "") // for a moment, until the kernel has seen the first cable
}

// reach opens a connection from a machine to an address where this test listens.
func reach(m *Machine, listener net.Listener, patience time.Duration) error {
	return m.Enter(func() error {
		connection, err := (&net.Dialer{Timeout: patience}).Dial("tcp", listener.Addr().String())
		if err == nil {
			err = connection.Close()
		}
		return err
	})
}

func TestMachinesReachEachOtherAndAreGoneWithoutATrace(t *testing.T) {
	before := state(t)
	m := madeOf(t, dual(t.TempDir()))
	listen := func(address netip.Addr) (listener net.Listener) {
		err := m.List[0].Enter(func() (err error) {
			listener, err = net.Listen("tcp", net.JoinHostPort(address.String(), "0"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		return listener
	}
	if err := reach(m.List[1], listen(m.List[0].Address6), 10*time.Second); err != nil {
		t.Errorf("node-2 does not reach node-1 by IPv6: %v", err)
	}
	listener := listen(m.List[0].Address)
	if err := reach(m.List[1], listener, 10*time.Second); err != nil {
		t.Errorf("node-2 does not reach node-1: %v", err)
	}
	if err := m.GuardAgent(m.List[0], listener.Addr().(*net.TCPAddr).Port); err != nil {
		t.Fatal(err)
	}
	if err := reach(m.List[1], listener, time.Second); err == nil {
		t.Error("node-2 reaches the agent of node-1")
	}
	if err := reach(m.List[0], listener, 10*time.Second); err != nil {
		t.Errorf("node-1 does not reach its own agent: %v", err)
	}
	for _, gone := range []string{"10.245.3.4:80", "10.97.3.4:80", "[fd00:245::9]:80"} {
		if _, err := net.Dial("tcp", gone); err == nil || !strings.Contains(err.Error(), "no route to host") {
			t.Errorf("%s: %v; want it to stay on this machine", gone, err)
		}
	}
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, state(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestConnectionsOnAMachineAreForwardedToThisOne(t *testing.T) {
	m := made(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			text, _ := io.ReadAll(connection) // until the other side has said all
			fmt.Fprintf(connection, "you said %s", text)
			connection.Close()
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	wait, err := m.List[0].Forward(ctx, "127.0.0.1:5000", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var answer []byte
	call := func() error {
		connection, err := net.Dial("tcp", "127.0.0.1:5000")
		if err != nil {
			return err
		}
		defer connection.Close()
		fmt.Fprint(connection, "hello")
		if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		answer, err = io.ReadAll(connection)
		return err
	}
	if err := m.List[0].Enter(call); err != nil || string(answer) != "you said hello" {
		t.Errorf("%q, %v", answer, err)
	}
	cancel()
	wait()
	if err := m.List[0].Enter(call); err == nil {
		t.Error("it is forwarded after the end")
	}
}

func TestDNSServersOnLoopbackAreFoundInResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# nameserver 127.0.0.1\nnameserver 127.0.0.53\nnameserver 192.0.2.1\noptions edns0\nnameserver ::1\nsearch x\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := loopbackResolvers(path)
	if err != nil || !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("[::1]:53")}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := loopbackResolvers(path + ".none"); err != nil || len(got) != 0 {
		t.Errorf("without a file: %v, %v", got, err)
	}
}

func TestQuestionsOnAMachinesLoopbackAreAskedHere(t *testing.T) {
	m := made(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		packet := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(packet)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(append([]byte("answer to "), packet[:n]...), from)
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	var waits sync.WaitGroup
	if err := m.List[0].forwardBoth(ctx, &waits, server.LocalAddr().String()); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	err = m.List[0].Enter(func() error {
		connection, err := net.Dial("udp", server.LocalAddr().String())
		if err != nil {
			return err
		}
		defer connection.Close()
		_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := connection.Write([]byte("a question")); err != nil {
			return err
		}
		answer = make([]byte, 100)
		n, err := connection.Read(answer)
		answer = answer[:n]
		return err
	})
	if err != nil || string(answer) != "answer to a question" {
		t.Errorf("%q, %v", answer, err)
	}
	cancel()
	waits.Wait()
}

// outside is a machine elsewhere, at 203.0.113.2, with a cable to this one, at 203.0.113.1.
func outside(t *testing.T) *Machine {
	t.Helper()
	m := &Machine{Name: "outside", namespace: filepath.Join(namespaces, "k8sm-test-outside"), link: "k8sm-t-out"}
	t.Cleanup(func() {
		if err := errors.Join(removeLink(m.link), removeNamespace(m.namespace)); err != nil {
			t.Error(err)
		}
	})
	script := fmt.Sprintf(`set -e
ip link add %[1]s type veth peer name eth0 netns %[2]s
ip address add 203.0.113.1/24 dev %[1]s; ip link set %[1]s up
ip netns exec %[2]s sh -ec 'ip address add 203.0.113.2/24 dev eth0; ip link set lo up; ip link set eth0 up; ip route add default via 203.0.113.1'`,
		m.link, filepath.Base(m.namespace))
	if err := ensureNamespace(m.namespace); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return m
}

func TestMachinesGetOutByThisOnesAddressAndNobodyGetsIn(t *testing.T) {
	m := made(t)
	out := outside(t)
	listen := func(on *Machine, address string) (listener net.Listener) {
		err := on.Enter(func() (err error) { listener, err = net.Listen("tcp", net.JoinHostPort(address, "0")); return err })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		return listener
	}
	there := listen(out, "203.0.113.2")
	if err := reach(m.List[0], there, 10*time.Second); err != nil {
		t.Fatalf("node-1 does not get out: %v", err)
	}
	connection, err := there.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if from := connection.RemoteAddr().String(); !strings.HasPrefix(from, "203.0.113.1:") {
		t.Errorf("outside it is seen as %s", from)
	}
	connection.Close()
	if err := reach(out, listen(m.List[0], m.List[0].Address.String()), time.Second); err == nil {
		t.Error("node-1 is reached from elsewhere")
	}
	here, err := net.Listen("tcp", net.JoinHostPort(m.Gateway.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := reach(out, here, time.Second); err == nil {
		t.Error("what is for the nodes is reached from elsewhere")
	}
	if err := reach(m.List[0], here, 10*time.Second); err != nil {
		t.Errorf("node-1 does not reach this machine: %v", err)
	}
	err = m.List[0].Enter(func() error { // as a pod whose address nobody has changed
		if out, err := exec.CommandContext(t.Context(), "ip", "address", "add", "10.245.0.9/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		_, err := (&net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 245, 0, 9)}}).Dial("tcp", there.Addr().String())
		return err
	})
	if err == nil {
		t.Error("a pod's own address gets out")
	}
}

func TestMachinesReachThePortsThatTheyNeedWhateverElseIsLetIn(t *testing.T) {
	m := made(t)
	shut := []string{"INPUT", "-i", m.bridge(), "-j", "DROP"} // as many a firewall has it
	iptables := func(do string) error {
		return exec.Command("iptables", append([]string{do}, shut...)...).Run()
	}
	if err := iptables("-A"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := iptables("-D"); err != nil {
			t.Error(err)
		}
	})
	for port, patience := range map[string]time.Duration{"6443": 10 * time.Second, "0": time.Second} {
		listener, err := net.Listen("tcp", net.JoinHostPort(m.Gateway.String(), port))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if err := reach(m.List[0], listener, patience); (err == nil) != (port == "6443") {
			t.Errorf("port %s: %v", port, err)
		}
	}
}

func TestMachineWithAProcessIsNotRemoved(t *testing.T) {
	m := made(t)
	child := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := m.List[1].Enter(child.Start); err != nil {
		t.Fatal(err)
	}
	err := m.Down()
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(child.Process.Pid)) || !isNamespace(m.List[0].namespace) {
		t.Errorf("err = %v", err)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	if err := m.Down(); err != nil {
		t.Error(err)
	}
}

func TestMachinesThatAreLeftAreTakenOver(t *testing.T) {
	m := made(t)
	left, err := Left(m.cfg.Dir)
	if err != nil || left == nil || !left.Same(m.cfg) {
		t.Fatalf("left are %+v, %v", left, err)
	}
	other := m.cfg
	other.Count = 3
	if left.Same(other) || !strings.Contains(left.Flags(), "--nodes=2") {
		t.Errorf("two machines are the same as three; %s", left.Flags())
	}
	if err := m.List[0].Cut(); err != nil {
		t.Fatal(err)
	}
	before := state(t)
	again := planned(t, m.cfg)
	if err := again.Up(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, state(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestRangeThatThisMachineUsesIsRefused(t *testing.T) {
	m := made(t)
	cfg := config(t.TempDir())
	cfg.CIDR = "10.214.0.128/25"
	err := planned(t, cfg).Check()
	if err == nil || !strings.Contains(err.Error(), m.bridge()) || !strings.Contains(err.Error(), m.cfg.Dir) {
		t.Errorf("the error does not say whose %s is: %v", m.bridge(), err)
	}
}

func TestCableThatIsPulledIsNoticed(t *testing.T) {
	m := made(t)
	type change struct {
		i         int
		connected bool
	}
	changes := make(chan change, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Watch(ctx, func(i int, connected bool) { changes <- change{i, connected} }) }()
	for _, step := range []struct {
		do   func() error
		want change
	}{{m.List[1].Cut, change{1, false}}, {m.List[1].Heal, change{1, true}}, {m.List[0].Stop, change{0, false}}, {m.List[0].Start, change{0, true}}} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := <-changes; got != step.want {
			t.Errorf("%+v, want %+v", got, step.want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestStoppedMachineHasAllItsProcessesStopped(t *testing.T) {
	m := made(t)
	child := exec.CommandContext(t.Context(), "sh", "-c", "sleep 1000 & unshare --net sleep 1001 & wait")
	if err := m.List[0].Enter(child.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		processes, err := m.List[0].processes()
		if err != nil {
			t.Error(err)
		}
		for pid := range processes {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = child.Wait()
	})
	states := func() map[string]int {
		processes, err := m.List[0].processes()
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, state := range processes {
			count[state]++
		}
		return count
	}
	for states()["S"] != 3 { // the shell and what it starts
		if t.Context().Err() != nil {
			t.Fatal(states())
		}
	}
	if err := m.List[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if got := states(); got[stopped] != 3 || len(got) != 1 {
		t.Errorf("%v of 3 processes are stopped", got)
	}
	if err := m.List[0].Start(); err != nil {
		t.Fatal(err)
	}
	if got := states(); got[stopped] != 0 {
		t.Errorf("%v are still stopped", got)
	}
}

func TestSlowMachineHasATokenBucketAtBothEnds(t *testing.T) {
	m := made(t)
	rates := func() (rates []uint64) {
		look := func(link netlink.Link) error {
			disciplines, err := netlink.QdiscList(link)
			for _, d := range disciplines {
				if tbf, ok := d.(*netlink.Tbf); ok {
					rates = append(rates, tbf.Rate)
				}
			}
			return err
		}
		if err := m.List[0].atBothEnds(look); err != nil {
			t.Fatal(err)
		}
		return rates
	}
	if err := m.List[0].Slow(1); err == nil {
		t.Error("one bit a second is enough")
	}
	if err := m.List[0].Slow(800_000); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint64{100_000, 100_000}, rates()); diff != "" {
		t.Error(diff)
	}
	if err := m.List[0].Heal(); err != nil {
		t.Fatal(err)
	}
	if got := rates(); len(got) != 0 {
		t.Errorf("still %v", got)
	}
}
