package ui

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// raw sends bytes to the server as they are, and returns the answers until the server closes the connection. CRLF ends each line, and
// COOKIE is the session's.
func (b *browser) raw(text string) string {
	b.Helper()
	at, _ := url.Parse(b.server.URL())
	var cookies []string
	for _, c := range b.http.Jar.Cookies(at) {
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	conn, err := tls.Dial("tcp", b.server.Addr(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.Fatal(err)
	}
	text = strings.NewReplacer("\n", "\r\n", "COOKIE", "Cookie: "+strings.Join(cookies, "; ")).Replace(text)
	if _, err := io.WriteString(conn, text); err != nil {
		return err.Error() // it was cut off
	}
	// The first answer, and what else comes soon. A client that closes its side has gone, and is not served.
	from := bufio.NewReader(conn)
	method, _, _ := strings.Cut(text, " ") // what answers HEAD has no body to wait for
	first, err := http.ReadResponse(from, &http.Request{Method: method})
	if err != nil {
		return err.Error()
	}
	var answer bytes.Buffer
	_ = first.Write(&answer)
	if !first.Close {
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = io.Copy(&answer, from)
	}
	return answer.String()
}

func TestRequestsInRequestsAreNotSentOn(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	const inner = "DELETE /api/v1/namespaces/a/secrets/x HTTP/1.1\nHost: x\n\n"
	for name, request := range map[string]string{
		"length and chunks":    "POST /api/k8s/api/v1/namespaces/a/pods HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nContent-Length: 4\nTransfer-Encoding: chunked\nConnection: close\n\n0\n\n" + inner,
		"two lengths":          "POST /api/k8s/api/v1/namespaces/a/pods HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nContent-Length: 0\nContent-Length: 60\nConnection: close\n\n" + inner,
		"a space":              "POST /api/k8s/api/v1/namespaces/a/pods HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nTransfer-Encoding : chunked\nConnection: close\n\n0\n\n" + inner,
		"another encoding":     "POST /api/k8s/api/v1/namespaces/a/pods HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nTransfer-Encoding: xchunked\nConnection: close\n\n0\n\n" + inner,
		"a folded header":      "POST /api/k8s/api/v1/namespaces/a/pods HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nX: a\n Transfer-Encoding: chunked\nContent-Length: 0\nConnection: close\n\n" + inner,
		"an encoded line":      "GET /api/k8s/api/v1/pods%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0aDELETE%20/api/v1/secrets HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: close\n\n",
		"an upgrade":           "GET /api/k8s/api/v1/namespaces/a/pods HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: Upgrade\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n\n" + inner,
		"no upgrade, and SPDY": "POST /api/k8s/api/v1/namespaces/a/pods/b/exec HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nUpgrade: SPDY/3.1\nContent-Length: 0\nConnection: close\n\n" + inner,
	} {
		before := a.count()
		answer := b.raw(request)
		for _, r := range a.since(before) {
			if r.Method == http.MethodDelete || strings.Contains(r.URL.Path, "secrets") && !strings.Contains(r.URL.Path, "HTTP/1.1") || r.Header.Get("Upgrade") == "h2c" {
				t.Errorf("%s: the API server got %s %s, and the browser %s", name, r.Method, r.URL, answer)
			}
		}
	}
}

func TestConnectionHeadersTakeNothingAway(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	for _, connection := range []string{"Authorization", "close, Authorization, X-Forwarded-For", "keep-alive, Authorization", "Authorization, Upgrade"} {
		if answer := b.raw("GET /api/k8s/api/v1/pods HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: " + connection + "\nTE: trailers\nProxy-Connection: Authorization\n\n"); !strings.HasPrefix(answer, "HTTP/1.1 200") && !strings.HasPrefix(answer, "HTTP/1.1 403") {
			t.Errorf("Connection: %s is answered by %s", connection, answer)
		}
		seen := a.last()
		if seen.Header.Get("Authorization") != "Bearer token-of-ann" || strings.Contains(seen.Header.Get("Connection"), "uthorization") || seen.Header.Get("Proxy-Connection") != "" {
			t.Errorf("with Connection: %s, the API server gets %v", connection, seen.Header)
		}
	}
	_, response, err := b.dial("/api/k8s/api/v1/namespaces/a/pods/b/exec?command=sh", "", "v5.channel.k8s.io")
	if err == nil || response == nil {
		t.Fatal("a server that does not upgrade did")
	}
	response.Body.Close()
	if got := a.last().Header.Values("Connection"); len(got) != 1 || got[0] != "Upgrade" {
		t.Errorf("the API server gets Connection %q", got)
	}
}

func TestOddRequestsReachNoAPI(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	before := a.count()
	for request, want := range map[string]string{
		"GET https://evil.example/api/k8s/api/v1/secrets HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: close\n\n": "421",
		"GET /api/k8s/api/v1/secrets HTTP/1.1\nHost: evil.example\nCOOKIE\nConnection: close\n\n":                  "421",
		"GET /api/k8s/api/v1/secrets HTTP/1.0\nCOOKIE\n\n":                                                         "421",
		"GET /api/k8s/api/v1/secrets HTTP/1.1\nCOOKIE\nConnection: close\n\n":                                      "400", // no Host
		"CONNECT 127.0.0.1:443 HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: close\n\n":                           "4",
		"TRACE /api/k8s/api/v1/secrets HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nX: secret\nConnection: close\n\n":        "403",
		"OPTIONS * HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: close\n\n":                                       "",
		"GET /api/k8s HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: close\n\n":                                    "",
		"GET /api/k8s/ HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nConnection: close\n\n":                                   "403",
		"GET / HTTP/1.1\nHost: 127.0.0.1\nX: " + strings.Repeat("x", 2<<20) + "\nConnection: close\n\n":            "431",
	} {
		answer := b.raw(request)
		if want != "" && !strings.HasPrefix(answer, "HTTP/1.1 "+want) && !strings.HasPrefix(answer, "HTTP/1.0 "+want) && (want != "431" || strings.HasPrefix(answer, "HTTP/1.1 2")) {
			t.Errorf("%.80q gets %.300s", request, answer)
		}
		if strings.Contains(answer, "secret\r\n") {
			t.Errorf("%.80q is echoed", request)
		}
	}
	if a.count() != before {
		t.Errorf("the API server got %s", a.last().URL)
	}
}

func TestNoSpellingOfProxyReachesTheAPIServer(t *testing.T) {
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{}, "ann")
	spellings := []string{"proxy", "PROXY", "Proxy", "pro%78y", "%2570roxy", "%25%37%30roxy", "proxy;x", "proxy%3bx", "proxy%00", "proxy%20", "proxy%0a", "proxy%2f", "proxy%5c", "proxy.", "%2e/proxy", "./proxy", "x/../proxy",
		"x/%2e%2e/proxy", "x%2f..%2fproxy", "/proxy", "%2fproxy", "%e2%80%ae/proxy", "prox%c1%b9", "prox\u0079", "proxy?x", "proxy%3fx", "proxy%23", "proxy/http:/x"}
	for _, at := range []string{"/api/v1/namespaces/a/pods/b/", "/api/v1/namespaces/a/services/https:b:443/", "/api/v1/nodes/n/", "/apis/evil.example/v1/namespaces/a/things/b/", "/api/v1/", "/api//v1/namespaces/a/pods/b/"} {
		for _, s := range spellings {
			before := a.count()
			for _, method := range []string{"GET", "POST"} {
				b.raw(method + " /api/k8s" + at + s + " HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nContent-Length: 0\nConnection: close\n\n")
			}
			for _, r := range a.since(before) {
				info, err := resolver.NewRequestInfo(r)
				if err != nil || info.Subresource == "proxy" || info.Verb == "proxy" || strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "/../") {
					t.Errorf("%s%s becomes %s %s at the API server: %+v, %v", at, s, r.Method, r.URL, info, err)
				}
			}
		}
	}
}

func TestReadOnlyServerTakesNoWriteInDisguise(t *testing.T) {
	t.Parallel()
	a := newAPI(t, ok)
	b := loggedIn(t, a, Config{ReadOnly: true}, "ann")
	const pod = "/api/k8s/api/v1/namespaces/a/pods/b"
	for _, request := range []string{
		"patch " + pod, "Delete " + pod, "PROPFIND " + pod, "COPY " + pod, "DELETE " + pod + "/", "POST " + pod + "/binding", "PUT " + pod + "/resize", "PATCH " + pod + "/ephemeralcontainers", "PUT " + pod + "/status",
		"POST " + pod + "/eviction", "POST " + pod + "/attach", "POST " + pod + "/portforward", "GET " + pod + "/exec/", "GET " + pod + "/exec?stdin=true&command=sh", "HEAD " + pod + "/exec?command=sh",
		"POST /api/k8s/apis/authentication.k8s.io/v1/tokenreviews", "POST /api/k8s/apis/authorization.k8s.io/v1/subjectaccessreviews", "POST /api/k8s/apis/certificates.k8s.io/v1/certificatesigningrequests",
		"POST /api/k8s/api/v1/namespaces/a/serviceaccounts/x/token", "PUT /api/k8s/apis/apps/v1/namespaces/a/deployments/d/scale", "DELETE /api/k8s/api/v1/namespaces/a/pods?dryRun=All",
		"POST /api/k8s/apis/authorization.k8s.io.evil.example/v1/selfsubjectaccessreviews",
		"POST /api/k8s/apis/authorization.k8s.io/v1/namespaces/a/selfsubjectaccessreviews/x/status",
	} {
		for _, more := range []string{"", "X-HTTP-Method-Override: DELETE\n", "Connection: keep-alive, uPgRaDe\nUpgrade: WebSocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nOrigin: ORIGIN\n", "Connection: Upgrade\nUpgrade: SPDY/3.1\nOrigin: ORIGIN\n"} {
			before := a.count()
			answer := b.raw(request + " HTTP/1.1\nHost: " + b.server.Addr() + "\nCOOKIE\n" + strings.ReplaceAll(more, "ORIGIN", "https://"+b.server.Addr()) + "Content-Length: 2\n\n{}")
			for _, r := range a.since(before) {
				t.Errorf("%s with %q is sent on as %s %s", request, more, r.Method, r.URL)
			}
			if !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("%s with %q gets %.200s", request, more, answer)
			}
		}
	}
	// A read stays a read, whatever else the request says.
	answer := b.raw("GET /api/k8s/api/v1/pods?_method=DELETE HTTP/1.1\nHost: 127.0.0.1\nCOOKIE\nX-HTTP-Method-Override: DELETE\nX-Method-Override: DELETE\nConnection: close\n\n")
	if seen := a.last(); seen.Method != http.MethodGet || seen.Header.Get("X-HTTP-Method-Override")+seen.Header.Get("X-Method-Override") != "" {
		t.Errorf("the API server gets %s %v, and the browser %s", seen.Method, seen.Header, answer)
	}
}

func TestSessionsAreNotFixed(t *testing.T) {
	b := open(t, newAPI(t, ok), Config{})
	at, _ := url.Parse(b.server.URL())
	b.http.Jar.SetCookies(at, []*http.Cookie{{Name: b.server.cookie, Value: "chosen-by-an-attacker", Path: "/", Secure: true}})
	if code, _ := b.do("POST", "/auth/token", `{"secret": "token-of-ann"}`); code != http.StatusNoContent {
		t.Fatalf("logging in gets %d", code)
	}
	first := b.http.Jar.Cookies(at)[0].Value
	if first == "chosen-by-an-attacker" {
		t.Error("the session has the id that was there before")
	}
	stolen := &browser{T: t, server: b.server, http: b.anew()}
	for _, id := range []string{"chosen-by-an-attacker", ""} {
		stolen.http.Jar.SetCookies(at, []*http.Cookie{{Name: b.server.cookie, Value: id, Path: "/", Secure: true}})
		if code, _ := stolen.do("GET", "/api/session", ""); code != http.StatusUnauthorized {
			t.Errorf("the id %q gets %d", id, code)
		}
	}
	// Who logs in once more has another session, and the one before is over.
	if code, _ := b.do("POST", "/auth/token", `{"secret": "token-of-bob"}`); code != http.StatusNoContent {
		t.Fatalf("logging in again gets %d", code)
	}
	stolen.http.Jar.SetCookies(at, []*http.Cookie{{Name: b.server.cookie, Value: first, Path: "/", Secure: true}})
	if code, _ := stolen.do("GET", "/api/session", ""); code != http.StatusUnauthorized {
		t.Errorf("the session before gets %d", code)
	}
}

func TestKeyWorksOnceForManyAtATime(t *testing.T) {
	a := newAPI(t, ok)
	b := open(t, a, Config{})
	link, err := b.server.Link(t.Context(), a.config("token-of-admin"))
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(link, "#key=")
	codes := make(chan int, 8)
	for range cap(codes) {
		go func() {
			jar, _ := cookiejar.New(nil)
			client := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
			response, err := client.Post(b.server.URL()+"auth/key", "application/json", strings.NewReader(fmt.Sprintf(`{"secret": %q}`, key)))
			if err != nil {
				codes <- 0
				return
			}
			response.Body.Close()
			codes <- response.StatusCode
		}()
	}
	good := 0
	for range cap(codes) {
		if <-codes == http.StatusNoContent {
			good++
		}
	}
	if good != 1 {
		t.Errorf("the key is good %d times", good)
	}
}

func TestSessionEndsWithItsToken(t *testing.T) {
	b := open(t, newAPI(t, ok), Config{})
	claims := func(text string) string {
		return "token-of-x." + base64.RawURLEncoding.EncodeToString([]byte(text)) + ".signature"
	}
	soon := time.Now().Add(2 * time.Second)
	if code, _ := b.do("POST", "/auth/token", fmt.Sprintf(`{"secret": %q}`, claims(fmt.Sprintf(`{"exp": %d}`, soon.Unix())))); code != http.StatusNoContent {
		t.Fatalf("logging in gets %d", code)
	}
	watch := b.follow()
	if err := watch.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := watch.ReadMessage(); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the socket goes on when the token has expired: %v", err)
	}
	if code, _ := b.do("GET", "/api/session", ""); code != http.StatusUnauthorized {
		t.Errorf("the session gets %d when its token has expired", code)
	}
	for _, odd := range []string{"a", "a.b.c", claims(`{}`), claims(`{"exp": "never"}`), claims(`{"exp": -1}`), claims(`null`)} {
		if at := expiryOf(odd); !at.IsZero() {
			t.Errorf("%s expires at %s", odd, at)
		}
	}
}

func TestSlowClientsAreDisconnected(t *testing.T) {
	t.Parallel()
	b := loggedIn(t, newAPI(t, ok), Config{}, "ann")
	conn, err := tls.Dial("tcp", b.server.Addr(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(limits.Header + 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = bufio.NewReader(conn).ReadString('\n')
	var late net.Error
	if timeout, ok := err.(net.Error); ok {
		late = timeout
	}
	if err == nil || late != nil && late.Timeout() {
		t.Errorf("a header that never ends is waited for: %v", err)
	}
}

func TestOddFramesEndTheSocketOnly(t *testing.T) {
	b := loggedIn(t, newAPI(t, ok), Config{}, "ann")
	for _, odd := range []string{"{", "[]", `{"id": "x"}`, "\x00\xff", `{"id": 99999999999999999999}`, strings.Repeat("[", 16000)} {
		conn := b.follow()
		if err := conn.WriteMessage(websocket.BinaryMessage, []byte(odd)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.ReadMessage(); err == nil {
			t.Errorf("%.20q is answered", odd)
		}
	}
	conn := b.follow(call{ID: 1, Mode: "nothing", Path: "/api/v1/namespaces/a/pods/x/proxy"}, call{ID: 2, Mode: "table", Path: "https://evil.example/api/v1/pods"}, call{ID: 3, Mode: "table", Path: "//evil.example/api"})
	for range 3 {
		if f := b.next(conn); f.State != "ended" || f.Code != http.StatusForbidden {
			t.Errorf("a bad subscription gets %+v", f)
		}
	}
	if code, _ := b.do("GET", "/api/session", ""); code != http.StatusOK {
		t.Errorf("the session gets %d", code)
	}
}

func TestAssetsAreNoOtherFiles(t *testing.T) {
	b := open(t, newAPI(t, ok), Config{})
	for _, path := range []string{"/assets/../index.html", "/assets/%2e%2e/index.html", "/assets/..%2findex.html", "/assets//etc/passwd", "/assets/%00", "/assets/main-ABC.js%00.txt", "/assets/..%5cserver.go", "/assets/main-ABC.js/", "/assets/", "/assets/.", "/assets/main-ABC.js.gz"} {
		answer := b.raw("GET " + path + " HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n\n")
		if strings.HasPrefix(answer, "HTTP/1.1 200") && !strings.Contains(answer, "<script nonce=") || strings.Contains(answer, "root:") {
			t.Errorf("%s gets %s", path, answer)
		}
	}
}

func TestLogInLeadsBackToThisServerOnly(t *testing.T) {
	for to, want := range map[string]string{
		"/pods?ns=a&q=%22x": "/pods?ns=a&q=%22x", "/": "/", "": "/", "pods": "/", "//evil.example": "/", "///evil.example": "/", "https://evil.example/": "/", "https:evil.example": "/", "/\\evil.example": "/",
		"\\\\evil.example": "/", "/\t/evil.example": "/", "javascript:alert(1)": "/", "/\r\nSet-Cookie: a=b": "/", "/a/%2e%2e//evil.example": "/a/%2e%2e//evil.example", "/" + strings.Repeat("x", maxReturn): "/", "/%zz": "/",
	} {
		if got := ownPath(to); got != want {
			t.Errorf("%q leads to %q, want %q", to, got, want)
		}
	}
}
