package gateway

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/statedir"
)

// TestRequestsGoOnInTheNameOfTheirCaller: the API server sees who made them, and nobody without credentials gets through.
func TestRequestsGoOnInTheNameOfTheirCaller(t *testing.T) {
	api := newFakeAPI(t)
	other := newFakeAPI(t) // another cluster
	g := start(t, api, nil)
	expired := signed(t, api.dir, pkix.Name{CommonName: "alice"}, time.Now().Add(-time.Minute))
	for name, try := range map[string]struct {
		as     *running
		user   string // "" gets 401
		groups []string
	}{
		"a token":                      {g, "alice", nil},
		"a token by HTTPS":             {g.as("Authorization: Bearer bobs-token"), "bob", nil},
		"a token, in other letters":    {g.as("Authorization: bearer   bobs-token "), "bob", nil},
		"a certificate":                {g.as("", api.certificate(t, "dave", "devs", "ops")), "dave", []string{"devs", "ops"}},
		"an administrator's":           {g.as("", api.certificate(t, "kubernetes-admin", "system:masters")), "kubernetes-admin", []string{"system:masters"}},
		"a certificate before a token": {g.as("Authorization: Bearer bobs-token", api.certificate(t, "dave")), "dave", nil},
		"nothing":                      {g.as(""), "", nil},
		"a wrong token":                {g.as("Authorization: Bearer x"), "", nil},
		"no token":                     {g.as("Authorization: Bearer "), "", nil},
		"a password":                   {g.as("Authorization: Basic YWxpY2U6eA=="), "", nil},
		"another cluster's":            {g.as("", other.certificate(t, "dave", "system:masters")), "", nil},
		"an expired one":               {g.as("", expired), "", nil},
		"a server's":                   {g.as("", pairOf(t, api.dir, statedir.FrontProxyClient)), "", nil},
		"a name that is nobody's":      {g.as("", api.certificate(t, "")), "", nil},
		"a name that would be another": {g.as("", api.certificate(t, " kubernetes-admin")), "", nil},
		"a name with a new line":       {g.as("", api.certificate(t, "x\r\nX-Remote-Group: system:masters")), "", nil},
		"a group that would be one":    {g.as("", api.certificate(t, "dave", "system:masters\t")), "", nil},
		"a forged user":                {g.as("X-Remote-User: kubernetes-admin"), "", nil},
		"a forged group":               {g.as("X-Remote-Group: system:masters", api.certificate(t, "dave")), "dave", nil},
		"a forged one beside a token":  {g.as("X-Remote-User: kubernetes-admin").with("Authorization: Bearer bobs-token"), "bob", nil},
		"impersonation":                {g.as("Impersonate-User: kubernetes-admin").with("Authorization: Bearer bobs-token"), "bob", nil},
	} {
		response, body := try.as.ask("GET /api/v1beta1/pods", "")
		if try.user == "" {
			if response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, `"reason":"Unauthorized"`) {
				t.Errorf("%s: %d %s", name, response.StatusCode, body)
			}
			continue
		}
		last := api.last()
		slices.Sort(last.groups) // a certificate has no order of them
		if response.StatusCode != http.StatusOK || last.user != try.user || !slices.Equal(last.groups, try.groups) {
			t.Errorf("%s: %d, the API server saw %q of %q; %s", name, response.StatusCode, last.user, last.groups, body)
		}
		for header := range last.header {
			if strings.HasPrefix(header, "Impersonate-") || strings.HasPrefix(header, "X-Remote-") && last.user != "dave" && last.user != "kubernetes-admin" {
				t.Errorf("%s: the API server got %s", name, header)
			}
		}
	}
}

// with adds a header to the requests.
func (g *running) with(header string) *running {
	name, value, _ := strings.Cut(header, ": ")
	g.header.Set(name, value)
	return g
}

func pairOf(t *testing.T, dir statedir.Dir, name statedir.Leaf) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(dir.Pair(name))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestOnlyWhoShowsNothingIsTheAdministratorOfAnInsecureServer(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, func(c *Config) { c.Insecure = true })
	plain := *g
	plain.header = http.Header{}
	for name, try := range map[string]struct {
		as   *running
		user string
	}{
		"nothing":           {&plain, "kubernetes-admin"},
		"nothing, by HTTPS": {g.as(""), "kubernetes-admin"},
		"a token":           {g, "alice"},
		"a wrong token":     {g.as("Authorization: Bearer x"), ""},
		"a password":        {g.as("Authorization: Basic YWxpY2U6eA=="), ""},
		"a certificate":     {g.as("", api.certificate(t, "dave")), "dave"},
		"another cluster's": {g.as("", newFakeAPI(t).certificate(t, "dave")), ""},
		"a forged user":     {g.as("X-Remote-User: alice"), "kubernetes-admin"},
	} {
		response, body := try.as.ask("GET /api/v1beta1/pods", "")
		want := http.StatusOK
		if try.user == "" {
			want = http.StatusUnauthorized
		}
		if response.StatusCode != want || try.user != "" && api.last().user != try.user {
			t.Errorf("%s: %d, the API server saw %q; %s", name, response.StatusCode, api.last().user, body)
		}
	}
}

func TestTheRightsAreThoseOfTheAPIServer(t *testing.T) {
	g := start(t, newFakeAPI(t), nil).as("Authorization: Bearer carols-token")
	for _, line := range []string{
		"GET /api/v1beta1/pods", "GET /api/v1beta1/pods/x", "DELETE /api/v1beta1/pods/x", "GET /api/v1beta1/watch/pods", "GET /api/v1beta1/watch/endpoints",
		"GET /api/v1beta1/endpoints", "GET /api/v1beta1/proxy/pods/x/", "GET /api/v1beta1/redirect/minions/x", "GET /version",
	} {
		if response, body := g.ask(line, ""); response.StatusCode != http.StatusForbidden || !strings.Contains(body, `may do nothing`) || !strings.Contains(body, `"apiVersion":"v1beta1"`) {
			t.Errorf("%s: %d %s", line, response.StatusCode, body)
		}
	}
}

// TestAnswersOfOthersCannotBeRead: what one caller's operations answered is kept, and nobody else gets it.
func TestAnswersOfOthersCannotBeRead(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, nil)
	bob := g.as("Authorization: Bearer bobs-token")
	stranger := g.as("Authorization: Bearer unknown")
	if response, body := g.ask("POST /api/v1beta1/pods", redisPod); response.StatusCode != http.StatusOK {
		t.Fatal(body)
	}
	if _, body := g.ask("GET /api/v1beta1/operations/1", ""); !strings.Contains(body, `"id":"redis"`) {
		t.Errorf("alice reads %s", body)
	}
	for _, e := range []exchange{{"GET /api/v1beta1/operations", "", 200, `*"items":[]}`}, {"GET /api/v1beta1/operations/1", "", 404, `*operation \"1\" not found*`}} {
		if response, body := bob.ask(e.line, ""); response.StatusCode != e.code || !matches(e.want, body) {
			t.Errorf("bob: %s: %d %s", e.line, response.StatusCode, body)
		}
		if response, body := stranger.ask(e.line, ""); response.StatusCode != http.StatusUnauthorized {
			t.Errorf("a stranger: %s: %d %s", e.line, response.StatusCode, body)
		}
	}
}

// TestCallersShareConnectionsAndNothingElse: requests of many, at once, each see the API server as themselves.
func TestCallersShareConnectionsAndNothingElse(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, nil)
	type try struct {
		as   *running
		user string
	}
	callers := []try{
		{g, "alice"}, {g.as("Authorization: Bearer bobs-token"), "bob"},
		{g.as("", api.certificate(t, "dave")), "dave"}, {g.as("", api.certificate(t, "erin")), "erin"}, {g.as("Authorization: Bearer unknown"), ""},
	}
	done := make(chan string)
	for _, c := range callers {
		go func() {
			for range 20 {
				response, err := c.as.try("POST /api/v1beta1/services", `{"id":"from-`+c.user+`","port":1}`)
				if err != nil {
					done <- err.Error()
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if c.user == "" && response.StatusCode != http.StatusUnauthorized {
					done <- "a stranger gets " + response.Status
					return
				}
			}
			done <- ""
		}()
	}
	for range callers {
		if problem := <-done; problem != "" {
			t.Error(problem)
		}
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	for _, call := range api.calls {
		if call.user != "" && call.method == http.MethodPost && !strings.Contains(call.body, "from-"+call.user) {
			t.Errorf("%s sent %q", call.user, call.body)
		}
	}
}

// TestForeignWebPagesAreRefused: a page in a browser on this machine must not act as the administrator.
func TestForeignWebPagesAreRefused(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, func(c *Config) { c.Insecure = true })
	port := g.address[strings.LastIndex(g.address, ":"):]
	for name, try := range map[string]struct {
		method  string
		headers []string
		served  bool
	}{
		"no page":                           {"GET", nil, true},
		"localhost":                         {"GET", []string{"Host: localhost" + port}, true},
		"localhost in capitals":             {"GET", []string{"Host: LocalHost" + port}, true},
		"a forwarded port":                  {"GET", []string{"Host: localhost:9999"}, true},
		"IPv6":                              {"GET", []string{"Host: [::1]" + port}, true},
		"a name that resolves to loopback":  {"GET", []string{"Host: evil.example" + port}, false},
		"a name that begins like one":       {"GET", []string{"Host: localhost.evil.example"}, false},
		"another address":                   {"GET", []string{"Host: 192.0.2.1"}, false},
		"a foreign page":                    {"GET", []string{"Origin: http://evil.example"}, false},
		"a foreign page that writes":        {"POST", []string{"Origin: http://evil.example", "Content-Type: text/plain"}, false},
		"a page of another port":            {"GET", []string{"Origin: http://127.0.0.1:1"}, false},
		"a page without origin":             {"POST", []string{"Origin: null"}, false},
		"a form of an old browser":          {"POST", []string{"Sec-Fetch-Site: cross-site"}, false},
		"a form of a neighbour":             {"POST", []string{"Sec-Fetch-Site: same-site"}, false},
		"an image of a foreign page":        {"GET", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, false},
		"a frame of a foreign page":         {"GET", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, false},
		"a link of a foreign page":          {"GET", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, true},
		"a form of a foreign page":          {"POST", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, false},
		"an address that is typed in":       {"GET", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, true},
		"a page that is served here":        {"GET", []string{"Origin: http://" + g.address}, true},
		"a page that is served here writes": {"POST", []string{"Origin: http://" + g.address, "Sec-Fetch-Site: same-origin"}, true},
	} {
		as := *g
		as.header = http.Header{}
		for _, header := range try.headers {
			as.with(header)
		}
		response, body := as.ask(try.method+" /api/v1beta1/services", `{"port":1}`)
		if refused := response.StatusCode == http.StatusForbidden; refused == try.served {
			t.Errorf("%s: %d %s", name, response.StatusCode, body)
		}
		if !try.served && strings.Contains(body, "items") {
			t.Errorf("%s reads %s", name, body)
		}
	}
}

// TestPlainHTTPIsForThisMachineOnly: a token must not travel in clear text.
func TestPlainHTTPIsForThisMachineOnly(t *testing.T) {
	g := &gateway{hosts: []string{"192.0.2.7"}}
	for address, refused := range map[string]bool{"127.0.0.1:8080": false, "[::1]:8080": false, "[::ffff:127.0.0.1]:80": false, "192.0.2.7:8080": true, "[2001:db8::1]:8080": true} {
		r := requestTo(t, address)
		r.Host = "192.0.2.7"
		if got := g.refuses(r); (got != "") != refused {
			t.Errorf("at %s: %q", address, got)
		}
		r.TLS = &tls.ConnectionState{}
		if got := g.refuses(r); got != "" {
			t.Errorf("HTTPS at %s: %q", address, got)
		}
	}
}

// TestServerIsKnownByItsAddressAndItsFlag: a server on all addresses is called by the one that a request came to.
func TestServerIsKnownByItsAddressAndItsFlag(t *testing.T) {
	g := &gateway{hosts: Config{Address: "Old.example:8080"}.Names()}
	for host, known := range map[string]bool{"192.0.2.7": true, "192.0.2.7:8080": true, "192.0.2.8": false, "old.example": true, "old.example:443": true, "example": false, "": false, "[::1]": true} {
		r := requestTo(t, "192.0.2.7:8080")
		r.Host = host
		if got := g.isFor(r); got != known {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestSecretsOfPodsAreNotReadHere(t *testing.T) {
	api := newFakeAPI(t)
	api.put(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}})
	g := start(t, api, nil)
	for _, path := range []string{"/api/v1/secrets", "/api/v1/namespaces/default/secrets/x", "/api/v1/namespaces/default/pods/web/log", "/api/v1/namespaces/default/secrets/x/proxy/y", "/apis", "/metrics", "/api/v1beta1/secrets"} {
		if response, body := g.ask("GET "+path, ""); response.StatusCode != http.StatusNotFound || !strings.HasPrefix(body, "Not Found: ") {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	for _, call := range api.calls {
		if strings.Contains(call.uri, "secrets") {
			t.Errorf("the API server was asked for %s", call.uri)
		}
	}
}

func TestProfilesAreForAdministratorsWithCertificates(t *testing.T) {
	api := newFakeAPI(t)
	g := start(t, api, func(c *Config) { c.Insecure = true })
	const path = "GET /debug/pprof/goroutine?debug=1"
	for name, test := range map[string]struct {
		who  *running
		code int
	}{
		"an administrator":                    {g.as("", api.certificate(t, "kubernetes-admin", "system:masters")), http.StatusOK},
		"somebody else":                       {g.as("", api.certificate(t, "dave", "devs")), http.StatusForbidden},
		"one who says that he is one":         {g.as("X-Remote-Group: system:masters", api.certificate(t, "dave")), http.StatusForbidden},
		"a token":                             {g, http.StatusUnauthorized},
		"nobody, on this machine":             {g.as(""), http.StatusUnauthorized},
		"an administrator of another cluster": {g.as("", newFakeAPI(t).certificate(t, "kubernetes-admin", "system:masters")), http.StatusUnauthorized},
	} {
		answer, body := test.who.ask(path, "")
		if answer.StatusCode != test.code || strings.Contains(body, "goroutine profile") != (test.code == http.StatusOK) {
			t.Errorf("%s: %d %.300s", name, answer.StatusCode, body)
		}
	}
}
