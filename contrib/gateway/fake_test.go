package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/k8sm/k8sm/api/statedir"
)

// fakeAPI is an API server in memory. Like the real one it knows callers by certificates, tokens and the headers of a front proxy that
// has the right certificate; it counts versions, refuses stale ones, and watches. It checks names only.
type fakeAPI struct {
	dir     statedir.Dir
	admin   *rest.Config // how gateways reach it; nil for the usual way
	clients *x509.CertPool
	proxies *x509.CertPool

	mu      sync.Mutex // guards all below
	version int
	objects map[string]runtime.Object // by "services/default/redis"
	log     []change
	changed chan struct{} // closed at the next change
	calls   []seen
	// backend serves what is proxied.
	backend http.HandlerFunc
}

type change struct {
	version int
	kind    string // ADDED, MODIFIED, DELETED
	path    string
	object  runtime.Object
	encoded []byte
}

// seen is a request that came, and who it is from.
type seen struct {
	user, method, uri string
	groups            []string
	header            http.Header
	body              string
}

// tokens are the users whom the API server knows by a token. carol may do nothing.
var tokens = map[string]string{"alices-token": "alice", "bobs-token": "bob", "carols-token": "carol"}

func newFakeAPI(tb testing.TB) *fakeAPI {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	f := &fakeAPI{dir: statedir.Dir(tb.TempDir()), objects: map[string]runtime.Object{}, changed: make(chan struct{}), version: 10}
	if err := f.dir.Prepare(statedir.Spec{
		Now: time.Now(), ServerURL: "https://" + l.Addr().String(), ServerNames: []string{"127.0.0.1", "localhost", "::1", "kubernetes"}, EtcdNames: []string{"127.0.0.1"},
	}); err != nil {
		tb.Fatal(err)
	}
	f.clients, f.proxies = pool(tb, f.dir.CA()), pool(tb, f.dir.FrontProxyCA())
	f.listen(tb, l)
	return f
}

// listen serves at one more address until the test ends, or until kill is called.
func (f *fakeAPI) listen(tb testing.TB, l net.Listener) (kill func()) {
	tb.Helper()
	pair, err := tls.LoadX509KeyPair(f.dir.Pair(statedir.APIServer))
	if err != nil {
		tb.Fatal(err)
	}
	server := &httptest.Server{Listener: l, EnableHTTP2: true, TLS: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}, Config: &http.Server{Handler: f, ErrorLog: stdlog.New(io.Discard, "", 0)}}
	server.StartTLS()
	kill = sync.OnceFunc(func() { server.CloseClientConnections(); server.Close() })
	tb.Cleanup(kill)
	return kill
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	user, groups := f.who(r)
	f.mu.Lock()
	f.calls = append(f.calls, seen{user: user, groups: groups, method: r.Method, uri: r.URL.RequestURI(), header: r.Header.Clone(), body: string(data)})
	f.mu.Unlock()
	switch {
	case user == "":
		f.fail(w, apierrors.NewUnauthorized("Unauthorized"))
	case user == "carol":
		f.fail(w, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", fmt.Errorf(`user "carol" may do nothing`)))
	case r.URL.Path == "/version":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"major":"1","minor":"36","gitVersion":"v1.36.3"}`)
	default:
		if err := f.serve(w, r, data); err != nil {
			f.fail(w, err)
		}
	}
}

// who is who a request is from: the headers count only if the front proxy's certificate says so.
func (f *fakeAPI) who(r *http.Request) (user string, groups []string) {
	valid := func(roots *x509.CertPool) *x509.Certificate {
		if len(r.TLS.PeerCertificates) == 0 {
			return nil
		}
		cert := r.TLS.PeerCertificates[0]
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			return nil
		}
		return cert
	}
	if cert := valid(f.proxies); cert != nil && cert.Subject.CommonName == statedir.FrontProxyUser && r.Header.Get("X-Remote-User") != "" {
		return r.Header.Get("X-Remote-User"), r.Header.Values("X-Remote-Group")
	}
	if cert := valid(f.clients); cert != nil {
		return cert.Subject.CommonName, cert.Subject.Organization
	}
	return tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")], nil
}

func (f *fakeAPI) fail(w http.ResponseWriter, err error) {
	s := apierrors.NewInternalError(err).ErrStatus
	if status, ok := err.(apierrors.APIStatus); ok {
		s = status.Status()
	}
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(s.Code))
	_ = json.NewEncoder(w).Encode(s)
}

// target is what a path is about.
type target struct {
	resource, namespace, name, sub string
}

func (t target) path() string { return t.resource + "/" + t.namespace + "/" + t.name }

func (f *fakeAPI) serve(w http.ResponseWriter, r *http.Request, data []byte) error {
	path, ok := strings.CutPrefix(r.URL.Path, "/api/v1/")
	if !ok {
		path, ok = strings.CutPrefix(r.URL.Path, "/apis/discovery.k8s.io/v1/")
	}
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path)
	}
	var t target
	parts := strings.SplitN(path, "/", 6)
	if parts[0] == "namespaces" {
		t.namespace, parts = parts[1], parts[2:]
	}
	parts = append(parts, "", "")
	t.resource, t.name, t.sub = parts[0], parts[1], parts[2]
	if t.sub == "proxy" {
		f.backend(w, r)
		return nil
	}
	if t.name == "" && r.Method == http.MethodGet {
		return f.list(w, r, t)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o, err := f.one(r, t, data)
	if err != nil {
		return err
	}
	return f.write(w, o)
}

func (f *fakeAPI) write(w io.Writer, o runtime.Object) error {
	if w, ok := w.(http.ResponseWriter); ok {
		w.Header().Set("Content-Type", "application/json")
	}
	_, err := w.Write(encode(o))
	return err
}

// one works on one object. The lock is held.
func (f *fakeAPI) one(r *http.Request, t target, data []byte) (runtime.Object, error) {
	old, there := f.objects[t.path()]
	what := schema.GroupResource{Resource: t.resource}
	if t.name != "" && !there {
		return nil, apierrors.NewNotFound(what, t.name)
	}
	switch r.Method {
	case http.MethodGet:
		return old, nil
	case http.MethodDelete:
		f.change("DELETED", t.path(), old)
		delete(f.objects, t.path())
		return &metav1.Status{Status: "Success"}, nil
	}
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	m, _ := meta.Accessor(o)
	switch {
	case t.sub == "binding":
		old.(*v1.Pod).Spec.NodeName = o.(*v1.Binding).Target.Name
		f.change("MODIFIED", t.path(), old)
		return &metav1.Status{Status: "Success"}, nil
	case r.Method == http.MethodPut && m.GetResourceVersion() != versionOf(old):
		return nil, apierrors.NewConflict(what, t.name, fmt.Errorf("the object has been modified"))
	case r.Method == http.MethodPost:
		t.name = m.GetName()
		if problems := validation.IsDNS1123Subdomain(t.name); len(problems) > 0 {
			return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, t.name, field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), t.name, problems[0])})
		}
		if f.objects[t.path()] != nil {
			return nil, apierrors.NewAlreadyExists(what, t.name)
		}
		m.SetUID(types.UID("u-" + t.name))
		m.SetCreationTimestamp(metav1.NewTime(time.Date(2026, 11, 29, 7, 36, 47, 0, time.UTC)))
		f.change("ADDED", t.path(), o)
		return o, nil
	}
	f.change("MODIFIED", t.path(), o)
	return o, nil
}

// change stores an object. The lock is held.
func (f *fakeAPI) change(kind, path string, o runtime.Object) {
	f.version++
	m, _ := meta.Accessor(o)
	m.SetResourceVersion(strconv.Itoa(f.version))
	f.objects[path] = o
	f.log = append(f.log, change{f.version, kind, path, o.DeepCopyObject(), encode(o)})
	close(f.changed)
	f.changed = make(chan struct{})
}

// put stores objects from outside.
func (f *fakeAPI) put(objects ...runtime.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range objects {
		m, _ := meta.Accessor(o)
		resource := map[string]string{
			"*v1.Pod": "pods", "*v1.Service": "services", "*v1.Node": "nodes", "*v1.Event": "events",
			"*v1.ReplicationController": "replicationcontrollers", "*v1.EndpointSlice": "endpointslices", "*v1.Endpoints": "endpoints",
		}[fmt.Sprintf("%T", o)]
		path := target{resource: resource, namespace: m.GetNamespace(), name: m.GetName()}.path()
		kind := "ADDED"
		if f.objects[path] != nil {
			kind = "MODIFIED"
		}
		f.change(kind, path, o)
	}
}

// drop deletes an object from outside.
func (f *fakeAPI) drop(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[path]
	f.change("DELETED", path, o)
	delete(f.objects, path)
}

func (f *fakeAPI) stored(path string) runtime.Object {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects[path]
}

// last is the last request that came.
func (f *fakeAPI) last() seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, call := range slices.Backward(f.calls) {
		if !strings.HasPrefix(call.uri, "/api/v1/services?") { // else it is of the watch for services without a port
			return call
		}
	}
	return seen{}
}

func (f *fakeAPI) list(w http.ResponseWriter, r *http.Request, t target) error {
	query := r.URL.Query()
	selected, err := selector(query)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	prefix := t.resource + "/"
	if t.namespace != "" {
		prefix += t.namespace + "/"
	}
	if query.Get("watch") != "" {
		return f.watch(w, r, prefix, selected)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	items := []json.RawMessage{}
	var paths []string
	for path, o := range f.objects {
		if strings.HasPrefix(path, prefix) && selected(o) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		items = append(items, encode(f.objects[path]))
	}
	kind := map[string][2]string{
		"pods": {"v1", "PodList"}, "services": {"v1", "ServiceList"}, "nodes": {"v1", "NodeList"}, "events": {"v1", "EventList"},
		"replicationcontrollers": {"v1", "ReplicationControllerList"}, "endpointslices": {"discovery.k8s.io/v1", "EndpointSliceList"}, "endpoints": {"v1", "EndpointsList"},
	}[t.resource]
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": kind[0], "kind": kind[1], "metadata": map[string]string{"resourceVersion": strconv.Itoa(f.version)}, "items": items,
	})
}

func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request, prefix string, selected func(runtime.Object) bool) error {
	since, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return apierrors.NewBadRequest("this server wants a version")
	}
	if since < 10 {
		return apierrors.NewResourceExpired("too old resource version")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		f.mu.Lock()
		changed, log := f.changed, f.log
		f.mu.Unlock()
		for _, c := range log {
			if c.version <= since || !strings.HasPrefix(c.path, prefix) || !selected(c.object) {
				continue
			}
			since = c.version
			if err := json.NewEncoder(w).Encode(map[string]any{"type": c.kind, "object": json.RawMessage(c.encoded)}); err != nil {
				return nil
			}
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return nil
		}
	}
}

func selector(query url.Values) (func(runtime.Object) bool, error) {
	byLabel, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		return nil, err
	}
	byField, err := fields.ParseSelector(query.Get("fieldSelector"))
	if err != nil {
		return nil, err
	}
	return func(o runtime.Object) bool {
		m, _ := meta.Accessor(o)
		set := fields.Set{"metadata.name": m.GetName()}
		if p, ok := o.(*v1.Pod); ok {
			set["spec.nodeName"], set["status.phase"] = p.Spec.NodeName, string(p.Status.Phase)
		}
		return byLabel.Matches(labels.Set(m.GetLabels())) && byField.Matches(set)
	}, nil
}

func encode(o runtime.Object) []byte {
	data, err := runtime.Encode(scheme.Codecs.LegacyCodec(v1.SchemeGroupVersion, discovery.SchemeGroupVersion), o)
	if err != nil {
		panic(err)
	}
	return bytes.TrimSpace(data)
}

func versionOf(o runtime.Object) string {
	m, _ := meta.Accessor(o)
	return m.GetResourceVersion()
}

func pool(tb testing.TB, file string) *x509.CertPool {
	tb.Helper()
	pair, err := loadCerts(file)
	if err != nil {
		tb.Fatal(err)
	}
	p := x509.NewCertPool()
	for _, c := range pair {
		p.AddCert(c)
	}
	return p
}

// certificate is a client certificate of the cluster's CA.
func (f *fakeAPI) certificate(tb testing.TB, user string, groups ...string) tls.Certificate {
	tb.Helper()
	return signed(tb, f.dir, pkix.Name{CommonName: user, Organization: groups}, time.Now().Add(time.Hour))
}

func signed(tb testing.TB, dir statedir.Dir, who pkix.Name, until time.Time) tls.Certificate {
	tb.Helper()
	authority, err := loadCerts(dir.CA())
	if err != nil {
		tb.Fatal(err)
	}
	authorityKey, err := keyutil.PrivateKeyFromFile(dir.CAKey())
	if err != nil {
		tb.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: who, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority[0], key.Public(), authorityKey)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// administrator is how the administrator of the cluster in a directory reaches the API server.
func administrator(tb testing.TB, dir statedir.Dir) *rest.Config {
	tb.Helper()
	admin, err := dir.Admin()
	if err != nil {
		tb.Fatal(err)
	}
	return admin
}

// running is a gateway that serves until the test ends.
type running struct {
	tb      testing.TB
	api     *fakeAPI
	address string
	scheme  string
	client  *http.Client
	header  http.Header // of each request
}

// start runs a gateway in front of the API server. Requests of the result are alice's.
func start(tb testing.TB, api *fakeAPI, change func(*Config)) *running {
	tb.Helper()
	c := Config{Address: "127.0.0.1:0", MaxWatches: DefaultMaxWatches, StateDir: api.dir}
	if change != nil {
		change(&c)
	}
	s, err := Listen(c)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if api.admin == nil {
		api.admin = administrator(tb, c.StateDir)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, api.admin, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		tb.Fatalf("it does not start: %v", err)
	}
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("the server ended with %v", err)
		}
	})
	return &running{tb: tb, api: api, address: s.Addr(), scheme: "http", client: &http.Client{Transport: &http.Transport{}}, header: http.Header{"Authorization": {"Bearer alices-token"}}}
}

// as returns the same gateway for somebody else's requests: who has this certificate, or the header.
func (g *running) as(header string, certificates ...tls.Certificate) *running {
	other := *g
	other.header, other.scheme = http.Header{}, "https"
	if name, value, ok := strings.Cut(header, ": "); ok {
		other.header.Set(name, value)
	}
	other.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(g.tb, g.api.dir.CA()), Certificates: certificates}}}
	g.tb.Cleanup(other.client.CloseIdleConnections)
	return &other
}

// heard is the answer to a request, but for its body.
type heard struct {
	StatusCode int
	Header     http.Header
}

// ask makes a request, METHOD PATH, and returns the answer and its body.
func (g *running) ask(line, body string) (heard, string) {
	g.tb.Helper()
	response, err := g.try(line, body)
	if err != nil {
		g.tb.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		g.tb.Fatalf("%s: %v", line, err)
	}
	return heard{response.StatusCode, response.Header}, string(data)
}

func (g *running) try(line, body string) (*http.Response, error) {
	method, path, _ := strings.Cut(line, " ")
	r, err := http.NewRequest(method, g.scheme+"://"+g.address+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range g.header {
		r.Header[name] = values
	}
	if host := g.header.Get("Host"); host != "" {
		r.Host = host
	}
	return g.client.Do(r)
}

func loadCerts(file string) ([]*x509.Certificate, error) { return cert.CertsFromFile(file) }

// requestTo is a request that came to an address.
func requestTo(t *testing.T, address string) *http.Request {
	t.Helper()
	to := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	return r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(to)))
}

func mustURL(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return u
}
