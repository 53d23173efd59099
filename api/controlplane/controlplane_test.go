package controlplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/api/statedir"
)

// childDir, set in the environment, makes this test binary run a control plane instead of tests, because the stock programs
// can be started once in a process only, and because a test is to kill one.
const (
	childDir   = "K8SM_TEST_STATE_DIR"
	childFlags = "K8SM_TEST_FLAGS" // its flags, one a line
	// childMetrics, set to anything, makes it expect metrics servers.
	childMetrics = "K8SM_TEST_METRICS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(runChild(statedir.Dir(dir)))
	}
	os.Exit(m.Run())
}

// runChild runs until SIGTERM, and says "ready" and "stopped" on its output.
func runChild(dir statedir.Dir) int {
	transport.CertCallbackRefreshDuration = time.Second // as km sets it, for certificates that last seconds
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, flags := withFlags(dir)
	if err := flags.Parse(append([]string{"--secure-port=0", "--etcd-port=0"}, strings.Fields(os.Getenv(childFlags))...)); err != nil {
		fmt.Println("failed", err)
		return 1
	}
	c.Metrics = os.Getenv(childMetrics) != ""
	c.Logs = c.Metrics
	c.Ready = func(url string) { fmt.Println("ready", url) }
	if err := Run(ctx, *c); err != nil {
		fmt.Println("failed", err)
		return 1
	}
	fmt.Println("stopped")
	return 0
}

// defaults is a configuration as by flags, on free ports.
func defaults(dir statedir.Dir) Config {
	c, _ := withFlags(dir)
	c.SecurePort, c.EtcdPort = 0, 0
	return *c
}

// child is a control plane in a process of its own.
type child struct {
	cmd   *exec.Cmd
	lines chan string
}

// startChild returns when the control plane in the directory is ready.
func startChild(t *testing.T, dir statedir.Dir, env ...string) *child {
	t.Helper()
	begin := time.Now()
	c := launch(t, dir, env...)
	if line := c.next(t); !strings.HasPrefix(line, "ready https://127.0.0.1:") {
		t.Fatalf("the control plane said %q", line)
	}
	t.Logf("ready after %v with %s resident", time.Since(begin).Round(10*time.Millisecond), resident(c.cmd.Process.Pid))
	return c
}

// launch returns when the process has started. The process is gone when the test ends.
func launch(t *testing.T, dir statedir.Dir, env ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childDir+"="+string(dir)), env...)
	log, err := os.OpenFile(filepath.Join(string(dir), "child.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd, lines: make(chan string, 16)}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("the control plane's log ends with\n%s", data[max(0, len(data)-8000):])
		}
	})
	return c
}

// next returns the child's next line of output.
func (c *child) next(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-c.lines:
		if !ok {
			t.Fatal("the control plane ended")
		}
		return line
	case <-time.After(2 * time.Minute):
		t.Fatal("the control plane said nothing for two minutes")
		return ""
	}
}

// stop ends the child as an operator would.
func (c *child) stop(t *testing.T) {
	t.Helper()
	begin := time.Now()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line := c.next(t); line != "stopped" {
		t.Fatalf("the control plane said %q", line)
	}
	t.Logf("stopped after %v", time.Since(begin).Round(10*time.Millisecond))
}

// kill ends the child as a crash would.
func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait()
}

func resident(pid int) string {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return err.Error()
	}
	status, err := process.NewStatus()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d MB", status.VmRSS>>20)
}

func adminConfig(t *testing.T, dir statedir.Dir) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func clientOf(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestUsedPortIsOneClearErrorBeforeAnythingStarts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for flag, set := range map[string]func(*Config){
		"--secure-port": func(c *Config) { c.SecurePort = port },
		"--etcd-port":   func(c *Config) { c.EtcdPort = port },
	} {
		c := defaults(statedir.Dir(t.TempDir()))
		set(&c)
		err := Run(t.Context(), c)
		want := fmt.Sprintf("cannot listen on 127.0.0.1:%d: address already in use; stop what uses it, or set %s", port, flag)
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%v is not EADDRINUSE", err)
		}
		if _, err := os.Stat(c.StateDir.EtcdData()); !os.IsNotExist(err) {
			t.Errorf("etcd was started: %v", err)
		}
	}
}

// TestControlPlane is one test because a control plane takes seconds to start; its parts use one after another.
func TestControlPlane(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	running := startChild(t, dir)
	admin := clientOf(t, adminConfig(t, dir))

	t.Run("health is all that a stranger may see", func(t *testing.T) { testStranger(t, dir) })
	t.Run("a bootstrap token is for one node's certificate", func(t *testing.T) { testBootstrap(t, dir, admin) })
	t.Run("nodes get a range of pod addresses", func(t *testing.T) { testPodCIDR(t, admin) })
	t.Run("tokens end", func(t *testing.T) { // each within the 10 s for which the API server remembers it
		t.Run("one brings the authorities to one machine, once", func(t *testing.T) { t.Parallel(); testJoin(t, dir) })
		t.Run("that of a minion that runs is worth nothing", func(t *testing.T) { t.Parallel(); testUsedToken(t, dir) })
	})
	t.Run("etcd holds nodes as JSON and lets in who has a certificate", func(t *testing.T) { testEtcd(t, dir) })
	t.Run("the scheduler has its own keys in etcd and no others", func(t *testing.T) { testSchedulersEtcd(t, dir) })
	t.Run("the metrics servers read from etcd who leads and no more", func(t *testing.T) { testMetricsEtcd(t, dir) })
	t.Run("the scheduler may do its work and no more", func(t *testing.T) { testScheduler(t, dir) })
	t.Run("a claim is bound to the volume that the scheduler gives it", func(t *testing.T) { testLateClaim(t, dir, admin) })
	awaitPolicies(t, admin)
	makeTenant(t, admin)
	t.Run("policies name fields that there are", func(t *testing.T) { testPolicyTypes(t, admin) })
	t.Run("only the scheduler says which address of a pool a pod has", func(t *testing.T) { testAssignedAddress(t, dir, admin) })
	t.Run("only the scheduler writes a pod's task and ports", func(t *testing.T) { testPodKeys(t, dir, admin) })
	t.Run("policies cost nothing where they cannot refuse", func(t *testing.T) { testPolicyCosts(t, dir, admin) })
	t.Run("a node writes nothing that others trust", func(t *testing.T) { testNodeKeys(t, dir, admin) })
	t.Run("nodes and operators write what is theirs", func(t *testing.T) { testNodeOwnKeys(t, dir, admin) })
	t.Run("the scheduler has no secrets but tokens", func(t *testing.T) { testSchedulerSecrets(t, dir, admin) })
	t.Run("the scheduler changes no pod", func(t *testing.T) { testSchedulerPods(t, dir, admin) })
	t.Run("the scheduler takes no volume from its claim", func(t *testing.T) { testSchedulerVolumes(t, dir, admin) })
	t.Run("the DNS servers are in their service only", func(t *testing.T) { testMemberLimits(t, api.DNSMembership(), dir.DNSKubeconfig(), admin) })
	t.Run("no service takes over an external address", func(t *testing.T) { testExternalIPs(t, dir) })
	t.Run("tenants share no requests with the scheduler", func(t *testing.T) { testFlows(t, dir, admin) })
	t.Run("a tenant's flood stops neither leases nor bindings", func(t *testing.T) { testFlood(t, dir, admin) })
	t.Run("minions read their configuration", func(t *testing.T) { testMinionConfig(t, dir, admin) })
	t.Run("the scheduler tells nodes which addresses pods may have", func(t *testing.T) { testAddressPools(t, dir, admin) })
	t.Run("the scheduler alone tells nodes of each other", func(t *testing.T) { testNodeSlices(t, dir, admin) })
	t.Run("nodes carry Commits out, and addresses come to etcd", func(t *testing.T) { testCommits(t, dir, admin) })
	t.Run("service accounts get tokens and the root certificate", func(t *testing.T) { testServiceAccount(t, admin) })
	t.Run("a kubelet serves under no name of others", func(t *testing.T) { testServing(t, dir, admin) })

	t.Run("weak cipher suites are refused", func(t *testing.T) { testWeakCiphers(t, dir) })
	t.Run("the audit log tells who wrote what and no secret", func(t *testing.T) { testAuditLog(t, dir, admin) })
	t.Run("secrets are encrypted, also with a key that follows", func(t *testing.T) { testEncryption(t, dir, admin) })
	t.Run("administrators read the flags", func(t *testing.T) { testFlagz(t, admin, "false") })
	t.Run("a second control plane on the directory is refused", func(t *testing.T) {
		err := Run(t.Context(), defaults(dir))
		if err == nil || !strings.Contains(err.Error(), "already does; stop it first") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("all is there again after a crash and after a stop", func(t *testing.T) {
		before := mark(t, dir)
		serveHistory(t, dir)
		running.kill(t)
		running = startChild(t, dir, childFlags+"=--service-external-ips="+allowedExternalIPs, childMetrics+"=true")
		checkMark(t, dir, before)
		testAllowedExternalIPs(t, dir)
		testMetricsServers(t, dir, clientOf(t, adminConfig(t, dir)))
		testOldSecrets(t, dir, clientOf(t, adminConfig(t, dir)))
		running.stop(t)
		running = startChild(t, dir)
		checkMark(t, dir, before)
		testExternalIPsRemain(t, dir)
		testNoMetricsRemain(t, dir)
		running.stop(t)
	})
}

func TestExistingEtcdIsUsedAndShared(t *testing.T) {
	endpoint := "http://" + etcdtest.Start(t)

	dir := statedir.Dir(t.TempDir())
	i := startIssuer(t)
	authentication := write(t, "authentication.json", i.configuration("k8sm"))
	running := startChild(t, dir, childFlags+"="+strings.Join([]string{
		"--etcd-servers=" + endpoint, "--insecure-etcd", "--authentication-config=" + authentication, "--admission-control-config-file=" + write(t, "admission.yaml", operatorsAdmission),
		"--audit-log-path=", "--kube-apiserver-arg=profiling=true",
	}, "\n"))
	admin := clientOf(t, adminConfig(t, dir))
	testPodCIDR(t, admin) // so there is a controller manager that leads
	t.Run("an issuer's tokens are accepted, for its audience", func(t *testing.T) { testOIDC(t, dir, i, authentication) })
	t.Run("admission plugins are configured", func(t *testing.T) { testAdmissionConfig(t, admin) })
	t.Run("what is passed takes effect", func(t *testing.T) { testFlagz(t, admin, "true") })
	if _, err := os.Stat(filepath.Join(string(dir), "log")); !os.IsNotExist(err) {
		t.Errorf("there is an audit log: %v", err)
	}
	got, err := dir.Etcd()
	if diff := cmp.Diff(statedir.Etcd{Endpoints: []string{endpoint}}, got); err != nil || diff != "" {
		t.Errorf("recorded etcd: %v (-want +got):\n%s", err, diff)
	}
	if _, err := os.Stat(dir.EtcdData()); !os.IsNotExist(err) {
		t.Errorf("an embedded etcd was started too: %v", err)
	}
	t.Run("watches end before the server does", func(t *testing.T) {
		nodes, err := admin.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer nodes.Stop()
		running.stop(t)
		log, err := os.ReadFile(filepath.Join(string(dir), "child.log"))
		if err != nil || strings.Contains(string(log), "Failed to shutdown server") {
			t.Errorf("the API server waited a minute for a watch, and gave up (%v)", err)
		}
	})
	t.Run("a stranger is refused, and makes no CA", func(t *testing.T) { testStrangersCA(t, endpoint) })
}

// testStrangersCA starts control planes of other clusters on an etcd that has a cluster: with an empty state directory, and with one that
// has a CA.
func testStrangersCA(t *testing.T, endpoint string) {
	refused := func(dir statedir.Dir, ca string) {
		t.Helper()
		stranger := launch(t, dir, childFlags+"=--insecure-etcd\n--etcd-servers="+endpoint)
		line := stranger.next(t)
		if !strings.HasPrefix(line, "failed cannot use etcd at "+endpoint+": it belongs to a cluster with another CA") || !strings.Contains(line, ca) ||
			!strings.Contains(line, "replace "+filepath.Dir(dir.CA())+" by that folder of a control plane") {
			t.Errorf("the stranger said %q", line)
		}
	}
	empty := statedir.Dir(t.TempDir())
	refused(empty, "there is none")
	if _, err := os.Stat(empty.CA()); !os.IsNotExist(err) {
		t.Errorf("a CA was made: %v", err)
	}
	made := statedir.Dir(t.TempDir())
	if err := made.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443"}); err != nil {
		t.Fatal(err)
	}
	ca, err := made.CACertificates()
	if err != nil {
		t.Fatal(err)
	}
	refused(made, state.AuthoritiesOf(ca)[0].SHA256)
}

func TestUnreachableEtcdIsOneClearError(t *testing.T) {
	c := defaults(statedir.Dir(t.TempDir()))
	c.EtcdServers, c.InsecureEtcd = []string{"http://127.0.0.1:1"}, true
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := Run(ctx, c); err == nil || !strings.HasPrefix(err.Error(), "cannot reach etcd at http://127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestStopWhileStartingIsNoError(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	starting := launch(t, dir)
	eventually(t, func(context.Context) string { // etcd runs, and the API server is about to
		_, err := dir.Etcd()
		return problemOf(err)
	})
	starting.stop(t)
}
