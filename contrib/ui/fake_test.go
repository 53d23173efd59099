package ui

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/certfile"
)

// fakeAPI is an API server that knows the users of tokens, and remembers what it was asked.
type fakeAPI struct {
	*httptest.Server
	handler http.Handler // of what is no question about the user

	mu   sync.Mutex // guards seen
	seen []*http.Request
}

func newAPI(t *testing.T, handler http.HandlerFunc) *fakeAPI {
	t.Helper()
	a := &fakeAPI{handler: handler}
	a.Server = httptest.NewTLSServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen = append(a.seen, r)
	a.mu.Unlock()
	user, known := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer token-of-")
	if !known {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	if r.URL.Path == "/apis/authentication.k8s.io/v1/selfsubjectreviews" && r.Method == http.MethodPost {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"status": {"userInfo": {"username": %q, "groups": ["people"]}}}`, user)
		return
	}
	a.handler.ServeHTTP(w, r)
}

// last is the last request.
func (a *fakeAPI) last() *http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[len(a.seen)-1]
}

// since are the requests after the first ones.
func (a *fakeAPI) since(first int) []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[first:]
}

func (a *fakeAPI) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

func (a *fakeAPI) config(token string) *rest.Config {
	return &rest.Config{Host: a.URL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func packed(text string) *fstest.MapFile {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	w.Close()
	return &fstest.MapFile{Data: b.Bytes()}
}

var emptyPage = fstest.MapFS{
	"embedded/index.html.gz": packed(`<script nonce="{{nonce}}"></script>`), "embedded/main-ABC.js.gz": packed("let a"),
	"embedded/licenses.txt.gz": packed("MIT"),
}

// certificate is made once: that takes a while.
var certificate = sync.OnceValues(func() (tls.Certificate, error) { return selfSigned(nil) })

// browser is a client of a server.
type browser struct {
	*testing.T
	server *Server
	http   *http.Client
}

// open runs a server and returns a browser that has not logged in.
func open(t *testing.T, a *fakeAPI, c Config) *browser {
	t.Helper()
	p, err := newPages(emptyPage)
	if err != nil {
		t.Fatal(err)
	}
	return openWith(t, a, c, p)
}

// openWith is open with another page than an empty one.
func openWith(t *testing.T, a *fakeAPI, c Config, p *pages) *browser {
	t.Helper()
	c.Address = "127.0.0.1:0"
	s, err := listen(c, p)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.use(a.config(""), certfile.FixedPair(&pair)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	b := &browser{T: t, server: s}
	b.http = b.anew()
	return b
}

func (b *browser) anew() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// loggedIn is open, and has logged in as the user.
func loggedIn(t *testing.T, a *fakeAPI, c Config, user string) *browser {
	t.Helper()
	b := open(t, a, c)
	if code, said := b.do("POST", "/auth/token", `{"secret": "token-of-`+user+`"}`); code != http.StatusNoContent {
		t.Fatalf("logging in: %d %s", code, said)
	}
	return b
}

// request is a request with pairs of headers.
func (b *browser) request(method, path, body string, headers ...string) *http.Request {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, strings.TrimSuffix(b.server.URL(), "/")+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
	}
	return r
}

func (b *browser) get(path string, headers ...string) (*http.Response, string) {
	b.Helper()
	return b.send(b.request("GET", path, "", headers...))
}

func (b *browser) send(r *http.Request) (*http.Response, string) {
	b.Helper()
	response, err := b.http.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	return response, string(data)
}

func (b *browser) do(method, path, body string, headers ...string) (int, string) {
	b.Helper()
	response, said := b.send(b.request(method, path, body, headers...))
	return response.StatusCode, said
}

// dial opens a WebSocket with the browser's cookies, from a page of an origin; "" is this server's.
func (b *browser) dial(path, origin string, protocols ...string) (*websocket.Conn, *http.Response, error) {
	b.Helper()
	at, _ := url.Parse(b.server.URL())
	if origin == "" {
		origin = "https://" + at.Host
	}
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Jar: b.http.Jar, Subprotocols: protocols}
	return dialer.DialContext(b.Context(), "wss://"+at.Host+path, http.Header{"Origin": {origin}})
}

// follow opens a socket and subscriptions.
func (b *browser) follow(calls ...call) *websocket.Conn {
	b.Helper()
	conn, _, err := b.dial("/api/watch", "")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	for _, c := range calls {
		c.Op = "open"
		if err := conn.WriteJSON(c); err != nil {
			b.Fatal(err)
		}
	}
	return conn
}

// next reads a frame.
func (b *browser) next(conn *websocket.Conn) frame {
	b.Helper()
	var f frame
	if err := conn.ReadJSON(&f); err != nil {
		b.Fatalf("no frame: %v", err)
	}
	return f
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
	http.NewResponseController(w).Flush()
}
