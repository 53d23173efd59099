package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// proxy answers /proxy/RES/ID/PATH, with any method: the API server asks the pod, service or node, with the rights of the caller. An
// ID may end in a port, as ID:PORT. The path begins after the first parts of the request's. The query is the pod's, but for the
// namespace.
func (g *gateway) proxy(w http.ResponseWriter, c *call, parts int) error {
	path, err := below(c.URL, parts)
	if err != nil {
		return err
	}
	id, port, err := c.idAndPort()
	if err != nil {
		return err
	}
	if c.namespace == "" && strings.Contains(c.URL.RawQuery, "namespace=") {
		if err := c.checkQuery(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(c.Context(), defaultWait)
	defer cancel()
	name, err := c.target(ctx, id, port)
	if err != nil {
		return statusOf(err, c.resource.Resource, id)
	}
	g.forward(w, c, c.resource.V1.Resource, name, path)
	return nil
}

// idAndPort splits ID:PORT. The port is a number or a name.
func (c *call) idAndPort() (id, port string, err error) {
	id, port, given := strings.Cut(c.id, ":")
	if given && len(validation.IsDNS1123Label(port)) > 0 {
		return "", "", badRequest("%q is no port", port)
	}
	return id, port, checkNamespace(c.namespace)
}

// target is what the API server knows the object as whose id and port are given.
func (c *call) target(ctx context.Context, id, port string) (string, error) {
	join := func(name string) string {
		if port == "" {
			return name
		}
		return name + ":" + port
	}
	switch c.resource.Kind {
	case "Pod":
		p, err := c.pod(ctx, id)
		if err != nil {
			return "", err
		}
		return join(p.Name), nil
	case "Service":
		s, err := endpoints{c.caller, c.inNamespace()}.services().find(ctx, id)
		if err != nil {
			return "", err
		}
		if port == "" && len(s.Spec.Ports) > 0 { // the API server takes a port without a name then
			port = s.Spec.Ports[0].Name
		}
		return join(s.Name), nil
	}
	n, err := c.node(ctx, id)
	if err != nil {
		return "", err
	}
	return join(n.Name), nil
}

func (c *call) pod(ctx context.Context, id string) (*v1.Pod, error) {
	return typed[*v1.Pod, *v1.PodList, *v1beta1.Pod]{client: c.caller.core.Pods(c.inNamespace())}.find(ctx, id)
}

func (c *call) node(ctx context.Context, id string) (*v1.Node, error) {
	return typed[*v1.Node, *v1.NodeList, *v1beta1.Minion]{client: c.caller.core.Nodes()}.find(ctx, id)
}

// below is the part of a path, still encoded, after its first parts. Parts that mean other directories would be other paths of the
// API server.
func below(u *url.URL, parts int) (string, error) {
	split := strings.SplitN(strings.TrimLeft(u.EscapedPath(), "/"), "/", parts)
	if len(split) < parts {
		return "", nil
	}
	tail := split[parts-1]
	for _, part := range strings.Split(tail, "/") {
		if plain, err := url.PathUnescape(part); err != nil || slices.Contains(strings.Split(plain, "/"), "..") || plain == "." {
			return "", badRequest("cannot proxy the path %q: it has the part %q", tail, part)
		}
	}
	return tail, nil
}

// forward passes a request on to the API server's proxy.
func (g *gateway) forward(w http.ResponseWriter, c *call, resource, name, tail string) {
	path := "/api/v1/"
	if c.resource.Namespaced {
		path += "namespaces/" + url.PathEscape(c.inNamespace()) + "/"
	}
	path += resource + "/" + url.PathEscape(name) + "/proxy/" + tail
	forward := &httputil.ReverseProxy{
		Transport: c.caller.transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL, _ = g.callers.url.Parse(path) // below has checked it
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			r.Out.Host = ""
			strip(r.Out.Header)
		},
		ModifyResponse: func(r *http.Response) error { return contained(r, "/"+tail) },
		ErrorLog:       stdlog.New(io.Discard, "", 0), // a client that has gone is no problem of ours
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			text(w, http.StatusServiceUnavailable, unreachable(err.Error(), "/"+tail))
		},
	}
	forward.ServeHTTP(patiently(w), c.Request)
}

// strip takes away what says who a request is from, or asks the API server to act as somebody else: the caller's transport says who it
// is from. What takes over the connection is not passed on either, nor are cookies: a browser sends those of all this machine's servers.
func strip(h http.Header) {
	for name := range h {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-remote-") || strings.HasPrefix(lower, "impersonate-") {
			delete(h, name)
		}
	}
	for _, name := range []string{"Authorization", "Cookie", "Upgrade", "Connection"} {
		h.Del(name)
	}
}

// ofTheOrigin are headers of answers that say something of all of a server, or let pages of others read it.
var ofTheOrigin = []string{"Set-Cookie", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", "Nel", "Report-To", "Reporting-Endpoints", "Service-Worker-Allowed", "Access-Control-Allow-Origin"}

// contained keeps a page that a pod serves from acting as who looks at it: for the browser it is of no origin. It also makes the API
// server's words of what cannot be reached those of 2014.
func contained(r *http.Response, path string) error {
	r.Header.Set("Content-Security-Policy", "sandbox")
	r.Header.Del("X-Content-Type-Options") // the answer has it
	for _, name := range ofTheOrigin {
		r.Header.Del(name)
	}
	if r.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		return nil
	}
	const most = 16 << 10
	data, err := io.ReadAll(io.LimitReader(r.Body, most))
	if err != nil {
		return err
	}
	var s metav1.Status
	if json.Unmarshal(data, &s) != nil || s.Kind != "Status" || s.APIVersion != "v1" {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(data), r.Body), r.Body}
		return nil
	}
	body := unreachable(strings.TrimPrefix(s.Message, "error trying to reach service: "), path)
	_ = r.Body.Close()
	r.Body = io.NopCloser(strings.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	return nil
}

func unreachable(why, path string) string {
	return fmt.Sprintf("Error: '%s'\nTrying to reach: '%s'", why, path)
}

// proxyLink answers /api/v1/…/proxy/…, whose parts are those below /api/v1: the API server makes links and redirections in what it
// proxies point there.
func (g *gateway) proxyLink(w http.ResponseWriter, r *http.Request, parts []string) {
	namespace, before := "", 6
	if len(parts) > 2 && parts[0] == "namespaces" {
		namespace, parts, before = parts[1], parts[2:], 8
	}
	if len(parts) > 2 && parts[2] == "proxy" {
		for _, known := range v1beta1.Resources() {
			res := resource{Resource: known}
			if known.V1.Resource != parts[0] || !res.places() || known.Namespaced != (namespace != "") {
				continue
			}
			g.as(w, r, v1beta1.V1Beta1, func(w http.ResponseWriter, c *call) error {
				c.resource, c.id, c.namespace = res, parts[1], namespace
				return g.proxy(w, c, before)
			})
			return
		}
	}
	notFound(w, r)
}

// redirect answers /redirect/RES/ID by where the object is. Who follows needs a way there, such as the machine of a node has.
func (g *gateway) redirect(w http.ResponseWriter, c *call) error {
	ctx, cancel, err := c.within()
	if err != nil {
		return err
	}
	defer cancel()
	id, port, err := c.idAndPort()
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "" || port != "" && c.resource.Kind == "Service" {
		return badRequest("cannot redirect to port %q of a %s", port, c.resource.Singular)
	}
	location, err := c.location(ctx, id, port)
	if err != nil {
		return statusOf(err, c.resource.Resource, id)
	}
	w.Header().Set("Location", location)
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// location is the URL of a pod, of one of a service's endpoints, or of a node's kubelet.
func (c *call) location(ctx context.Context, id, port string) (string, error) {
	switch c.resource.Kind {
	case "Pod":
		p, err := c.pod(ctx, id)
		if err != nil {
			return "", err
		}
		if first, ok := v1beta1.FirstPort(p); ok && port == "" {
			port = strconv.Itoa(int(first))
		}
		return c.urlOf("http", p.Status.PodIP, port)
	case "Service":
		o, err := endpoints{c.caller, c.inNamespace()}.get(ctx, id)
		if err != nil {
			return "", err
		}
		list := o.(*v1beta1.Endpoints).Endpoints
		if len(list) == 0 {
			return c.urlOf("http", "", "")
		}
		return "http://" + list[rand.IntN(len(list))], nil
	}
	n, err := c.node(ctx, id)
	if err != nil {
		return "", err
	}
	if kubelet := n.Status.DaemonEndpoints.KubeletEndpoint.Port; port == "" && kubelet != 0 {
		port = strconv.Itoa(int(kubelet))
	}
	return c.urlOf("https", v1beta1.FromV1Node(n).HostIP, port)
}

func (c *call) urlOf(scheme, ip, port string) (string, error) {
	if ip == "" {
		return "", v1beta1.NewStatus(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "%s %q has no address yet", c.resource.Singular, c.id)
	}
	if port == "" {
		return (&url.URL{Scheme: scheme, Host: strings.Trim(net.JoinHostPort(ip, ""), ":")}).String(), nil
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(ip, port)}).String(), nil
}
