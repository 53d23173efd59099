package registry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, path string, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// get asks the server, as a registry whose folder is dir.
func get(t *testing.T, dir, url string) (*http.Response, error) {
	t.Helper()
	trust, err := readFolder(dir)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: trust}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(url)
	if err == nil {
		response.Body.Close()
	}
	return response, err
}

func TestRegistryIsTrustedByTheFilesInItsFolder(t *testing.T) {
	var shown []*x509.Certificate
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { shown = r.TLS.PeerCertificates }))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()

	for _, other := range []string{dir, filepath.Join(dir, "missing")} {
		if _, err := get(t, other, server.URL); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("without certificates: %v", err)
		}
	}
	write(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", server.Certificate().Raw)
	write(t, filepath.Join(dir, "junk.crt"), "JUNK", []byte("junk"))
	if _, err := get(t, dir, server.URL); err == nil {
		t.Error("a file that Docker Engine does not read is trusted")
	}
	write(t, filepath.Join(dir, "k8sm-1.crt"), "CERTIFICATE", server.Certificate().Raw)
	if _, err := get(t, dir, server.URL); err != nil {
		t.Error(err)
	}
	if len(shown) > 0 {
		t.Error("the client shows a certificate that it does not have")
	}

	pair := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "client.cert"), "CERTIFICATE", pair.Certificate[0])
	if _, err := get(t, dir, server.URL); err == nil || !strings.Contains(err.Error(), "client.key") {
		t.Errorf("a client's certificate without a key: %v", err)
	}
	write(t, filepath.Join(dir, "client.key"), "PRIVATE KEY", key)
	if _, err := get(t, dir, server.URL); err != nil || len(shown) != 1 {
		t.Errorf("%v; the client shows %d certificates", err, len(shown))
	}
}

func TestTransportOfARegistryWithoutAFolderTrustsTheSystemOnly(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	transport, err := Transport("registry.k8sm.example:5000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&http.Client{Transport: transport}).Get(server.URL); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("got %v", err)
	}
}
