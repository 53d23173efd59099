package ui

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/sets"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/streaming/pkg/httpstream"
)

const (
	maxBody    = 3 << 20 // bytes of a request, as kube-apiserver
	maxSockets = 32      // WebSockets of a session
)

// resolver finds out what a request is about as the API server does.
var resolver = &apirequest.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

var (
	errPath     = errors.New("this is no request of the Kubernetes API")
	errProxied  = errors.New("proxy subresources are not served here: a page of a pod would act as you; use kubectl port-forward")
	errReadOnly = errors.New("this server only reads (--ui-read-only): use kubectl")
	errUpgrade  = errors.New("only exec, attach and portforward of pods take a WebSocket here")
	errForeign  = errors.New("a page of another server sent this request")
)

// streams are the subresources of pods that take a WebSocket. All of them act in a pod.
var streams = []string{"exec", "attach", "portforward"}

// reviews are the questions about the caller's own rights: a POST, but no write.
var reviews = []string{
	"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
}

// methods are those of the API.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// readable are paths that are no resource and may be read, with all below them.
var readable = []string{"/api", "/apis", "/version", "/openapi", "/livez", "/readyz"}

// allowed says why the API server must not get a request, whose path is the API server's; nil if it may.
func (s *Server) allowed(r *http.Request) error {
	for _, part := range strings.Split(strings.TrimSuffix(r.URL.Path[1:], "/"), "/") {
		if part == "" || part == "." || part == ".." {
			return errPath
		}
	}
	info, err := resolver.NewRequestInfo(r)
	if err != nil || !slices.Contains(methods, r.Method) {
		return errPath
	}
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !info.IsResourceRequest {
		if !reads || !slices.ContainsFunc(readable, func(p string) bool { return r.URL.Path == p || strings.HasPrefix(r.URL.Path, p+"/") }) {
			return errPath
		}
		return nil
	}
	if info.Subresource == "proxy" || info.Verb == "proxy" {
		return errProxied
	}
	streaming := info.APIGroup == "" && info.Resource == "pods" && slices.Contains(streams, info.Subresource)
	if httpstream.IsUpgradeRequest(r) && !streaming {
		return errUpgrade
	}
	asks := r.Method == http.MethodPost && slices.Contains(reviews, r.URL.Path)
	if s.cfg.ReadOnly && (streaming || !reads && !asks) {
		return errReadOnly
	}
	return nil
}

// serveKubernetes sends a request on to the API server as the session's caller.
func (s *Server) serveKubernetes(w http.ResponseWriter, r *http.Request, of *session) {
	out := r.Clone(r.Context())
	out.URL.Path, out.URL.RawPath = strings.TrimPrefix(r.URL.Path, "/api/k8s"), ""
	if out.URL.Path == "" {
		out.URL.Path = "/"
	}
	if err := s.allowed(out); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	out.Header = passed(r.Header)
	out.Body = http.MaxBytesReader(w, r.Body, maxBody)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(of.ctx, cancel)()
	if httpstream.IsUpgradeRequest(r) {
		if !sameOrigin(r) {
			refuse(w, http.StatusForbidden, errForeign)
			return
		}
		disconnect := of.connect(maxSockets)
		if disconnect == nil {
			refuse(w, http.StatusTooManyRequests, errFull)
			return
		}
		defer disconnect()
		w = &severable{ResponseWriter: w, ctx: of.ctx}
	}
	at := of.who.locate(out.URL.Path, out.URL.RawQuery)
	handler := proxy.NewUpgradeAwareHandler(at, contained{of.who.transport}, false, false, responder{})
	handler.UpgradeTransport, handler.UseLocationHost, handler.UseRequestLocation = of.who.upgrade, true, true
	handler.RejectForwardingRedirects, handler.FlushInterval = true, -1
	handler.ServeHTTP(w, out.WithContext(ctx))
}

// passed returns the headers of a request that the API server gets. All others say who the request is from, or are none of its business.
func passed(in http.Header) http.Header {
	out := http.Header{}
	for _, name := range []string{"Accept", "Content-Type", "Content-Length", "User-Agent", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version"} {
		if values, there := in[name]; there {
			out[name] = values
		}
	}
	// A connection's options can name headers that the next server must drop.
	if httpstream.IsUpgradeRequest(&http.Request{Header: in}) {
		out.Set("Connection", "Upgrade")
	} else {
		out.Del("Upgrade")
	}
	// A protocol can carry a token, too.
	for _, value := range in.Values("Sec-Websocket-Protocol") {
		for _, protocol := range strings.Split(value, ",") {
			if protocol = strings.TrimSpace(protocol); strings.HasSuffix(protocol, ".channel.k8s.io") && !strings.Contains(protocol, "bearer") {
				out.Add("Sec-Websocket-Protocol", protocol)
			}
		}
	}
	return out
}

// contained takes from answers what would make a browser do more than read them.
type contained struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (c contained) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	kept := http.Header{}
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Warning", "Retry-After", "Audit-Id"} {
		if values, there := response.Header[name]; there {
			kept[name] = values
		}
	}
	if kind, _, _ := mime.ParseMediaType(kept.Get("Content-Type")); !slices.Contains(plain, kind) {
		kept.Set("Content-Type", "text/plain; charset=utf-8")
	}
	response.Header = kept
	return response, nil
}

// plain are types of answers that no browser runs.
var plain = []string{"application/json", "application/yaml", "text/plain", "application/vnd.kubernetes.protobuf", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"}

// responder answers what the API server did not.
type responder struct{}

// Error implements proxy.ErrorResponder.
func (responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	var tooLarge *http.MaxBytesError
	switch {
	case r.Context().Err() != nil:
		return
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Errorf("the request has more than %d bytes", tooLarge.Limit))
	default:
		logrus.WithError(err).Debug("cannot reach the API server for the web page")
		refuse(w, http.StatusBadGateway, fmt.Errorf("cannot reach the API server: %w", err))
	}
}

// refuse answers with a Status, as the API server does.
func refuse(w http.ResponseWriter, code int, err error) {
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Message: err.Error(),
	}
	var theirs apierrors.APIStatus
	if errors.As(err, &theirs) {
		status = theirs.Status()
	}
	answer(w, code, status)
}
