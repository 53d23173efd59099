package cli

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/vishvananda/netlink"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// masters are the addresses of two API servers. The first is that of the add-ons, too: it is no loopback, which services cannot have.
var masters = [2]string{"192.0.2.1", "192.0.2.2"}

// standIn is an API server that takes everything and has next to nothing.
type standIn struct {
	*httptest.Server
	caFile string
	once   sync.Once
	gone   chan struct{} // closed when it is killed

	mu   sync.Mutex // guards seen
	seen []string   // METHOD PATH, with ?watch for a watch
}

// startStandIn starts an API server with the certificate of the state directory at an address.
func startStandIn(t *testing.T, dir statedir.Dir, address string) *standIn {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(dir.Pair(statedir.APIServer))
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{caFile: dir.CA(), gone: make(chan struct{})}
	s.Server = &httptest.Server{Listener: l, EnableHTTP2: true, TLS: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}, Config: &http.Server{Handler: s, ErrorLog: stdlog.New(io.Discard, "", 0)}}
	s.StartTLS()
	t.Cleanup(s.kill)
	return s
}

// kill ends the server and its connections, as kill -9.
func (s *standIn) kill() {
	s.once.Do(func() {
		_ = s.Listener.Close() // before what makes clients call again
		close(s.gone)
		s.CloseClientConnections()
		s.Close()
	})
}

// asked returns how often it was asked for something since it was forgotten last.
func (s *standIn) asked(what string) (times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, request := range s.seen {
		if strings.HasPrefix(request, what) {
			times++
		}
	}
	return times
}

func (s *standIn) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = nil
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	watch := r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1"
	s.mu.Lock()
	if watch {
		s.seen = append(s.seen, r.Method+" "+r.URL.Path+"?watch")
	} else {
		s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Query().Get("sendInitialEvents") == "true": // as an API server does that cannot
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
	case watch:
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-s.gone:
		}
	case r.Method == http.MethodGet:
		fmt.Fprint(w, s.has(r))
	case r.Method == http.MethodDelete:
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
	case strings.HasSuffix(r.URL.Path, "/selfsubjectreviews"):
		fmt.Fprint(w, `{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1","status":{"userInfo":{"username":"admin"}}}`)
	default:
		_, _ = io.Copy(w, r.Body)
	}
}

// has is the answer to a GET.
func (s *standIn) has(r *http.Request) string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	switch {
	case strings.HasSuffix(r.URL.Path, "/configmaps/"+api.MinionConfigName):
		return configMap(map[string]string{api.MinionConfigKey: `{"clusterDomain":"cluster.local","clusterDNS":["10.96.0.10"],"clusterCIDR":"10.244.0.0/16","serviceCIDR":"10.96.0.0/16"}`})
	case strings.HasSuffix(r.URL.Path, "/configmaps/extension-apiserver-authentication"):
		ca, _ := os.ReadFile(s.caFile)
		return configMap(map[string]string{"client-ca-file": string(ca)})
	case r.URL.Query().Get("fieldSelector") == "metadata.name=kubernetes" && strings.HasSuffix(r.URL.Path, "/endpointslices"):
		return fmt.Sprintf(`{"metadata":{"resourceVersion":"10"},"items":[{"metadata":{"name":"kubernetes","namespace":"default"},"addressType":"IPv4",
			"endpoints":[{"addresses":[%q]},{"addresses":[%q]}],"ports":[{"name":"https","port":%s,"protocol":"TCP"}]}]}`, masters[0], masters[1], port)
	case r.URL.Path == "/api/v1/namespaces":
		return `{"metadata":{"resourceVersion":"10"},"items":[{"metadata":{"name":"default"}}]}`
	case r.URL.Path == "/api/v1/services":
		return `{"metadata":{"resourceVersion":"10"},"items":[{"metadata":{"name":"kubernetes","namespace":"default"},
			"spec":{"type":"ClusterIP","clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"],"ports":[{"name":"https","port":443,"protocol":"TCP"}]}}]}`
	case strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList"):
		return `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"10"},"items":[]}`
	}
	return `{"metadata":{"resourceVersion":"10"},"items":[]}` // which is a list of any kind
}

func configMap(data map[string]string) string {
	text, _ := json.Marshal(map[string]any{"metadata": map[string]string{"name": "some", "resourceVersion": "10"}, "data": data})
	return string(text)
}

// inOwnNetwork runs the test again in a network namespace that has the addresses of the masters. It returns false outside of it.
func inOwnNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv("K8SM_TEST_NETWORK") == "" {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v="+fmt.Sprint(testing.Verbose()), "-test.timeout=5m")
		again.Env = append(os.Environ(), "K8SM_TEST_NETWORK=1")
		again.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := again.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return false
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, address := range masters {
		a, err := netlink.ParseAddr(address + "/32")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(lo, a); err != nil {
			t.Fatal(err)
		}
	}
	return true
}

// addOn is a command that goes on for long.
type addOn struct {
	name string
	args []string
	// asks are requests to the API server by which one sees that it works.
	asks []string
	// health is where it says how it is, and ready the path for that. The cluster has no kubelet whose metrics could be read.
	health, ready string
}

var addOns = []addOn{
	{
		name: "dns", args: []string{"dns", "--address=" + masters[0]},
		asks:   []string{"PATCH /apis/coordination.k8s.io/v1/namespaces/k8sm-dns/leases/", "GET /api/v1/nodes?watch", "GET /api/v1/services?watch", "GET /api/v1/pods?watch"},
		health: "http://127.0.0.1:10053", ready: "/readyz",
	},
	{
		name: "metrics", args: []string{"metrics", "--address=" + masters[0]},
		asks:   []string{"PATCH /apis/coordination.k8s.io/v1/namespaces/k8sm-metrics/leases/", "GET /api/v1/nodes?watch", "GET /api/v1/pods?watch"},
		health: "https://" + masters[0] + ":10260", ready: "/readyz?exclude=metric-storage-ready",
	},
	{
		name: "logstore", args: []string{"logstore", "--address=" + masters[0]},
		asks:   []string{"PATCH /apis/coordination.k8s.io/v1/namespaces/k8sm-logs/leases/", "GET /api/v1/pods?watch"},
		health: "https://" + masters[0] + ":10261", ready: "/readyz",
	},
	{
		name: "ui", args: []string{"ui", "--address=127.0.0.1:8444"}, asks: []string{"GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch"},
		health: "https://127.0.0.1:8444", ready: "/readyz",
	},
}

// running is an add-on that runs.
type running struct {
	t    *testing.T
	stop func()
	mu   sync.Mutex // guards said
	said bytes.Buffer
}

// Write implements io.Writer.
func (r *running) Write(text []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Write(text)
}

func (r *running) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

// startAddOn starts it as a process. It must end in order.
func startAddOn(t *testing.T, dir statedir.Dir, a addOn) *running {
	t.Helper()
	r := &running{t: t}
	args := append([]string{"--state-dir", string(dir), "--log-format=json"}, a.args...)
	if a.name == "dns" { // as beside a control plane, and on other machines
		args[1] = filepath.Join(string(dir), "none")
		args = append(args, "--kubeconfig="+dir.DNSKubeconfig())
	}
	child := exec.Command(os.Args[0], args...)
	child.Env = append(os.Environ(), "K8SM_TEST_KM=1")
	child.Stdout, child.Stderr = r, r
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	r.stop = sync.OnceFunc(func() {
		_ = child.Process.Signal(syscall.SIGTERM)
		if err := child.Wait(); err != nil || t.Failed() {
			t.Errorf("km %s ended with %v, and said\n%s", a.name, err, r.text())
		}
	})
	t.Cleanup(r.stop)
	return r
}

// until waits until a check finds no problem.
func (r *running) until(what string, check func() (problem string)) {
	r.t.Helper()
	problem := check()
	for began := time.Now(); problem != ""; problem = check() {
		if time.Since(began) > 90*time.Second {
			r.t.Fatalf("%s: %s; it said\n%s", what, problem, r.text())
		}
		select {
		case <-r.t.Context().Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// asks waits until the add-on has asked one of these servers for all that it needs.
func (r *running) asks(what string, a addOn, servers ...*standIn) {
	r.t.Helper()
	r.until(what, func() string {
		for _, request := range a.asks {
			if !slices.ContainsFunc(servers, func(s *standIn) bool { return s.asked(request) > 0 }) {
				return "nobody was asked for " + request
			}
		}
		return ""
	})
}

// twoMasters starts two API servers of a new cluster.
func twoMasters(t *testing.T) (dir statedir.Dir, one, two *standIn) {
	t.Helper()
	dir = statedir.Dir(t.TempDir())
	const port = ":6443"
	if err := dir.Prepare(statedir.Spec{
		Now: time.Now(), ServerURL: "https://" + masters[0] + port, ServerNames: []string{"kubernetes", masters[0], masters[1]}, EtcdNames: []string{"127.0.0.1"},
	}); err != nil {
		t.Fatal(err)
	}
	if err := dir.WriteEtcd(statedir.Etcd{Endpoints: []string{"https://127.0.0.1:2379"}, CAFile: dir.EtcdCA(), Embedded: true}); err != nil {
		t.Fatal(err)
	}
	return dir, startStandIn(t, dir, masters[0]+port), startStandIn(t, dir, masters[1]+port)
}

func TestAddOnsGoOnWithAnotherAPIServer(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	for _, a := range addOns {
		t.Run(a.name, func(t *testing.T) {
			dir, one, two := twoMasters(t)
			r := startAddOn(t, dir, a)
			r.asks("at first", a, one, two)
			r.until("the servers are remembered", func() string {
				known, err := os.ReadFile(filepath.Join(string(dir), "api-servers.json"))
				if err != nil || !bytes.Contains(known, []byte(masters[1])) {
					return fmt.Sprintf("%s, %v", known, err)
				}
				return ""
			})
			one.kill()
			two.forget()
			if a.name != "ui" { // a watch that it has at the second one goes on
				r.until("without the first server", func() string {
					if two.asked(a.asks[0]) < 2 {
						return "the second one is not asked for " + a.asks[0]
					}
					return ""
				})
			}
			r.stop()
			two.forget()
			startAddOn(t, dir, a).asks("one that starts without the first server", a, two)
		})
	}
}

// is asks, without credentials, for a path, until the status is the wanted one.
func (r *running) is(a addOn, path string, want int) {
	r.t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	r.until(fmt.Sprintf("%s of %s is %d", path, a.name, want), func() string {
		response, err := client.Get(a.health + path)
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		if response.StatusCode/100 != want/100 {
			return fmt.Sprintf("%s: %s", response.Status, text)
		}
		return ""
	})
}

func TestAddOnsAreReadyWhileThereIsAnAPIServer(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	dir, one, two := twoMasters(t)
	all := map[string]*running{}
	for _, a := range addOns {
		all[a.name] = startAddOn(t, dir, a)
	}
	are := func(ready int) {
		t.Helper()
		for _, a := range addOns {
			all[a.name].is(a, a.ready, ready)
			for _, alive := range []string{"/livez", "/healthz"} {
				if a.name == "metrics" { // whose healthz is that of metrics-server
					alive = "/livez"
				}
				all[a.name].is(a, alive, http.StatusOK)
			}
		}
	}
	are(http.StatusOK)
	one.kill()
	two.kill()
	are(http.StatusInternalServerError)
	startStandIn(t, dir, masters[1]+":6443")
	are(http.StatusOK)
	for name, r := range all { // while they can leave their services
		r.stop()
		for line := range strings.Lines(r.text()) {
			if name == "ui" && !strings.HasPrefix(line, "{") {
				continue // the link, for people
			}
			if !json.Valid([]byte(line)) {
				t.Errorf("with --log-format=json, km %s says %s", name, line)
			}
		}
	}
}

// page is a browser that is logged in to km ui.
type page struct {
	http.Client
	url string
}

// logIn follows the link that km ui has printed.
func (r *running) logIn() *page {
	r.t.Helper()
	link := ""
	r.until("the link", func() string {
		for line := range strings.Lines(r.text()) {
			if _, after, ok := strings.Cut(line, "Web: "); ok {
				link = strings.TrimSpace(after)
				return ""
			}
		}
		return "there is none"
	})
	url, key, _ := strings.Cut(link, "#key=")
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	p := &page{url: strings.TrimSuffix(url, "/"), Client: http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	response, err := p.Post(p.url+"/auth/key", "application/json", strings.NewReader(`{"secret":"`+key+`"}`))
	if err != nil {
		r.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		r.t.Fatalf("the log-in is answered by %s", response.Status)
	}
	r.t.Cleanup(p.CloseIdleConnections)
	return p
}

// follow opens a WebSocket that follows the pods. last is the state that it told last.
func (p *page) follow(t *testing.T) (last func() string) {
	t.Helper()
	dialer := websocket.Dialer{Jar: p.Jar, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	conn, _, err := dialer.DialContext(t.Context(), "wss"+strings.TrimPrefix(p.url, "https")+"/api/watch", http.Header{"Origin": {p.url}})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.WriteJSON(map[string]any{"id": 1, "op": "open", "mode": "objects", "path": "/api/v1/pods"}); err != nil {
		t.Fatal(err)
	}
	var state atomic.Value
	state.Store("")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var frame struct{ State string }
			if conn.ReadJSON(&frame) != nil {
				state.Store("cut off")
				return
			}
			if frame.State != "" {
				state.Store(frame.State)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return func() string { return state.Load().(string) }
}

// What browsers follow goes on, too, and needs no new log-in.
func TestWebPageGoesOnWithAnotherAPIServer(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	dir, one, two := twoMasters(t)
	r := startAddOn(t, dir, addOns[3])
	p := r.logIn()
	last := p.follow(t)
	followed := func(s *standIn) bool { return s.asked("GET /api/v1/pods?watch") > 0 }
	live := func(servers ...*standIn) func() string {
		return func() string {
			if last() != "live" || !slices.ContainsFunc(servers, followed) {
				return fmt.Sprintf("the page is %q", last())
			}
			return ""
		}
	}
	r.until("pods are followed", live(one, two))
	if followed(two) { // no matter which one is gone
		one, two = two, one
	}
	one.kill()
	r.until("pods are followed without that server", live(two))
	r.until("requests of the page", func() string {
		response, err := p.Get(p.url + "/api/k8s/api/v1/nodes")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return response.Status
		}
		return ""
	})
}
