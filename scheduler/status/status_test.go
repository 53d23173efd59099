package status

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/reviewer"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosmetrics"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
	"github.com/k8sm/k8sm/scheduler/run"
)

var now = time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC)

// fakeSource is a Source with a few objects of each kind. Each method also returns err.
type fakeSource struct{ err, ready error }

func (h fakeSource) Alive() error { return nil }

func (h fakeSource) Ready() error { return h.ready }

func (h fakeSource) Offers(context.Context) ([]scheduler.LiveOffer, error) {
	return []scheduler.LiveOffer{{ID: "o1", Agent: "a1", Hostname: "one", Node: "one", Role: "*", Resources: "cpus:0.5", Until: now}}, h.err
}

func (h fakeSource) Tasks(context.Context) ([]scheduler.LiveTask, error) {
	return []scheduler.LiveTask{{ID: "u.1", Pod: "default/web", Agent: "a1", Node: "one", State: "TASK_RUNNING", Since: now, Bound: true}}, h.err
}

func (h fakeSource) Queue(context.Context) ([]scheduler.WaitingPod, error) {
	return []scheduler.WaitingPod{{Pod: "default/big", Since: now, Attempts: 1, Reasons: []string{"1 is cordoned", "2 are busy"}}}, h.err
}

func (h fakeSource) Nodes(context.Context) ([]scheduler.LiveNode, error) {
	return []scheduler.LiveNode{
		{Node: "one", Agent: "a1", Minion: true, KM: "v1", Since: &now, Kubelet: "v1.36.3", Tasks: 2, Warm: true, Ready: true},
		{Node: "two", Agent: "a2", CordonedFor: "rollout", Rollout: &scheduler.NodeRollout{State: scheduler.StepDraining, Target: "v2"}},
	}, h.err
}

func (h fakeSource) OfferHistory(context.Context) (scheduler.OfferHistory, error) {
	return scheduler.OfferHistory{Totals: map[string]uint64{"launched": 3}, Offers: []scheduler.EndedOffer{{ID: "o0", End: "launched"}}}, h.err
}

// fakeMesos is a Mesos whose master says that it leads.
type fakeMesos struct{}

func (fakeMesos) Metrics(context.Context) []mesosmetrics.Sample {
	return append(mesosmetrics.Translate(map[string]float64{
		"master/elected": 1, "master/tasks_lost": 2, "allocator/mesos/roles/a/b/shares/dominant": 0.5,
	}), mesosmetrics.Up(true))
}

func (fakeMesos) State(context.Context) (mesosstate.Document, error) {
	return mesosstate.Document{Framework: "fw", Agents: []mesosstate.Agent{{ID: "a1", Hostname: "one", Active: true}}}, nil
}

// viewers are the users who may read what a page about Mesos shows.
func viewers(asked authorizationv1.SubjectAccessReviewSpec) bool {
	n := asked.NonResourceAttributes
	return asked.User == "viewer" && n != nil && n.Verb == "get" && (n.Path == "/mesos/state" || strings.HasPrefix(n.Path, "/debug/") && !strings.HasPrefix(n.Path, "/debug/pprof"))
}

// unreachable is a client whose API server is down.
func unreachable(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func cluster(t *testing.T) statedir.Dir {
	t.Helper()
	d := statedir.Dir(t.TempDir())
	err := d.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443",
		ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func configOf(d statedir.Dir) Config {
	c := Config{Address: "127.0.0.1:0", ClientCAFile: d.CA()}
	c.CertFile, c.KeyFile = d.Pair(statedir.SchedulerServer)
	return c
}

// serve serves the source as the cluster's scheduler until the test ends.
func serve(t *testing.T, d statedir.Dir, source Source) (address string) {
	t.Helper()
	metrics := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "k8sm_test", Help: "A metric."})
	metrics.MustRegister(gauge)
	return serveShows(t, d, Shows{Scheduler: source, Metrics: metrics, Mesos: fakeMesos{}, Reviewer: reviewer.New(t, viewers).Client(t)})
}

// serveShows serves that as the cluster's scheduler until the test ends.
func serveShows(t *testing.T, d statedir.Dir, shows Shows) (address string) {
	t.Helper()
	s, err := Listen(configOf(d), shows)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return s.Addr()
}

// client returns a client with the certificate of a kubeconfig.
func client(t *testing.T, kubeconfig, address string) *Client {
	t.Helper()
	who, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err == nil {
		err = rest.LoadTLSFiles(who)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(address, Identity{CA: who.CAData, Cert: who.CertData, Key: who.KeyData, ServerName: statedir.SchedulerServerName})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClientReadsTheStateOfTheScheduler(t *testing.T) {
	d := cluster(t)
	address := serve(t, d, fakeSource{})
	for _, kubeconfig := range []string{d.AdminKubeconfig(), d.SchedulerKubeconfig()} {
		c := client(t, kubeconfig, address)
		offers, err := c.Offers(t.Context())
		compare(t, fakeSource{}.Offers, offers, err)
		tasks, err := c.Tasks(t.Context())
		compare(t, fakeSource{}.Tasks, tasks, err)
		queue, err := c.Queue(t.Context())
		compare(t, fakeSource{}.Queue, queue, err)
		nodes, err := c.Nodes(t.Context())
		compare(t, fakeSource{}.Nodes, nodes, err)
		var metrics bytes.Buffer
		if err := c.Copy(t.Context(), "/metrics", &metrics); err != nil || !strings.Contains(metrics.String(), "k8sm_test 0") {
			t.Errorf("err %v, metrics:\n%s", err, metrics.String())
		}
	}
}

func TestMetricsOfMesosAreServedAsPrometheusReadsThem(t *testing.T) {
	d := cluster(t)
	body, err := client(t, d.SchedulerKubeconfig(), serve(t, d, fakeSource{})).open(t.Context(), "/metrics/mesos")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	served, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"# TYPE mesos_up gauge", "mesos_up 1", "mesos_master_elected 1", "# TYPE mesos_master_task_states_exit_total counter",
		`mesos_master_task_states_exit_total{state="lost"} 2`, `mesos_allocator_role_dominant_share{role="a/b"} 0.5`,
	} {
		if !strings.Contains("\n"+string(served), "\n"+line+"\n") {
			t.Errorf("no line %q in:\n%s", line, served)
		}
	}
}

func compare[T any](t *testing.T, source func(context.Context) ([]T, error), got []T, err error) {
	t.Helper()
	want, _ := source(t.Context())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("err %v, -want +got:\n%s", err, diff)
	}
}

func TestOtherUsersAreForbidden(t *testing.T) {
	d := cluster(t)
	c := client(t, d.ControllerManagerKubeconfig(), serve(t, d, fakeSource{}))
	_, err := c.Tasks(t.Context())
	if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "system:kube-controller-manager") {
		t.Errorf("got %v", err)
	}
	if err := c.Copy(t.Context(), "/metrics", &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("metrics: got %v", err)
	}
}

// answer is what the client gets, or why it gets nothing.
func answer(t *testing.T, c *Client, path string) string {
	t.Helper()
	body, err := c.open(t.Context(), path)
	if err != nil {
		return err.Error()
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestMetricsServersReadMetricsOnly(t *testing.T) {
	d := cluster(t)
	c := client(t, d.MetricsKubeconfig(), serve(t, d, fakeSource{}))
	for path, want := range map[string]string{"/metrics": "k8sm_test 0", "/metrics/mesos": "mesos_up 1", tasksPath: "403", "/debug/pprof/heap": "403", "/metrics/../debug/tasks": "403"} {
		if got := answer(t, c, path); !strings.Contains(got, want) {
			t.Errorf("%s: %.200s, want %s", path, got, want)
		}
	}
}

func TestProfilesAreForAdministrators(t *testing.T) {
	d := cluster(t)
	address := serve(t, d, fakeSource{})
	for kubeconfig, want := range map[string]string{d.AdminKubeconfig(): "goroutine profile", d.SchedulerKubeconfig(): "403"} {
		if got := answer(t, client(t, kubeconfig, address), "/debug/pprof/goroutine?debug=1"); !strings.Contains(got, want) {
			t.Errorf("%s gets %.200s, want %s", kubeconfig, got, want)
		}
	}
}

func TestCertificateOfAnotherClusterIsRefused(t *testing.T) {
	d, other := cluster(t), cluster(t)
	address := serve(t, d, fakeSource{})
	admin, err := clientcmd.BuildConfigFromFlags("", other.AdminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile(d.CA())
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := NewClient(address, Identity{CA: ours, Cert: admin.CertData, Key: admin.KeyData, ServerName: statedir.SchedulerServerName})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Tasks(t.Context()); err == nil || !strings.Contains(err.Error(), "tls") {
		t.Errorf("the server accepted another cluster's administrator: %v", err)
	}
	if _, err := client(t, other.AdminKubeconfig(), address).Tasks(t.Context()); err == nil || !strings.Contains(err.Error(), "authority") {
		t.Errorf("the client accepted another cluster's scheduler: %v", err)
	}
}

func TestUnauthenticatedCallersGetOnlyTheHealth(t *testing.T) {
	d := cluster(t)
	address := serve(t, d, fakeSource{err: run.ErrNotLeading, ready: errors.New("no master")})
	// Health checks need not know the CA.
	nobody := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer nobody.CloseIdleConnections()
	for path, want := range map[string]int{
		"/healthz": http.StatusOK, "/livez": http.StatusOK, "/readyz": http.StatusServiceUnavailable, "/metrics": http.StatusUnauthorized, "/metrics/mesos": http.StatusUnauthorized, "/debug/offers": http.StatusUnauthorized,
		"/debug/tasks": http.StatusUnauthorized, "/debug/queue": http.StatusUnauthorized, "/debug/nodes": http.StatusUnauthorized,
		"/mesos/state": http.StatusUnauthorized, "/mesos/state?watch=true": http.StatusUnauthorized, "/debug/offers/ended": http.StatusUnauthorized, "/debug/queue/reasons": http.StatusUnauthorized, "/debug/pprof/heap": http.StatusUnauthorized, "/": http.StatusUnauthorized,
		"/healthz/../metrics": http.StatusUnauthorized,
	} {
		response, err := nobody.Get("https://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, response.Status, want)
		}
	}
}

func TestWeakCipherSuitesAreRefused(t *testing.T) {
	address := serve(t, cluster(t), fakeSource{})
	for suite, good := range map[uint16]bool{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: true, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA: false} {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		if err == nil {
			conn.Close()
		}
		if (err == nil) != good {
			t.Errorf("%s: %v", tls.CipherSuiteName(suite), err)
		}
	}
}

func TestSchedulerThatDoesNotLeadAnswers503(t *testing.T) {
	d := cluster(t)
	_, err := client(t, d.AdminKubeconfig(), serve(t, d, fakeSource{err: run.ErrNotLeading})).Queue(t.Context())
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "does not lead") {
		t.Errorf("got %v", err)
	}
}

func TestRefusedConnectionNamesTheAddressAndTheFlag(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", heldport.OfTest(t))
	_, err := client(t, cluster(t).AdminKubeconfig(), address).Offers(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no scheduler answers at "+address) || !strings.Contains(err.Error(), "--status-address") {
		t.Errorf("got %v", err)
	}
}

func TestListenErrorsNameTheFlag(t *testing.T) {
	d := cluster(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, test := range map[string]struct {
		change func(*Config)
		says   []string
	}{
		"port in use":    {func(c *Config) { c.Address = busy.Addr().String() }, []string{busy.Addr().String(), "in use", "--status-address"}},
		"no certificate": {func(c *Config) { c.CertFile = filepath.Join(string(d), "none.crt") }, []string{"none.crt", "--tls-cert-file"}},
		"no authority":   {func(c *Config) { c.ClientCAFile = filepath.Join(string(d), "none.ca") }, []string{"none.ca", "--client-ca-file"}},
		"no address":     {func(c *Config) { c.Address = "nowhere" }, []string{"nowhere"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := configOf(d)
			test.change(&c)
			_, err := Listen(c, Shows{Scheduler: fakeSource{}, Metrics: prometheus.NewRegistry(), Mesos: fakeMesos{}, Reviewer: unreachable(t)})
			for _, word := range test.says {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("got %v, want it to say %q", err, word)
				}
			}
		})
	}
}

func TestFlagsSetTheConfig(t *testing.T) {
	var got Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	got.AddFlags(fs)
	if got.Address != DefaultAddress {
		t.Errorf("default address %q", got.Address)
	}
	err := fs.Parse([]string{"--status-address=h:1", "--tls-cert-file=c", "--tls-private-key-file=k", "--client-ca-file=a"})
	if diff := cmp.Diff(Config{Address: "h:1", CertFile: "c", KeyFile: "k", ClientCAFile: "a"}, got); err != nil || diff != "" {
		t.Errorf("err %v, -want +got:\n%s", err, diff)
	}
	if err := (&Config{CertFile: "c"}).Validate(); err == nil {
		t.Error("a certificate without its key is accepted")
	}
}
