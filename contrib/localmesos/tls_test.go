package localmesos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
)

// secured returns a configuration with TLS and the CA of its certificate, which is also valid for clients.
func secured(t *testing.T) (Config, *mesoshttptest.Authority) {
	t.Helper()
	authority := mesoshttptest.NewAuthority(t)
	c := testConfig(t)
	c.SSL.CertFile, c.SSL.KeyFile = authority.Pair("127.0.0.1")
	return c, authority
}

// trusting returns a client's configuration with this CA and, if set, the certificate and key of the configuration.
func trusting(t *testing.T, authority *mesoshttptest.Authority, own SSL) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: authority.Pool(), CipherSuites: rsaKeyExchange}
	if own.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(own.CertFile, own.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// health gets /health with this client configuration, or by plain HTTP if nil. It returns "" or an error.
func health(address string, config *tls.Config) string {
	scheme := "https://"
	if config == nil {
		scheme = "http://"
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	response, err := client.Get(scheme + address + "/health")
	if err != nil {
		return err.Error()
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Proto != "HTTP/1.1" {
		return response.Proto + " " + response.Status
	}
	return ""
}

var rsaKeyExchange = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}

func TestStockGoClientIsRefusedByMesosDefaultCiphers(t *testing.T) {
	t.Parallel()
	c, authority := secured(t)
	pool := authority.Pool()
	cluster := startCluster(t, c)
	for what, address := range map[string]string{"master": cluster.MasterAddr(), "agent": cluster.agents[0].address} {
		if got := health(address, &tls.Config{RootCAs: pool}); !strings.Contains(got, "tls: handshake failure") {
			t.Errorf("%s: a stock client gets %q", what, got)
		}
		if got := health(address, &tls.Config{RootCAs: pool, CipherSuites: rsaKeyExchange}); got != "" {
			t.Errorf("%s: a client with RSA key exchange gets %q", what, got)
		}
		if got := health(address, &tls.Config{RootCAs: pool, CipherSuites: rsaKeyExchange, MinVersion: tls.VersionTLS13}); got == "" {
			t.Errorf("%s takes TLS 1.3", what)
		}
		if got := health(address, nil); got == "" {
			t.Errorf("%s speaks HTTP, too", what)
		}
	}
}

func TestCiphersAndTLS13CanBeTurnedOn(t *testing.T) {
	t.Parallel()
	c, authority := secured(t)
	c.SSL.Ciphers = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-SHA"
	if got := health(startCluster(t, c).MasterAddr(), &tls.Config{RootCAs: authority.Pool()}); got != "" {
		t.Errorf("with ECDHE a stock client gets %q", got)
	}
	c, authority = secured(t)
	c.SSL.EnableTLS13 = true
	if got := health(startCluster(t, c).MasterAddr(), &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS13}); got != "" {
		t.Errorf("with TLS 1.3 a client gets %q", got)
	}
}

func TestClientWithoutCertificateOfTheCAIsRefused(t *testing.T) {
	t.Parallel()
	c, authority := secured(t)
	c.SSL.RequireClientCert, c.SSL.CAFile = true, authority.File
	address := startCluster(t, c).MasterAddr()
	if got := health(address, trusting(t, authority, SSL{})); got == "" {
		t.Error("a client without a certificate gets an answer")
	}
	other, _ := secured(t)
	if got := health(address, trusting(t, authority, other.SSL)); got == "" {
		t.Error("a client with a certificate of another authority gets an answer")
	}
	if got := health(address, trusting(t, authority, c.SSL)); got != "" {
		t.Errorf("a client with a certificate gets %q", got)
	}
}

func TestTLSThatCannotBeIsRefused(t *testing.T) {
	good, _ := secured(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	otherKey := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(otherKey, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*SSL){
		"go together":                                   func(s *SSL) { s.KeyFile = "" },
		"cannot read --ssl-cert-file":                   func(s *SSL) { s.KeyFile = otherKey },
		"--ssl-require-client-cert needs --ssl-ca-file": func(s *SSL) { s.RequireClientCert = true },
		"cannot read --ssl-ca-file":                     func(s *SSL) { s.CAFile = otherKey + ".not" },
		"holds no certificate":                          func(s *SSL) { s.CAFile = otherKey },
		`names "HIGH"`:                                  func(s *SSL) { s.Ciphers = "HIGH" },
		"nothing that Go can serve":                     func(s *SSL) { s.Ciphers = "DHE-RSA-AES128-SHA" },
		"need --ssl-cert-file and --ssl-key-file":       func(s *SSL) { s.CertFile, s.KeyFile, s.CAFile = "", "", otherKey },
	} {
		c := good
		change(&c.SSL)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
