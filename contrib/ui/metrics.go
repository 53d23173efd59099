package ui

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// metrics are those of the page's server.
type metrics struct {
	*prometheus.Registry
	requests *prometheus.HistogramVec
	logins   *prometheus.CounterVec
}

func newMetrics(all *sessions) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "k8sm", Subsystem: "ui", Name: name, Help: help}
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("build_info", "1, by the versions of km, of the Kubernetes in it, and of Go.")),
		[]string{"version", "kubernetes", "goversion"})
	m := &metrics{
		Registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "k8sm", Subsystem: "ui", Name: "request_duration_seconds", Help: "Requests by what was asked for and the code of the answer. Sockets are not among them.",
			Buckets: []float64{.005, .025, .1, .5, 2.5, 10},
		}, []string{"what", "code"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts(opts("logins_total", "Attempts to log in, by result.")), []string{"result"}),
	}
	m.MustRegister(build, m.requests, m.logins, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("sessions", "People who have logged in.")), func() float64 { return float64(all.count()) }))
	build.WithLabelValues(api.Version, api.KubernetesVersion, runtime.Version()).Set(1)
	m.logins.WithLabelValues("ok")
	m.logins.WithLabelValues("refused")
	return m
}

func (m *metrics) handler() http.Handler { return promhttp.HandlerFor(m, promhttp.HandlerOpts{}) }

// parts are what a request may be for, by the beginning of its path. All else is the page.
var parts = []struct{ prefix, what string }{
	{"/api/k8s/", "kubernetes"}, {"/api/mesos/", "mesos"}, {"/api/", "session"}, {"/auth/", "login"}, {"/assets/", "assets"},
	{"/metrics", "operate"}, {"/debug/", "operate"}, {"/readyz", "operate"}, {"/livez", "operate"}, {"/healthz", "operate"},
}

func whatOf(path string) string {
	for _, p := range parts {
		if strings.HasPrefix(path, p.prefix) {
			return p.what
		}
	}
	return "page"
}

// count counts the answers. A connection that is taken over has none.
func (m *metrics) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			next.ServeHTTP(w, r)
			return
		}
		began, noted := time.Now(), &noted{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(noted, r)
		m.requests.WithLabelValues(whatOf(r.URL.Path), strconv.Itoa(noted.code)).Observe(time.Since(began).Seconds())
	})
}

// noted notes the code of an answer.
type noted struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (n *noted) WriteHeader(code int) {
	if code >= http.StatusOK { // others come before the answer
		n.code = code
	}
	n.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (n *noted) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// readers serves those whose token may get the path, as a non-resource URL: administrators, and whom they let. The server asks as the
// caller, and so needs no rights of its own. A browser's session is of no use here.
func (s *Server) readers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, isToken := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !isToken {
			refuse(w, http.StatusUnauthorized, errors.New("send a token of the cluster: Authorization: Bearer TOKEN"))
			return
		}
		select {
		case s.logins <- struct{}{}:
			defer func() { <-s.logins }()
		default:
			refuse(w, http.StatusTooManyRequests, errFull)
			return
		}
		who, err := s.byToken(r.Context(), token)
		if errors.Is(err, errStranger) {
			refuse(w, http.StatusUnauthorized, err)
			return
		}
		var review authorizationv1.SelfSubjectAccessReview
		if err == nil {
			err = who.ask(r.Context(), "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &authorizationv1.SelfSubjectAccessReview{
				TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"},
				Spec:     authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: "get"}},
			}, &review)
		}
		switch {
		case err != nil:
			refuse(w, http.StatusBadGateway, err)
		case !review.Status.Allowed:
			refuse(w, http.StatusForbidden, fmt.Errorf("user %q may not get %s", who.user, r.URL.Path))
		default:
			next.ServeHTTP(w, r)
		}
	})
}
