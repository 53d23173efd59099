package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/health"
	"github.com/k8sm/k8sm/api/profiling"
	"github.com/k8sm/k8sm/api/v1beta1"
)

const (
	defaultWait = time.Minute     // that a request takes at most, unless it has a timeout
	maxWait     = 5 * time.Minute // that it takes at most
)

// gateway serves requests. It may be called concurrently.
type gateway struct {
	callers    *callers
	hosts      []string // that requests may name beside loopback's names
	operations *operations
	watches    places
	requests   *shared
	lists      *shared
	decoding   *semaphore.Weighted // bytes
}

func newGateway(who *callers, hosts []string, maxWatches int) *gateway {
	return &gateway{
		callers: who, hosts: hosts, operations: newOperations(), watches: make(places, maxWatches), requests: share(maxRequests),
		lists: share(maxLists), decoding: semaphore.NewWeighted(maxDecoding),
	}
}

// ServeHTTP implements http.Handler.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if problem := g.refuses(r); problem != "" {
		text(w, http.StatusForbidden, problem+"\n")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	parts, ok := partsOf(r.URL)
	switch {
	case !ok:
		notFound(w, r)
	case r.URL.Path == "/":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<html><body>Welcome to Kubernetes</body></html>")
	case r.URL.Path == "/healthz" || r.URL.Path == "/livez":
		text(w, http.StatusOK, "ok")
	case r.URL.Path == "/readyz" && r.Method == http.MethodGet:
		health.Answer(w, g.callers.ready(r.Context()))
	case r.URL.Path == "/version" && r.Method == http.MethodGet:
		g.as(w, r, v1beta1.V1Beta1, g.serverVersion)
	case strings.HasPrefix(r.URL.Path, profiling.Path):
		g.profiles(w, r)
	case len(parts) >= 3 && parts[0] == "api" && slices.Contains(v1beta1.Versions(), parts[1]):
		g.route(w, r, parts[1], parts[2:])
	case len(parts) >= 3 && parts[0] == "api" && parts[1] == "v1":
		g.proxyLink(w, r, parts[2:])
	default:
		notFound(w, r)
	}
}

// profiles serves the Go profiles of the process to those with a client certificate of an administrator.
func (g *gateway) profiles(w http.ResponseWriter, r *http.Request) {
	identity, certified, err := g.callers.verifier.AuthenticateRequest(r)
	switch {
	case err != nil || !certified:
		text(w, http.StatusUnauthorized, "a client certificate from the cluster's CA is required\n")
	case !slices.Contains(identity.User.GetGroups(), api.AdminGroup):
		text(w, http.StatusForbidden, fmt.Sprintf("user %q may not read this: it is for group %s\n", identity.User.GetName(), api.AdminGroup))
	default:
		profiling.Handler().ServeHTTP(w, r)
	}
}

// partsOf splits a path at its slashes, those at both ends and encoded ones apart.
func partsOf(u *url.URL) (parts []string, ok bool) {
	for part := range strings.SplitSeq(strings.Trim(u.EscapedPath(), "/"), "/") {
		plain, err := url.PathUnescape(part)
		if err != nil {
			return nil, false
		}
		parts = append(parts, plain)
	}
	return parts, true
}

// refuses returns why a request is not looked at: it may be a web page's, which must not act as who looks at it. A page can make a
// browser send requests here, but as a foreign Origin, or under its own server's name that resolves to this machine.
func (g *gateway) refuses(r *http.Request) string {
	if !g.isFor(r) {
		return fmt.Sprintf("cannot serve the host %q: call this server localhost, 127.0.0.1 or [::1], or as --v1beta1-address does", r.Host)
	}
	for _, origin := range r.Header.Values("Origin") {
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
			return fmt.Sprintf("cannot serve web pages of another origin, %q", origin)
		}
	}
	if fetchedByAPage(r) {
		return "cannot serve web pages of another site: open this address itself"
	}
	if r.TLS == nil && !toLoopback(r) {
		return "cannot serve HTTP beyond this machine: use https"
	}
	return ""
}

// fetchedByAPage tells whether a browser says that a page of another site makes the request, other than by going there in the sight of
// who looks at it (https://www.w3.org/TR/fetch-metadata/).
func fetchedByAPage(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.Method != http.MethodGet || r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
}

// isFor tells whether the request names this server: as loopback, as the flag does, or by the address that it came to.
func (g *gateway) isFor(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, host) || slices.ContainsFunc(g.hosts, func(own string) bool { return strings.EqualFold(own, host) }) {
		return true
	}
	to, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(to.String())
	ip, ipErr := netip.ParseAddr(host)
	return err == nil && ipErr == nil && ip.Unmap() == at.Addr().Unmap()
}

// call is a request for something below /api/v1beta1 or /api/v1beta2.
type call struct {
	*http.Request
	caller    *caller
	version   string // v1beta1 or v1beta2
	resource  resource
	id        string
	namespace string // "" is all of them
	options   metav1.ListOptions

	query    url.Values
	unparsed error // why the query lacks something
}

// route serves what is below /api/VERSION/.
func (g *gateway) route(w http.ResponseWriter, r *http.Request, version string, parts []string) {
	serve := g.find(r, parts)
	if serve == nil {
		notFound(w, r)
		return
	}
	g.as(w, r, version, serve)
}

// handler answers a call. An error is answered by its Status.
type handler func(w http.ResponseWriter, c *call) error

// find returns what serves a method and path; nil for what does not exist.
func (g *gateway) find(r *http.Request, parts []string) handler {
	read := r.Method == http.MethodGet
	switch parts[0] {
	case "operations":
		if read && len(parts) <= 2 {
			return func(w http.ResponseWriter, c *call) error { return g.serveOperations(w, c, parts[1:]) }
		}
		return nil
	case "watch", "redirect", "proxy":
		return g.findSpecial(r, parts)
	}
	res, ok := resourceNamed(parts[0])
	if !ok || len(parts) > 2 {
		return nil
	}
	with := func(serve handler) handler {
		return func(w http.ResponseWriter, c *call) error {
			c.resource = res
			if len(parts) == 2 {
				c.id = parts[1]
			}
			return serve(w, c)
		}
	}
	switch {
	case len(parts) == 1 && read:
		return with(g.list)
	case len(parts) == 1 && r.Method == http.MethodPost:
		return with(g.create)
	case len(parts) == 2 && read:
		return with(g.get)
	case len(parts) == 2 && r.Method == http.MethodPut:
		return with(g.update)
	case len(parts) == 2 && r.Method == http.MethodDelete:
		return with(g.remove)
	}
	return nil
}

// findSpecial is find for /watch/RES, /redirect/RES/ID and /proxy/RES/ID/….
func (g *gateway) findSpecial(r *http.Request, parts []string) handler {
	if len(parts) < 2 {
		return nil
	}
	res, ok := resourceNamed(parts[1])
	if !ok || res.ListKind == "" {
		return nil
	}
	switch {
	case parts[0] == "watch" && len(parts) == 2 && r.Method == http.MethodGet:
		return func(w http.ResponseWriter, c *call) error { c.resource = res; return g.watch(w, c) }
	case parts[0] == "redirect" && len(parts) == 3 && r.Method == http.MethodGet && res.places():
		return func(w http.ResponseWriter, c *call) error { c.resource, c.id = res, parts[2]; return g.redirect(w, c) }
	case parts[0] == "proxy" && len(parts) >= 3 && res.places():
		return func(w http.ResponseWriter, c *call) error { c.resource, c.id = res, parts[2]; return g.proxy(w, c, 6) }
	}
	return nil
}

// as serves a request in the name of who made it.
func (g *gateway) as(w http.ResponseWriter, r *http.Request, version string, serve handler) {
	who, err := g.callers.of(r)
	if err != nil {
		answerError(w, version, v1beta1.NewStatus(http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized: %v", err))
		return
	}
	c, err := parse(r)
	if err == nil {
		c.caller, c.version = who, version
		err = serve(w, c)
	}
	if err != nil {
		answerError(w, version, statusOf(err, v1beta1.Resource{}, ""))
	}
}

// parse reads the query.
func parse(r *http.Request) (*call, error) {
	c := &call{Request: r}
	c.query, c.unparsed = url.ParseQuery(r.URL.RawQuery)
	c.namespace = c.query.Get("namespace")
	c.options.LabelSelector, c.options.FieldSelector = c.query.Get("labels"), c.query.Get("fields")
	return c, checkNamespace(c.namespace)
}

// checkNamespace refuses what would be another path in the API server.
func checkNamespace(name string) error {
	if problems := rest.IsValidPathSegmentName(name); len(problems) > 0 {
		return badRequest("%q is no namespace: it %s", name, strings.Join(problems, ", "))
	}
	return nil
}

// checkQuery refuses a query of which a part cannot be read: without a namespace the call would be for another one.
func (c *call) checkQuery() error {
	if c.unparsed != nil {
		return badRequest("cannot read the query: %v", c.unparsed)
	}
	return nil
}

// within bounds how long the call takes by its timeout. The caller must call cancel.
func (c *call) within() (ctx context.Context, cancel context.CancelFunc, err error) {
	if err := c.checkQuery(); err != nil {
		return nil, nil, err
	}
	wait := defaultWait
	if text := c.query.Get("timeout"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait <= 0 {
			return nil, nil, badRequest("timeout %q is no time such as 30s or 2m", text)
		}
	}
	ctx, cancel = context.WithTimeout(c.Context(), min(wait, maxWait))
	return ctx, cancel, nil
}

// inNamespace is the namespace of one object: the default one unless the call names another, none if the resource has none.
func (c *call) inNamespace() string {
	switch {
	case !c.resource.Namespaced:
		return ""
	case c.namespace == "":
		return v1beta1.DefaultNamespace
	}
	return c.namespace
}

// everywhere is the namespace of lists and watches: "" is all.
func (c *call) everywhere() string {
	if !c.resource.Namespaced {
		return ""
	}
	return c.namespace
}

// body reads the whole body, an object.
func (c *call) body(w http.ResponseWriter) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, c.Body, maxObject))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, v1beta1.NewStatus(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, "the body is larger than %d bytes", large.Limit)
	case err != nil:
		return nil, badRequest("cannot read the body: %v", err)
	}
	return data, nil
}

// serverVersion answers /version.
func (g *gateway) serverVersion(w http.ResponseWriter, c *call) error {
	ctx, cancel, err := c.within()
	if err != nil {
		return err
	}
	defer cancel()
	result := c.caller.core.RESTClient().Get().AbsPath("/version").SetHeader("Accept", "application/json").Do(ctx)
	if err := result.Error(); err != nil {
		return err
	}
	data, err := result.Raw()
	if err != nil {
		return err
	}
	answer{http.StatusOK, data}.write(w)
	return nil
}
