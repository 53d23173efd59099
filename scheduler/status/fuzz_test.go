package status

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/callers"
)

// FuzzRequests holds that no request of an administrator makes the server panic, and that a stranger's gets the health or 401.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		"GET /healthz HTTP/1.1\r\nHost: km\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: km\r\nAccept: text/plain;version=0.0.4\r\nAccept-Encoding: gzip\r\n\r\n",
		"GET " + statePath + "?watch=no HTTP/1.1\r\nHost: km\r\n\r\n", "GET " + tasksPath + "?a=b HTTP/1.1\r\nHost: km\r\n\r\n", "POST " + queuePath + " HTTP/1.1\r\nHost: km\r\nContent-Length: 1\r\n\r\n{",
		"GET /../../etc/passwd HTTP/1.0\r\n\r\n", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	nobody := callers.Access{Authenticator: authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) { return nil, false, nil })}
	handler := (&Server{access: nobody, shows: Shows{Scheduler: fakeSource{}, Metrics: prometheus.NewRegistry(), Mesos: fakeMesos{}}}).handler()
	admin := &x509.Certificate{Subject: pkix.Name{Organization: []string{api.AdminGroup}}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, chains := range [][][]*x509.Certificate{nil, {{admin}}} {
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				return
			}
			r.TLS = &tls.ConnectionState{VerifiedChains: chains}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if chains == nil && w.Code == http.StatusOK && strings.TrimSpace(w.Body.String()) != "ok" && w.Body.Len() > 0 {
				t.Errorf("a stranger gets %d %q for %q", w.Code, w.Body, raw)
			}
		}
	})
}
