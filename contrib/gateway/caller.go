package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	gox509 "crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/health"
	"github.com/k8sm/k8sm/api/statedir"
)

// caller is who made a request, as the API server is to know it.
type caller struct {
	// key names the caller within this process. It is a hash: no credential is kept.
	key string
	// transport sends requests in the caller's name, and core does by it.
	transport http.RoundTripper
	core      corev1.CoreV1Interface
	server    *rest.Config
	known     bool // whether it is certain already that the API server will know the caller
}

// prove asks the API server whether it knows the caller, before the caller gets anything of this process.
func (c *caller) prove(ctx context.Context) error {
	if c.known {
		return nil
	}
	err := c.core.RESTClient().Get().AbsPath("/version").Do(ctx).Error()
	if apierrors.IsForbidden(err) {
		return nil // it knows who that is
	}
	return err
}

// endpointSlices is a client for a namespace's, or all.
func (c *caller) endpointSlices(namespace string) (discoveryv1.EndpointSliceInterface, error) {
	client, err := discoveryv1.NewForConfigAndClient(c.server, &http.Client{Transport: c.transport})
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	return client.EndpointSlices(namespace), nil
}

// callers find out who made a request. They keep nothing of any caller: the connections below are shared, and each request on them
// carries who it is from.
type callers struct {
	server   *rest.Config // the API server, without anybody's credentials
	url      *url.URL     // its URL
	plain    http.RoundTripper
	proxy    http.RoundTripper // with the certificate of the front proxy, whose headers the API server believes
	admin    http.RoundTripper
	verifier *x509.Authenticator
	ready    health.Check // whether the API server answers
	insecure bool
}

// newCallers reads the certificates. admin is how to reach the API server as the administrator.
func newCallers(dir statedir.Dir, admin *rest.Config, insecure bool) (*callers, error) {
	clients, err := certfile.NewAuthorities(dir.CA())
	if err != nil {
		return nil, err
	}
	verifier := x509.NewDynamic(func() (options gox509.VerifyOptions, ok bool) {
		options = x509.DefaultVerifyOptions()
		pool, err := clients.Pool()
		options.Roots = pool
		return options, err == nil
	}, x509.CommonNameUserConversion)
	c := &callers{server: rest.AnonymousClientConfig(admin), verifier: verifier, insecure: insecure}
	c.server.QPS = -1 // the API server limits requests itself, by who makes them
	c.server.ContentType = runtime.ContentTypeProtobuf
	c.server.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.server.WarningHandler = rest.NoWarnings{} // of Endpoints, which clients of 2014 know nothing newer than
	if c.url, _, err = rest.DefaultServerUrlFor(c.server); err != nil {
		return nil, fmt.Errorf("cannot read the API server's address: %w", err)
	}
	if c.ready, err = health.APIServer(admin); err != nil {
		return nil, err
	}
	proxy := rest.CopyConfig(c.server)
	proxy.CertFile, proxy.KeyFile = dir.Pair(statedir.FrontProxyClient)
	for to, config := range map[*http.RoundTripper]*rest.Config{&c.plain: c.server, &c.proxy: proxy, &c.admin: admin} {
		if *to, err = connections(config); err != nil {
			return nil, fmt.Errorf("cannot reach the API server: %w", err)
		}
	}
	return c, nil
}

// streamBuffer is what the API server may send of one answer before the gateway has read it, in bytes. It bounds the memory of watches
// whose clients are slow.
const streamBuffer = 64 << 10

// connections returns connections to the API server, of HTTP/2: many requests, and watches, share one.
func connections(config *rest.Config) (http.RoundTripper, error) {
	secured, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	server, err := certfile.NewAuthorities(config.CAFile)
	if err != nil {
		return nil, err
	}
	if secured.ServerName == "" {
		at, _, err := rest.DefaultServerUrlFor(config)
		if err != nil {
			return nil, err
		}
		secured.ServerName = at.Hostname()
	}
	secured = certfile.Client(secured, server.Pool)
	all := &http.Transport{
		TLSClientConfig: secured, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
		ResponseHeaderTimeout: maxWait,
		DialContext:           config.Dial,
		HTTP2:                 &http.HTTP2Config{MaxReceiveBufferPerStream: streamBuffer, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	if all.DialContext == nil {
		all.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	if config.CertFile == "" {
		return transport.NewUserAgentRoundTripper("km-v1beta1", all), nil
	}
	pair := certfile.NewPair(config.CertFile, config.KeyFile)
	// client-go's own answer may be a second old.
	secured.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.Get() }
	return transport.NewUserAgentRoundTripper("km-v1beta1", &renewed{of: pair, connections: all}), nil
}

// renewed makes new connections when the client's certificate has been renewed: the API server refuses requests on a connection whose
// certificate has ended. Requests go on where they began, so none is lost.
type renewed struct {
	of *certfile.Pair

	mu          sync.Mutex // guards the rest
	pair        *tls.Certificate
	connections *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (n *renewed) RoundTrip(r *http.Request) (*http.Response, error) { return n.current().RoundTrip(r) }

func (n *renewed) current() *http.Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	pair, err := n.of.Get()
	if err != nil || pair == n.pair {
		return n.connections
	}
	if n.pair != nil {
		old := n.connections
		n.connections = old.Clone()
		old.CloseIdleConnections()
	}
	n.pair = pair
	return n.connections
}

// errNobody is why a request has no caller.
var errNobody = errors.New("show a client certificate of the cluster by HTTPS, or a bearer token")

// of returns who made a request: the owner of its client certificate or else of its bearer token, whom the API server will know.
// Nothing else in a request says who it is from, least of all headers such as X-Remote-User.
func (c *callers) of(r *http.Request) (*caller, error) {
	token, bearer := bearerToken(r)
	identity, certified, err := c.verifier.AuthenticateRequest(r)
	switch {
	case certified:
		return c.certified(identity.User)
	case bearer:
		return c.caller("token", token, transport.NewBearerAuthRoundTripper(token, c.plain), false)
	case err != nil:
		return nil, fmt.Errorf("the client certificate is not the cluster's: %w", err)
	case c.insecure && !showsCredentials(r) && fromThisMachine(r):
		return c.caller("administrator", "", c.admin, true)
	}
	return nil, errNobody
}

// certified returns the owner of a verified certificate.
func (c *callers) certified(u user.Info) (*caller, error) {
	for _, name := range append([]string{u.GetName()}, u.GetGroups()...) {
		// A server takes the spaces around a header's value away, which would make the name another one.
		if !httpguts.ValidHeaderFieldValue(name) || name != strings.TrimSpace(name) || name == "" {
			return nil, fmt.Errorf("the client certificate has the name %q, which cannot be passed on", name)
		}
	}
	id := strings.Join(append([]string{u.GetName()}, u.GetGroups()...), "\x00")
	return c.caller("certificate", id, transport.NewAuthProxyRoundTripper(u.GetName(), "", u.GetGroups(), u.GetExtra(), c.proxy), true)
}

func (c *callers) caller(kind, id string, as http.RoundTripper, known bool) (*caller, error) {
	core, err := corev1.NewForConfigAndClient(c.server, &http.Client{Transport: as})
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	hash := sha256.Sum256([]byte(kind + "\x00" + id))
	return &caller{key: hex.EncodeToString(hash[:]), transport: as, core: core, server: c.server, known: known}, nil
}

// bearerToken returns the token of a request (https://www.rfc-editor.org/rfc/rfc6750#section-2.1).
func bearerToken(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}

// showsCredentials tells whether a request says who it is from, be it true or not. Whoever says so is not taken for somebody else.
func showsCredentials(r *http.Request) bool {
	return r.Header.Get("Authorization") != "" || r.TLS != nil && len(r.TLS.PeerCertificates) > 0
}

// fromThisMachine tells whether both ends of the connection are on loopback.
func fromThisMachine(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback() && toLoopback(r)
}

// toLoopback tells whether the connection came to an address of loopback.
func toLoopback(r *http.Request) bool {
	to, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(to.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}
