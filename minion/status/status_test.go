package status

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/reviewer"
)

const node = "n1"

// grants says what the users of these tests may do.
func grants(asked authorizationv1.SubjectAccessReviewSpec) bool {
	if r := asked.ResourceAttributes; r != nil && r.Resource == "pods" {
		return asked.User == "viewer" && r.Verb == "get" && r.Namespace == "shop" && r.Subresource == ""
	} else if r != nil {
		return asked.User == "scraper" && r.Verb == "get" && r.Resource == "nodes" && r.Subresource == "metrics" && r.Name == node && r.Group == ""
	}
	n := asked.NonResourceAttributes
	if asked.User == "prober" {
		return slices.Contains([]string{"/healthz", "/livez", "/readyz"}, n.Path)
	}
	return asked.User == "profiler" && n.Verb == "get" && strings.HasPrefix(n.Path, "/debug/pprof/")
}

// minion is a server with all its surroundings.
type minion struct {
	dir     statedir.Dir
	api     *reviewer.Server
	metrics *Metrics
	server  *Server
	cfg     Config
}

// newMinion makes the server of a node whose kubelet's certificate is the scheduler's in this test.
func newMinion(t *testing.T) *minion {
	t.Helper()
	m := &minion{dir: statedir.Dir(t.TempDir()), api: reviewer.New(t, grants), metrics: NewMetrics("v1", "v2")}
	if err := m.dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	access, err := callers.Delegate(m.api.Client(t), m.dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	m.cfg = Config{
		Node: node, Address: netip.MustParseAddr("127.0.0.1"), CertFile: filepath.Join(t.TempDir(), "current.pem"),
		Access: access, Metrics: m.metrics, ProxyMetrics: m.api.URL,
	}
	m.certify(t, statedir.SchedulerServer)
	return m
}

// certify gives the node a certificate.
func (m *minion) certify(t *testing.T, leaf statedir.Leaf) {
	t.Helper()
	certFile, keyFile := m.dir.Pair(leaf)
	cert, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	next := m.cfg.CertFile + ".new"
	if err := os.WriteFile(next, append(cert, key...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, m.cfg.CertFile); err != nil {
		t.Fatal(err)
	}
}

// run serves until the test ends.
func (m *minion) run(t *testing.T) {
	t.Helper()
	var err error
	if m.server, err = New(m.cfg); err != nil {
		t.Fatal(err)
	}
	if err := m.server.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
}

// caller is who asks: a token, a client certificate, or neither.
type caller struct {
	token string
	pair  *tls.Certificate
}

// ownerOf is who has the kubeconfig.
func ownerOf(t *testing.T, kubeconfig string) caller {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err == nil {
		err = rest.LoadTLSFiles(config)
	}
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	return caller{pair: &pair}
}

// get requests a path of the minion.
func (m *minion) get(t *testing.T, who caller, path string) (code int, body string, err error) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true}
	if who.pair != nil {
		config.Certificates = []tls.Certificate{*who.pair}
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", m.server.Port(), path), nil)
	if err != nil {
		t.Fatal(err)
	}
	if who.token != "" {
		request.Header.Set("Authorization", "Bearer "+who.token)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func TestWhoMayGetThePodReadsItsSpans(t *testing.T) {
	m := newMinion(t)
	m.cfg.Traces = podtrace.NewBook(10)
	m.cfg.Traces.Open(podtrace.Pod{PodKey: api.PodKey{Namespace: "shop", Name: "web"}, UID: "1"})
	m.run(t)
	const ok, unknown, forbidden = http.StatusOK, http.StatusUnauthorized, http.StatusForbidden
	for name, test := range map[string]struct {
		who         caller
		shop, other int
	}{
		"nobody":                   {caller{}, unknown, unknown},
		"a viewer of a namespace":  {caller{token: reviewer.TokenOf("viewer")}, ok, forbidden},
		"who may read the metrics": {caller{token: reviewer.TokenOf("scraper")}, forbidden, forbidden},
		"an administrator":         {ownerOf(t, m.dir.AdminKubeconfig()), ok, ok},
	} {
		for path, want := range map[string]int{"/pods/shop/web/trace": test.shop, "/pods/other/web/trace": test.other} {
			if code, body, err := m.get(t, test.who, path); err != nil || code != want {
				t.Errorf("%s: %s answers %d, %v, want %d: %.200s", name, path, code, err, want, body)
			}
		}
	}
	_, body, err := m.get(t, caller{token: reviewer.TokenOf("viewer")}, "/pods/shop/web/trace")
	if want := `[{"namespace":"shop","name":"web","uid":"1","spans":[]}]`; err != nil || strings.TrimSpace(body) != want {
		t.Errorf("got %s, %v, want %s", body, err, want)
	}
	if _, body, _ := m.get(t, caller{token: reviewer.TokenOf("viewer")}, "/pods/other/web/trace"); strings.TrimSpace(body) != `user "viewer" may not get pods of other/web` {
		t.Errorf("the refusal is %q", body)
	}
}

func TestCallersGetWhatTheAPIServerLetsThemRead(t *testing.T) {
	m := newMinion(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("kube-proxy got a token")
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, "kubeproxy_test 1")
	}))
	defer proxy.Close()
	m.cfg.ProxyMetrics = proxy.URL
	m.run(t)
	stranger := ownerOf(t, newMinion(t).dir.AdminKubeconfig())
	const ok, unknown, forbidden = http.StatusOK, http.StatusUnauthorized, http.StatusForbidden
	for name, test := range map[string]struct {
		who                     caller
		metrics, proxy, profile int
	}{
		"nobody":                                  {caller{}, unknown, unknown, unknown},
		"an invented token":                       {caller{token: "x"}, unknown, unknown, unknown},
		"who may read metrics":                    {caller{token: reviewer.TokenOf("scraper")}, ok, ok, forbidden},
		"who may read profiles":                   {caller{token: reviewer.TokenOf("profiler")}, forbidden, forbidden, ok},
		"an administrator":                        {ownerOf(t, m.dir.AdminKubeconfig()), ok, ok, ok},
		"another user of the cluster":             {ownerOf(t, m.dir.SchedulerKubeconfig()), forbidden, forbidden, forbidden},
		"a certificate of another CA":             {stranger, unknown, unknown, unknown},
		"another CA's certificate, and his token": {caller{reviewer.TokenOf("scraper"), stranger.pair}, ok, ok, forbidden},
	} {
		for path, want := range map[string]int{
			"/metrics": test.metrics, "/metrics/proxy": test.proxy, "/debug/pprof/goroutine?debug=1": test.profile, "/debug/pprof/": test.profile,
		} {
			code, body, err := m.get(t, test.who, path)
			if err != nil || code != want {
				t.Errorf("%s: %s answers %d, %v, want %d: %.200s", name, path, code, err, want, body)
			}
			has := map[string]string{"/metrics": `k8sm_minion_build_info{`, "/metrics/proxy": "kubeproxy_test 1"}[path]
			if code == ok && !strings.Contains(body, has) {
				t.Errorf("%s: %s has no %s", name, path, has)
			}
		}
	}
	for path, want := range map[string]int{"/": http.StatusNotFound, "/healthz": http.StatusUnauthorized, "/readyz": http.StatusUnauthorized} {
		if code, _, err := m.get(t, caller{}, path); err != nil || code != want {
			t.Errorf("%s answers %d, %v", path, code, err)
		}
	}
}

func TestHealthIsForWhomTheAPIServerKnows(t *testing.T) {
	m := newMinion(t)
	var broken atomic.Bool
	m.cfg.Ready = func(context.Context) error {
		if broken.Load() {
			return errors.New("no Engine")
		}
		return nil
	}
	m.run(t)
	for _, ready := range []int{http.StatusOK, http.StatusServiceUnavailable, http.StatusOK} {
		broken.Store(ready != http.StatusOK)
		for path, want := range map[string]int{"/livez": http.StatusOK, "/healthz": http.StatusOK, "/readyz": ready} {
			if code, body, err := m.get(t, caller{token: reviewer.TokenOf("prober")}, path); err != nil || code != want {
				t.Errorf("%s answers %d %s %v, want %d", path, code, body, err, want)
			}
		}
	}
}

func TestAnswersOfTheAPIServerAreCached(t *testing.T) {
	m := newMinion(t)
	m.run(t)
	for range 10 {
		if code, body, err := m.get(t, caller{token: reviewer.TokenOf("scraper")}, "/metrics"); err != nil || code != http.StatusOK {
			t.Fatal(code, body, err)
		}
	}
	if asked := m.api.Reviews(); asked != 2 {
		t.Errorf("the API server was asked %d times, want one time for the token and one for the right", asked)
	}
	m.api.Down.Store(true)
	if code, body, err := m.get(t, caller{token: reviewer.TokenOf("scraper")}, "/metrics"); err != nil || code != http.StatusOK {
		t.Errorf("while the API server is down, a scraper gets %d %s %v", code, body, err)
	}
	if code, body, err := m.get(t, ownerOf(t, m.dir.SchedulerKubeconfig()), "/metrics"); err != nil || code != http.StatusServiceUnavailable {
		t.Errorf("while the API server is down, a new caller gets %d %s %v", code, body, err)
	}
}

func TestProxyThatDoesNotAnswerIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		proxy http.HandlerFunc
		says  string
	}{
		"an error":   {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, "500"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "302"},
		"nothing": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			conn.Close()
		}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMinion(t)
			proxy := httptest.NewServer(test.proxy)
			defer proxy.Close()
			m.cfg.ProxyMetrics = proxy.URL
			m.run(t)
			code, body, err := m.get(t, caller{token: reviewer.TokenOf("scraper")}, "/metrics/proxy")
			if err != nil || code != http.StatusBadGateway || !strings.Contains(body, "kube-proxy") || !strings.Contains(body, test.says) {
				t.Errorf("%d %q %v, want %s", code, body, err, test.says)
			}
		})
	}
}

func TestEndlessMetricsOfTheProxyAreCutOff(t *testing.T) {
	m := newMinion(t)
	line := []byte(strings.Repeat("x", 1<<16))
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = w.Write(line)
		}
	}))
	defer proxy.Close()
	m.cfg.ProxyMetrics = proxy.URL
	m.run(t)
	_, body, err := m.get(t, caller{token: reviewer.TokenOf("scraper")}, "/metrics/proxy")
	if err == nil || len(body) > maxRelayed {
		t.Errorf("got %d bytes, and %v, as if that were all", len(body), err)
	}
}

func TestPortInUseIsReplaced(t *testing.T) {
	m := newMinion(t)
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	m.cfg.Port = first.Addr().(*net.TCPAddr).Port
	m.run(t)
	if m.server.Port() == 0 || m.server.Port() == m.cfg.Port {
		t.Errorf("it listens on port %d", m.server.Port())
	}
	if code, _, err := m.get(t, caller{token: reviewer.TokenOf("scraper")}, "/metrics"); err != nil || code != http.StatusOK {
		t.Error(code, err)
	}
}

func TestAddressThatTheMachineDoesNotHaveIsAnError(t *testing.T) {
	m := newMinion(t)
	m.cfg.Address = netip.MustParseAddr("192.0.2.1")
	s, err := New(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "192.0.2.1") || s.Port() != 0 {
		t.Errorf("%v, port %d", err, s.Port())
	}
}

// A kubelet gets its serving certificate a while after it has started, and renews it.
func TestCertificateMayComeLaterAndChange(t *testing.T) {
	m := newMinion(t)
	if err := os.Remove(m.cfg.CertFile); err != nil {
		t.Fatal(err)
	}
	m.run(t)
	shown := func() (names []string) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.server.Port()), &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
			names = s.PeerCertificates[0].DNSNames
			return nil
		}})
		if err == nil {
			conn.Close()
		}
		return names
	}
	if got := shown(); got != nil {
		t.Errorf("without a certificate it shows %v", got)
	}
	var last []string
	for _, leaf := range []statedir.Leaf{statedir.SchedulerServer, statedir.DNSServer} {
		m.certify(t, leaf)
		certFile, keyFile := m.dir.Pair(leaf)
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		want, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		last = want.DNSNames
		if got := shown(); !slices.Equal(got, want.DNSNames) {
			t.Errorf("it shows %v, want %v", got, want.DNSNames)
		}
	}
	if err := os.WriteFile(m.cfg.CertFile, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shown(); !slices.Equal(got, last) {
		t.Errorf("with a file that is no certificate it shows %v, want the former one's %v", got, last)
	}
}

func TestTLSIsTheClusters(t *testing.T) {
	m := newMinion(t)
	m.cfg.MinVersion, m.cfg.CipherSuites = "VersionTLS13", nil
	m.run(t)
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.server.Port()), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err == nil {
		conn.Close()
		t.Error("it accepts TLS 1.2")
	}
	for _, wrong := range []Config{{MinVersion: "VersionTLS9"}, {MinVersion: "VersionTLS12", CipherSuites: []string{"NONE"}}} {
		if _, err := New(wrong); err == nil {
			t.Errorf("accepted: %+v", wrong)
		}
	}
}

func TestMetricsOfCallsSyncsAndStarts(t *testing.T) {
	m := newMinion(t)
	m.metrics.Call("Status", 7*time.Millisecond, nil)
	m.metrics.Call("Status", 3*time.Second, status.Error(codes.DeadlineExceeded, "too late"))
	m.metrics.Sync(PodNetwork)(2*time.Millisecond, errors.New("no iptables"))
	m.metrics.Starting(Kubelet)
	down := true
	m.metrics.ShowContainers(func(context.Context) (Running, error) {
		if down {
			return Running{}, errors.New("the Engine is down")
		}
		return Running{Sandboxes: 3, Containers: 5}, nil
	})
	m.run(t)
	text := func() string {
		code, body, err := m.get(t, caller{token: reviewer.TokenOf("scraper")}, "/metrics")
		if err != nil || code != http.StatusOK {
			t.Fatal(code, err)
		}
		return body
	}
	if got := text(); strings.Contains(got, "k8sm_minion_containers_running") || !strings.Contains(got, "k8sm_minion_build_info") {
		t.Errorf("while the containers are unknown:\n%s", got)
	}
	down = false
	got := text()
	for _, want := range []string{
		`k8sm_minion_build_info{goversion="go1`, `kubernetes="v2",version="v1"} 1`,
		`k8sm_minion_cri_call_duration_seconds_bucket{code="OK",method="Status",le="0.025"} 1`, `k8sm_minion_cri_call_duration_seconds_count{code="DeadlineExceeded",method="Status"} 1`,
		`k8sm_minion_sync_duration_seconds_count{result="failed",what="network"} 1`, `k8sm_minion_sync_duration_seconds_count{result="failed",what="policies"} 0`,
		`k8sm_minion_starts_total{part="kubelet"} 1`, `k8sm_minion_starts_total{part="proxy"} 0`,
		`k8sm_minion_containers_running{kind="container"} 5`, `k8sm_minion_containers_running{kind="sandbox"} 3`,
		"process_resident_memory_bytes ", "go_goroutines ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %s in\n%s", want, got)
		}
	}
}
