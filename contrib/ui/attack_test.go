package ui

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gorilla/websocket"
)

// ok answers everything.
func ok(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	writeJSON(w, map[string]string{"kind": "Thing"})
}

func TestKeyLogsInOnce(t *testing.T) {
	a := newAPI(t, ok)
	b := open(t, a, Config{})
	link, err := b.server.Link(t.Context(), a.config("token-of-admin"))
	if err != nil {
		t.Fatal(err)
	}
	_, key, found := strings.Cut(link, "#key=")
	if !found || len(key) < 40 {
		t.Fatalf("the link is %s", link)
	}
	if code, _ := b.do("POST", "/auth/key", `{"secret": "`+key+`"}`); code != http.StatusNoContent {
		t.Fatalf("the key gets %d", code)
	}
	if code, said := b.do("GET", "/api/session", ""); code != http.StatusOK || !strings.Contains(said, `"user":"admin"`) {
		t.Errorf("the session is %d %s", code, said)
	}
	b.http = b.anew()
	for _, again := range []string{key, "", "other"} {
		if code, said := b.do("POST", "/auth/key", `{"secret": "`+again+`"}`); code != http.StatusUnauthorized || !strings.Contains(said, "km ui") {
			t.Errorf("the key %q gets %d %s", again, code, said)
		}
	}
	if code, _ := b.do("GET", "/api/session", ""); code != http.StatusUnauthorized {
		t.Errorf("a stranger gets %d", code)
	}
}

func TestTokenLogsInWhomTheAPIServerKnows(t *testing.T) {
	a := newAPI(t, ok)
	b := open(t, a, Config{})
	for _, token := range []string{"", "wrong", "token-of-\\nx", "token-of-a b"} {
		if code, _ := b.do("POST", "/auth/token", `{"secret": "`+token+`"}`); code != http.StatusUnauthorized {
			t.Errorf("token %q gets %d", token, code)
		}
	}
	response, _ := b.send(b.request("POST", "/auth/token", `{"secret": "token-of-ann"}`))
	cookie := response.Header.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, "__Host-") || strings.Contains(cookie, "ann") {
		t.Errorf("the cookie is %s", cookie)
	}
	for _, attribute := range []string{"; Path=/", "; HttpOnly", "; Secure", "; SameSite=Strict"} {
		if !strings.Contains(cookie, attribute) {
			t.Errorf("the cookie has no %s: %s", attribute, cookie)
		}
	}
	if strings.Contains(cookie, "Domain") || strings.Contains(cookie, "Max-Age") || strings.Contains(cookie, "Expires") {
		t.Errorf("the cookie lasts, or is for other hosts: %s", cookie)
	}
}

func TestRequestsAreFromWhomTheSessionIsOf(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	for header, value := range map[string]string{
		"Authorization": "Bearer token-of-root", "Impersonate-User": "root", "Impersonate-Group": "system:masters", "Impersonate-Extra-Scopes": "x",
		"X-Remote-User": "root", "X-Remote-Group": "system:masters", "X-Remote-Extra-A": "b", "Proxy-Authorization": "Basic cm9vdDo=", "X-Forwarded-User": "root",
		"Impersonate-Uid": "1", "X-Remote-Uid": "1", "Forwarded": "for=1.2.3.4", "Origin": strings.TrimSuffix(b.server.URL(), "/"),
	} {
		code, said := b.do("GET", "/api/k8s/api/v1/pods", "", header, value)
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", header, code, said)
		}
		seen := a.last()
		if header != "Authorization" && seen.Header.Get(header) != "" {
			t.Errorf("the API server gets %s: %s", header, seen.Header.Get(header))
		}
		if got := seen.Header.Get("Authorization"); got != "Bearer token-of-ann" {
			t.Errorf("with %s, the API server gets Authorization %s", header, got)
		}
		if seen.Header.Get("Cookie") != "" {
			t.Error("the API server gets the cookie")
		}
	}
}

func TestWebSocketProtocolsCarryNoToken(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	_, response, err := b.dial("/api/k8s/api/v1/namespaces/a/pods/b/exec?command=sh", "", "base64url.bearer.authorization.k8s.io.dG9rZW4tb2Ytcm9vdA", "v5.channel.k8s.io")
	if err == nil || response == nil {
		t.Fatal("a server that does not upgrade did")
	}
	response.Body.Close()
	if got := a.last().Header.Values("Sec-Websocket-Protocol"); len(got) != 1 || got[0] != "v5.channel.k8s.io" {
		t.Errorf("the API server gets the protocols %q", got)
	}
}

func TestPagesOfOtherServersAreRefused(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	before := a.count()
	for _, attack := range [][]string{
		{"DELETE", "/api/k8s/api/v1/namespaces/a/pods/b", "Sec-Fetch-Site", "cross-site"},
		{"DELETE", "/api/k8s/api/v1/namespaces/a/pods/b", "Sec-Fetch-Site", "same-site"}, // another port of this machine
		{"POST", "/api/k8s/api/v1/namespaces/a/pods", "Origin", "https://evil.example"},
		{"POST", "/api/k8s/api/v1/namespaces/a/pods", "Origin", "null"},
		{"POST", "/auth/token", "Sec-Fetch-Site", "cross-site"},
		{"POST", "/auth/key", "Origin", "https://evil.example"},
		{"POST", "/auth/logout", "Sec-Fetch-Site", "cross-site"},
		{"GET", "/api/k8s/api/v1/secrets", "Sec-Fetch-Site", "same-site"},
		{"GET", "/api/mesos/state", "Sec-Fetch-Site", "cross-site"},
		{"GET", "/api/session", "Sec-Fetch-Site", "cross-site"},
	} {
		code, said := b.do(attack[0], attack[1], `{"secret": "token-of-evil"}`, attack[2], attack[3])
		if code != http.StatusForbidden || !strings.Contains(said, errForeign.Error()) {
			t.Errorf("%q: %d %s", attack, code, said)
		}
	}
	for _, path := range []string{"/api/watch", "/api/k8s/api/v1/namespaces/a/pods/b/exec?command=sh"} {
		for _, origin := range []string{"https://evil.example", "http://" + b.server.Addr(), "https://127.0.0.1:1", "null"} {
			conn, response, err := b.dial(path, origin)
			if err == nil {
				conn.Close()
				t.Errorf("%s from %s is connected", path, origin)
				continue
			}
			if response == nil || response.StatusCode != http.StatusForbidden {
				t.Errorf("%s from %s: %v", path, origin, err)
			}
		}
	}
	if a.count() != before {
		t.Errorf("the API server got %s", a.last().URL)
	}
	if code, _ := b.do("GET", "/api/session", ""); code != http.StatusOK {
		t.Errorf("the session is over: %d", code)
	}
}

func TestWebSocketsWithoutAnOriginAreRefused(t *testing.T) {
	b := loggedIn(t, newAPI(t, ok), Config{}, "ann")
	code, _ := b.do("GET", "/api/watch", "", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	if code != http.StatusForbidden {
		t.Errorf("it gets %d", code)
	}
}

func TestOtherHostsAreRefused(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	before := a.count()
	for _, host := range []string{"evil.example", "evil.example:8443", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]:8443", "127.0.0.2"} {
		for _, path := range []string{"/", "/api/session", "/api/k8s/api/v1/secrets", "/assets/main-ABC.js", "/auth/methods"} {
			if code, _ := b.do("GET", path, "", "Host", host); code != http.StatusMisdirectedRequest {
				t.Errorf("%s of %s gets %d", path, host, code)
			}
		}
	}
	for _, host := range []string{"localhost", "localhost:8443", "127.0.0.1", "127.0.0.1:8443", "[::1]:8443"} {
		if code, _ := b.do("GET", "/", "", "Host", host); code != http.StatusOK {
			t.Errorf("%s gets %d", host, code)
		}
	}
	if a.count() != before {
		t.Errorf("the API server got %s", a.last().URL)
	}
}

func TestProxySubresourcesAreRefused(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	before := a.count()
	for _, path := range []string{
		"/api/v1/namespaces/a/pods/b/proxy", "/api/v1/namespaces/a/pods/b/proxy/", "/api/v1/namespaces/a/pods/http:b:80/proxy/index.html",
		"/api/v1/namespaces/a/services/b/proxy/", "/api/v1/nodes/n/proxy/run", "/api/v1/proxy/namespaces/a/pods/b/x", "/api/v1/proxy/nodes/n/",
		"/api/v1/namespaces/a/pods/b/%70roxy/x", "/api/v1/namespaces/a/pods/b/%70%72oxy", "/api/v1/namespaces/a/pods/b%2Fproxy/x", "/api/v1/namespaces/a/pods/b%2fproxy",
		"//api/v1/namespaces/a/pods/b/proxy", "/api/v1/namespaces/a/pods/b//proxy/", "/api/v1/namespaces/a/pods/x/../b/proxy/", "/api/v1/namespaces/a/pods/b/log/../proxy/",
		"/api/v1/namespaces/a/pods/b/%2e%2e/b/proxy", "/api/v1/./nodes/n/proxy",
	} {
		for _, method := range []string{"GET", "POST", "HEAD"} {
			if code, said := b.do(method, "/api/k8s"+path, ""); code < 300 || code == http.StatusBadGateway {
				t.Errorf("%s %s: %d %s", method, path, code, said)
			}
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/logs/", "/", "/.well-known/openid-configuration"} {
		if code, _ := b.do("GET", "/api/k8s"+path, ""); code != http.StatusForbidden {
			t.Errorf("%s gets %d", path, code)
		}
	}
	if a.count() != before {
		t.Errorf("the API server got %s", a.last().URL)
	}
	for _, path := range []string{"/api/v1/namespaces/proxy/pods/proxy", "/api/v1/namespaces/a/configmaps/proxy", "/apis/a.b/v1/proxies", "/version", "/openapi/v3", "/apis"} {
		if code, said := b.do("GET", "/api/k8s"+path, ""); code != http.StatusOK {
			t.Errorf("%s gets %d %s", path, code, said)
		}
	}
}

func TestReadOnlyServerChangesNothing(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{ReadOnly: true}, "ann")
	pod := "/api/v1/namespaces/a/pods/b"
	before := a.count()
	for _, write := range [][]string{
		{"POST", "/api/v1/namespaces/a/pods"}, {"PUT", pod}, {"PATCH", pod}, {"DELETE", pod}, {"DELETE", "/api/v1/namespaces/a/pods"},
		{"POST", pod + "/eviction"}, {"PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale"}, {"POST", "/api/v1/namespaces/a/serviceaccounts/s/token"},
		{"GET", pod + "/exec?command=sh"}, {"POST", pod + "/exec?command=sh"}, {"GET", pod + "/attach"}, {"GET", pod + "/portforward"},
		{"POST", "/apis/authorization.k8s.io/v1/namespaces/a/localsubjectaccessreviews"}, {"POST", "/apis/evil.example/v1/selfsubjectaccessreviews"},
		{"POST", "/api/v1/namespaces/a/pods?dryRun=All"},
	} {
		if code, said := b.do(write[0], "/api/k8s"+write[1], "{}"); code != http.StatusForbidden || !strings.Contains(said, "only reads") {
			t.Errorf("%q: %d %s", write, code, said)
		}
	}
	if conn, _, err := b.dial("/api/k8s"+pod+"/exec?command=sh", "", "v5.channel.k8s.io"); err == nil {
		conn.Close()
		t.Error("a shell is open")
	}
	if a.count() != before {
		t.Errorf("the API server got %s", a.last().URL)
	}
	for _, read := range [][]string{
		{"GET", pod}, {"GET", pod + "/log"}, {"HEAD", pod}, {"POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"}, {"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"},
	} {
		if code, said := b.do(read[0], "/api/k8s"+read[1], "{}"); code != http.StatusOK {
			t.Errorf("%q: %d %s", read, code, said)
		}
	}
}

func TestAnswersDoNotRunInTheBrowser(t *testing.T) {
	b := loggedIn(t, newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", r.URL.Query().Get("type"))
		h.Set("Set-Cookie", "a=b")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Clear-Site-Data", `"cookies"`)
		h.Set("Location", "https://evil.example")
		h.Set("Content-Security-Policy", "default-src *")
		h.Set("Service-Worker-Allowed", "/")
		if r.URL.Query().Has("redirect") {
			w.WriteHeader(http.StatusFound)
		}
		_, _ = io.WriteString(w, "<script>alert(1)</script>")
	}), Config{}, "ann")
	for _, kind := range []string{"text/html", "image/svg%2Bxml", "application/xhtml%2Bxml", "text/javascript", "application/xml", ""} {
		response, _ := b.get("/api/k8s/apis/evil.example/v1/things?type=" + kind)
		h := response.Header
		if h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %v", kind, h)
		}
		for _, name := range []string{"Set-Cookie", "Access-Control-Allow-Origin", "Clear-Site-Data", "Location", "Service-Worker-Allowed"} {
			if h.Get(name) != "" {
				t.Errorf("the browser gets %s: %s", name, h.Get(name))
			}
		}
	}
	if response, _ := b.get("/api/k8s/apis/evil.example/v1/things?type=text/html&redirect"); response.Header.Get("Location") != "" {
		t.Errorf("the browser is sent to %s", response.Header.Get("Location"))
	}
}

func TestHeadersOfAllAnswers(t *testing.T) {
	b := loggedIn(t, newAPI(t, ok), Config{}, "ann")
	for path, cached := range map[string]string{
		"/": "no-store", "/pods/a/b": "no-store", "/api/session": "no-store", "/api/k8s/api/v1/pods": "no-store", "/api/nothing": "no-store", "/auth/methods": "no-store",
		"/assets/main-ABC.js": "public, max-age=31536000, immutable", "/assets/licenses.txt": "no-cache", "/assets/no.js": "no-store",
	} {
		response, _ := b.get(path)
		hasHeaders(t, path, response, cached)
	}
	stranger := open(t, newAPI(t, ok), Config{})
	for request, code := range map[*http.Request]int{
		b.request("POST", "/", ""): http.StatusMethodNotAllowed, b.request("GET", "/pods", "", "Host", "evil.example"): http.StatusMisdirectedRequest,
		b.request("POST", "/auth/token", `{"secret": "wrong"}`): http.StatusUnauthorized, b.request("POST", "/auth/token", "{"): http.StatusBadRequest,
		b.request("POST", "/auth/logout", "", "Sec-Fetch-Site", "cross-site"): http.StatusForbidden, b.request("GET", "/api/session", "", "Sec-Fetch-Site", "same-site"): http.StatusForbidden,
		b.request("GET", "/api/watch", ""): http.StatusBadRequest, b.request("GET", "/api/k8s/api/v1/nodes/a/proxy/", ""): http.StatusForbidden,
		stranger.request("GET", "/api/session", ""): http.StatusUnauthorized, stranger.request("GET", "/api/watch", ""): http.StatusUnauthorized,
	} {
		response, _ := b.send(request)
		hasHeaders(t, request.Method+" "+request.URL.Path, response, "no-store")
		if response.StatusCode != code {
			t.Errorf("%s %s is answered by %d, want %d", request.Method, request.URL.Path, response.StatusCode, code)
		}
	}
}

// hasHeaders fails the test unless an answer has the headers that keep it out of frames, other pages and caches.
func hasHeaders(t *testing.T, what string, response *http.Response, cached string) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": cached,
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := response.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s has %s %q, want %s", what, name, got, want)
		}
	}
	policy := response.Header.Values("Content-Security-Policy")
	if len(policy) != 1 || !strings.HasPrefix(policy[0], "default-src 'none'") || !strings.Contains(policy[0], "frame-ancestors 'none'") {
		t.Errorf("%s has the policy %q", what, policy)
	}
}

func TestInlineScriptsOfThePageAreInItsPolicy(t *testing.T) {
	page := fstest.MapFS{"embedded/index.html.gz": packed("<script>\nlet a\n</script><script nonce=x src=y></script><script>let b</script>")}
	p, err := newPages(page)
	if err != nil {
		t.Fatal(err)
	}
	response, _ := openWith(t, newAPI(t, ok), Config{}, p).get("/")
	policy := response.Header.Get("Content-Security-Policy")
	for _, text := range []string{"\nlet a\n", "let b"} {
		sum := sha256.Sum256([]byte(text))
		if !strings.Contains(policy, " 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
			t.Errorf("%q is not in the policy %s", text, policy)
		}
	}
	if strings.Count(policy, "'sha256-") != 2 {
		t.Errorf("the policy is %s", policy)
	}
}

func TestNoncesDoNotRepeat(t *testing.T) {
	b := loggedIn(t, newAPI(t, ok), Config{}, "ann")
	nonces := map[string]bool{}
	for range 10 {
		response, said := b.get("/")
		policy := response.Header.Get("Content-Security-Policy")
		_, nonce, _ := strings.Cut(policy, "'nonce-")
		nonce, _, _ = strings.Cut(nonce, "'")
		nonces[nonce] = true
		if len(nonce) < 20 || said != `<script nonce="`+nonce+`"></script>` {
			t.Errorf("the nonce is %q, the page %s", nonce, said)
		}
		for _, unsafe := range []string{"unsafe-inline", "unsafe-eval", "*", "http:", "strict-dynamic"} {
			if strings.Contains(policy, unsafe) {
				t.Errorf("the policy has %s: %s", unsafe, policy)
			}
		}
	}
	if len(nonces) != 10 {
		t.Errorf("nonces repeat: %v", nonces)
	}
}

func TestAssetsAreSentCompressedOrNot(t *testing.T) {
	b := open(t, newAPI(t, ok), Config{})
	if _, said := b.get("/assets/main-ABC.js"); said != "let a" { // the client asks for gzip and unpacks
		t.Errorf("it is %q", said)
	}
	if response, said := b.get("/assets/main-ABC.js", "Accept-Encoding", "identity"); said != "let a" || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/javascript") {
		t.Errorf("it is %q of type %s", said, response.Header.Get("Content-Type"))
	}
	for _, path := range []string{"/assets/index.html", "/assets/.stamp", "/assets/..%2fserver.go"} {
		if code, _ := b.do("GET", path, ""); code != http.StatusNotFound {
			t.Errorf("%s gets %d", path, code)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	if code, _ := b.do("POST", "/api/k8s/api/v1/namespaces/a/pods", strings.Repeat("x", maxBody)); code != http.StatusOK {
		t.Errorf("the largest object gets %d", code)
	}
	if code, said := b.do("POST", "/api/k8s/api/v1/namespaces/a/pods", strings.Repeat("x", maxBody+1)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a larger one gets %d %s", code, said)
	}
	if code, _ := b.do("POST", "/auth/token", `{"secret": "token-of-`+strings.Repeat("x", maxLogin)+`"}`); code != http.StatusBadRequest {
		t.Errorf("a huge token gets %d", code)
	}
	conn := b.follow()
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"op": "`+strings.Repeat("x", maxCall)+`"}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.ReadMessage(); err == nil {
		t.Error("the socket is open after a huge call")
	}
}

func TestSocketsAndSubscriptionsAreBounded(t *testing.T) {
	b := loggedIn(t, newAPI(t, ok), Config{}, "ann")
	first := b.follow()
	for i := 1; i < maxSockets; i++ {
		b.follow()
	}
	if _, response, err := b.dial("/api/watch", ""); err == nil || response.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one socket more gets %v", err)
	}
	_ = first.Close()
	many, _, err := b.dial("/api/watch", "")
	for deadline := time.Now().Add(10 * time.Second); err != nil; many, _, err = b.dial("/api/watch", "") { // until the server has seen it
		if time.Now().After(deadline) {
			t.Fatal("a closed socket still counts")
		}
	}
	defer many.Close()
	for i := range maxFollowed + 1 {
		if err := many.WriteJSON(call{ID: i + 1, Op: "open", Mode: "lines", Path: "/api/v1/namespaces/a/pods/proxy/proxy"}); err != nil {
			t.Fatal(err)
		}
	}
	for range maxFollowed + 1 {
		if f := b.next(many); f.Code != http.StatusForbidden {
			t.Errorf("a proxied path gets %+v", f)
		}
	}
}

func TestLogoutEndsWhatIsUnderWay(t *testing.T) {
	upgraded := make(chan struct{})
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if websocket.IsWebSocketUpgrade(r) {
			conn, err := (&websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}).Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			close(upgraded)
			_, _, _ = conn.ReadMessage()
			return
		}
		ok(w, r)
	})
	b := loggedIn(t, a, Config{}, "ann")
	shell, _, err := b.dial("/api/k8s/api/v1/namespaces/a/pods/b/exec?command=sh", "", "v5.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	<-upgraded
	watch := b.follow()
	if code, _ := b.do("POST", "/auth/logout", ""); code != http.StatusNoContent {
		t.Fatalf("logging out gets %d", code)
	}
	for name, conn := range map[string]*websocket.Conn{"shell": shell, "watch": watch} {
		if _, _, err := conn.ReadMessage(); err == nil {
			t.Errorf("the %s goes on", name)
		}
	}
	if code, _ := b.do("GET", "/api/session", ""); code != http.StatusUnauthorized {
		t.Errorf("the session gets %d", code)
	}
}

func TestOnlyPodsTakeWebSockets(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	before := a.count()
	for _, path := range []string{"/api/v1/namespaces/a/pods?watch=1", "/apis/evil.example/v1/namespaces/a/pods/b/exec", "/api/v1/namespaces/a/services/b/exec"} {
		if conn, _, err := b.dial("/api/k8s"+path, ""); err == nil {
			conn.Close()
			t.Errorf("%s is upgraded", path)
		}
	}
	if a.count() != before {
		t.Errorf("the API server got %s", a.last().URL)
	}
}

func TestSchedulerGetsTheCallersCredentials(t *testing.T) {
	scheduler := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token-of-ann" {
			http.Error(w, "user x may not get this", http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, r.URL.String()+"\n")
	}))
	defer scheduler.Close()
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{StatusAddress: strings.TrimPrefix(scheduler.URL, "https://")}, "ann")
	if code, said := b.do("GET", "/api/mesos/queue/reasons?a=b", "", "Authorization", "Bearer other"); code != http.StatusOK || said != "/debug/queue/reasons?a=b\n" {
		t.Errorf("it gets %d %s", code, said)
	}
	for _, path := range []string{"/api/mesos/", "/api/mesos/metrics", "/api/mesos/../debug/pprof/", "/api/mesos/debug/pprof/profile", "/api/mesos/state/../../debug/pprof/"} {
		if code, _ := b.do("GET", path, ""); code == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
	conn := b.follow(call{ID: 7, Mode: "lines", Path: "/api/mesos/state?watch=true"})
	if f := b.next(conn); f.ID != 7 || f.State != "live" {
		t.Errorf("it begins with %+v", f)
	}
	if f := b.next(conn); f.Lines != "/mesos/state?watch=true\n" {
		t.Errorf("it goes on with %+v", f)
	}
	if f := b.next(conn); f.State != "ended" {
		t.Errorf("it ends with %+v", f)
	}
	other := loggedIn(t, a, Config{StatusAddress: strings.TrimPrefix(scheduler.URL, "https://")}, "bob")
	if code, said := other.do("GET", "/api/mesos/state", ""); code != http.StatusForbidden || !strings.Contains(said, "may not get this") {
		t.Errorf("another user gets %d %s", code, said)
	}
	none := loggedIn(t, a, Config{}, "ann")
	if code, said := none.do("GET", "/api/mesos/state", ""); code != http.StatusNotFound || !strings.Contains(said, "knows no scheduler") {
		t.Errorf("without a scheduler: %d %s", code, said)
	}
}
