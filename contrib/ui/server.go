package ui

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/api/health"
	"github.com/k8sm/k8sm/api/profiling"
)

// limits of browsers. Behind one address may be a whole company, so it gets as much as all.
var limits = connlimit.Limits{Connections: 1024, PerClient: 512, Header: 5 * time.Second, Request: 30 * time.Second, Answer: 5 * time.Minute}

const (
	maxLogin  = 64 << 10 // bytes of a request to log in
	maxLogins = 16       // that are checked at once
)

// Server serves the page. It has taken its port.
type Server struct {
	cfg      Config
	listener net.Listener
	pages    *pages
	pair     *certfile.Pair // of the server: callers know it by its names only
	secured  *tls.Config
	server   *rest.Config // the API server, without anybody's credentials
	ready    health.Check // whether the API server answers
	sessions *sessions
	logins   chan struct{} // has a value for each login that is being checked
	cookie   string        // its name
	leader   leader
	issuer   *issuer // nil without OpenID Connect
	metrics  *metrics
}

// Listen takes the port, so that a port in use is an error before anything starts. The caller must call Run or Close.
func Listen(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	p, err := newPages(embedded)
	if err != nil {
		return nil, err
	}
	return listen(c, p)
}

func listen(c Config, p *pages) (*Server, error) {
	l, err := net.Listen("tcp", c.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot serve the web page on %s: %w; stop the program that uses it, or give another --%s", c.Address, syscall.EADDRINUSE, c.flag("address"))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot serve the web page: %w; give another --%s", err, c.flag("address"))
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	// Cookies are not bound to ports: another server on this machine has another name.
	s := &Server{cfg: c, listener: l, pages: p, sessions: newSessions(), logins: make(chan struct{}, maxLogins), cookie: "__Host-k8sm-" + port}
	if c.OIDC.IssuerURL != "" {
		if s.issuer, err = newIssuer(c.OIDC, s); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	s.metrics = newMetrics(s.sessions)
	s.leader.ask = c.Scheduler
	if c.StatusAddress != "" {
		s.leader.ask = func(context.Context) (string, error) { return c.StatusAddress, nil }
	}
	return s, nil
}

// Addr returns the address at which the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close frees the port. It is for a Server that never runs.
func (s *Server) Close() error { return s.listener.Close() }

// URL is where a browser on this machine finds the page.
func (s *Server) URL() string {
	host, port, _ := net.SplitHostPort(s.Addr())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port) + "/"
}

// Connect reads the certificate and the API server's address, which may come into being after the port was taken. The certificate is
// that of Config, or else this one. Call it once, before Link and Run.
func (s *Server) Connect(server *rest.Config, certFile, keyFile string) error {
	if s.cfg.CertFile != "" {
		certFile, keyFile = s.cfg.CertFile, s.cfg.KeyFile
	}
	pair := certfile.NewPair(certFile, keyFile)
	if _, err := pair.Get(); err != nil {
		return fmt.Errorf("cannot read the certificate of the web page: %w; give --%s and --%s", err, s.cfg.flag("cert-file"), s.cfg.flag("private-key-file"))
	}
	return s.use(server, pair)
}

// ConnectAlone is Connect without a certificate of a cluster: unless Config has one, the server makes one that it has until it ends.
func (s *Server) ConnectAlone(server *rest.Config) error {
	if s.cfg.CertFile != "" {
		return s.Connect(server, "", "")
	}
	pair, err := selfSigned(s.cfg.Names())
	if err != nil {
		return fmt.Errorf("cannot make a certificate for the web page: %w", err)
	}
	return s.use(server, certfile.FixedPair(&pair))
}

// selfSigned makes a certificate for loopback and these names and addresses.
func selfSigned(names []string) (tls.Certificate, error) {
	addresses, hosts := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, []string(nil)
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			addresses = append(addresses, ip)
		} else {
			hosts = append(hosts, name)
		}
	}
	certificate, key, err := cert.GenerateSelfSignedCertKey("localhost", addresses, hosts)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificate, key)
}

func (s *Server) use(server *rest.Config, pair *certfile.Pair) error {
	suites, err := cliflag.TLSCipherSuites(api.CipherSuites())
	if err != nil {
		return fmt.Errorf("cannot serve the web page: %w", err)
	}
	s.pair, s.server = pair, rest.AnonymousClientConfig(server)
	if s.ready, err = health.APIServer(server); err != nil {
		return fmt.Errorf("cannot serve the web page: %w", err)
	}
	s.secured, err = certfile.Server(&tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: suites}, pair, "")
	return err
}

// Link returns a URL that logs a browser in as the owner of the credentials, once.
func (s *Server) Link(ctx context.Context, as *rest.Config) (string, error) {
	who, err := newCaller(ctx, as)
	if err != nil {
		return "", fmt.Errorf("cannot make a link to the web page: %w", err)
	}
	return s.URL() + "#key=" + s.sessions.addKey(who), nil
}

// Run serves until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context) error {
	defer s.listener.Close()
	defer s.sessions.finishAll()
	context.AfterFunc(ctx, s.sessions.finishAll)
	if err := limits.Serve(ctx, s.listener, s.secured, s.handler()); err != nil {
		return fmt.Errorf("cannot serve the web page any more: %w", err)
	}
	return nil
}

// handler serves the page to everybody, and the rest to callers who have logged in.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /assets/{name}", s.pages.serveAsset)
	mux.HandleFunc("/", s.pages.serveIndex)
	health.Handle(mux, func(context.Context) error { return nil }, s.ready)
	mux.HandleFunc("GET /auth/methods", s.serveMethods)
	mux.HandleFunc("POST /auth/key", s.logInByKey)
	mux.HandleFunc("POST /auth/token", s.logInByToken)
	mux.HandleFunc("POST /auth/logout", s.logOut)
	if s.issuer != nil {
		mux.HandleFunc("GET /auth/oidc", s.issuer.begin)
		mux.HandleFunc("GET "+callbackPath, s.issuer.end)
	}
	mux.Handle("GET /metrics", s.pageOr(s.readers(s.metrics.handler())))
	mux.Handle("GET "+profiling.Path, s.readers(profiling.Handler()))
	mux.Handle("/api/", http.NotFoundHandler())
	mux.Handle("GET /api/session", s.only(s.serveSession))
	mux.Handle("/api/k8s/", s.only(s.serveKubernetes))
	mux.Handle("GET /api/watch", s.only(s.serveWatch))
	mux.Handle("GET /api/mesos/{name...}", s.only(s.serveMesos))
	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusForbidden, errForeign) }))
	return s.metrics.count(s.guard(foreign.Handler(mux)))
}

// pageOr serves the page to people, and next to programs: /metrics is one of the page's own paths, which a browser asks for when it is
// loaded there.
func (s *Server) pageOr(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" && strings.Contains(r.Header.Get("Accept"), "text/html") {
			s.pages.serveIndex(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guard sets the headers that all answers have, and refuses requests that are for another host: by such a name a page of another server
// could read from this one (DNS rebinding).
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
		h.Set("Cache-Control", "no-store")
		if !s.known(r.Host) {
			refuse(w, http.StatusMisdirectedRequest, fmt.Errorf("this server is not %s: its certificate has other names", hostOf(r.Host)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known tells whether a host is one of the certificate's names.
func (s *Server) known(host string) bool {
	leaf, err := s.pair.Leaf()
	return err == nil && leaf.VerifyHostname(hostOf(host)) == nil
}

func hostOf(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return strings.Trim(hostPort, "[]")
}

// only serves callers who have logged in, from this server's page.
func (s *Server) only(serve func(http.ResponseWriter, *http.Request, *session)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
			refuse(w, http.StatusForbidden, errForeign)
			return
		}
		of := s.sessionOf(r)
		if of == nil {
			refuse(w, http.StatusUnauthorized, errors.New("log in first"))
			return
		}
		serve(w, r, of)
	})
}

func (s *Server) sessionOf(r *http.Request) *session {
	cookie, err := r.Cookie(s.cookie)
	if err != nil {
		return nil
	}
	return s.sessions.find(cookie.Value)
}

// sameOrigin tells whether a page of this server sent the request. All browsers send Origin with WebSockets.
func sameOrigin(r *http.Request) bool {
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Scheme == "https" && origin.Host == r.Host
}

// serveMethods tells how one can log in.
func (s *Server) serveMethods(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"token": true, "oidc": s.issuer != nil, "readOnly": s.cfg.ReadOnly})
}

// logInByKey takes a one-time key.
func (s *Server) logInByKey(w http.ResponseWriter, r *http.Request) {
	s.logIn(w, r, func(_ context.Context, key string) (*caller, error) { return s.sessions.useKey(key) })
}

// logInByToken takes a bearer token that the API server knows.
func (s *Server) logInByToken(w http.ResponseWriter, r *http.Request) {
	s.logIn(w, r, s.byToken)
}

func (s *Server) byToken(ctx context.Context, token string) (*caller, error) {
	if token = strings.TrimSpace(token); token == "" || strings.ContainsAny(token, " \t\r\n") {
		return nil, errStranger
	}
	config := rest.CopyConfig(s.server)
	config.BearerToken = token
	who, err := newCaller(ctx, config)
	if err == nil {
		who.expires = expiryOf(token)
	}
	return who, err
}

// expiryOf is when a token expires that the API server has accepted; zero if it does not say (https://www.rfc-editor.org/rfc/rfc7519).
func expiryOf(token string) time.Time {
	var claims struct {
		Expires int64 `json:"exp"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(data, &claims) != nil || claims.Expires <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Expires, 0)
}

// logIn begins a session for whom the secret in the request's body belongs to.
func (s *Server) logIn(w http.ResponseWriter, r *http.Request, check func(ctx context.Context, secret string) (*caller, error)) {
	select {
	case s.logins <- struct{}{}:
		defer func() { <-s.logins }()
	default:
		refuse(w, http.StatusTooManyRequests, errFull)
		return
	}
	var body struct {
		Secret string `json:"secret"`
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLogin))
	if err != nil || json.Unmarshal(data, &body) != nil {
		refuse(w, http.StatusBadRequest, errors.New(`send {"secret": "…"}`))
		return
	}
	who, err := check(r.Context(), body.Secret)
	if err != nil {
		code := http.StatusUnauthorized
		if !errors.Is(err, errStranger) && !errors.Is(err, errKey) {
			code = http.StatusBadGateway
		}
		s.metrics.logins.WithLabelValues("refused").Inc()
		logrus.WithError(err).WithField("from", r.RemoteAddr).Info("somebody could not log in to the web page")
		refuse(w, code, err)
		return
	}
	if s.start(w, r, who) {
		w.WriteHeader(http.StatusNoContent)
	}
}

// start begins a session and sets its cookie, or says why not.
func (s *Server) start(w http.ResponseWriter, r *http.Request, who *caller) bool {
	if cookie, err := r.Cookie(s.cookie); err == nil {
		s.sessions.finish(cookie.Value)
	}
	id, err := s.sessions.begin(r.Context(), who)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return false
	}
	s.metrics.logins.WithLabelValues("ok").Inc()
	logrus.WithFields(logrus.Fields{"user": who.user, "from": r.RemoteAddr}).Info("logged in to the web page")
	http.SetCookie(w, &http.Cookie{Name: s.cookie, Value: id, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return true
}

func (s *Server) logOut(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(s.cookie); err == nil {
		s.sessions.finish(cookie.Value)
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookie, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	w.WriteHeader(http.StatusNoContent)
}

// serveSession tells who the caller is.
func (s *Server) serveSession(w http.ResponseWriter, _ *http.Request, of *session) {
	answer(w, http.StatusOK, map[string]any{
		"user": of.who.user, "groups": of.who.groups, "expires": of.expires, "readOnly": s.cfg.ReadOnly,
		"version": api.Version, "server": of.who.server.String(), "mesos": s.leader.ask != nil,
	})
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a browser that has gone wants no answer
}

// severable is a response whose connection, once it is taken over, ends with a context.
type severable struct {
	http.ResponseWriter
	ctx context.Context
}

// Hijack implements http.Hijacker.
func (s *severable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err == nil {
		context.AfterFunc(s.ctx, func() { conn.Close() })
	}
	return conn, buffer, err
}

// Unwrap is for http.ResponseController.
func (s *severable) Unwrap() http.ResponseWriter { return s.ResponseWriter }
