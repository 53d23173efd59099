package gateway

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/statedir"
)

// The API server looks at the certificate of a connection with each request, and refuses those whose certificate has ended.
func TestRenewedFrontProxyCertificateIsShownAndNoRequestCut(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	spec := statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}
	if err := dir.Prepare(spec); err != nil {
		t.Fatal(err)
	}
	slow := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].SerialNumber.String())
		if r.URL.Path == "/slow" {
			_ = http.NewResponseController(w).Flush()
			<-slow
			_, _ = io.WriteString(w, " to its end")
		}
	}))
	server.EnableHTTP2, server.TLS = true, &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	config := &rest.Config{Host: server.URL}
	config.CAFile = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(config.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	config.CertFile, config.KeyFile = dir.Pair(statedir.FrontProxyClient)
	calls, err := connections(config)
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := calls.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = response.Body.Close() })
		return response
	}
	read := func(r *http.Response) string {
		t.Helper()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	first := read(get("/"))
	if again := read(get("/")); again != first {
		t.Errorf("another certificate, %s, after %s", again, first)
	}
	long := get("/slow")
	spec.Now = spec.Now.AddDate(0, 0, 260) // after two thirds of the life
	if err := dir.Prepare(spec); err != nil {
		t.Fatal(err)
	}
	if renewed := read(get("/")); renewed == first {
		t.Error("requests go on with the former certificate")
	}
	close(slow)
	if got := read(long); got != first+" to its end" {
		t.Errorf("the request that was on its way got %q", got)
	}
}
