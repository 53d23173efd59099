package localmesos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secured returns a configuration with TLS, and the pool of its authority. The certificate is one for a client, too.
func secured(t *testing.T) (c Config, pool *x509.CertPool, pair tls.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mesos"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c = testConfig(t)
	c.SSL.CertFile, c.SSL.KeyFile = write("cert.pem", "CERTIFICATE", der), write("key.pem", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(certificate)
	return c, pool, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// health asks for /health with a client of the configuration, or by plain HTTP; "" is an answer.
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
	c, pool, _ := secured(t)
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
	c, pool, _ := secured(t)
	c.SSL.Ciphers = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-SHA"
	if got := health(startCluster(t, c).MasterAddr(), &tls.Config{RootCAs: pool}); got != "" {
		t.Errorf("with ECDHE a stock client gets %q", got)
	}
	c, pool, _ = secured(t)
	c.SSL.EnableTLS13 = true
	if got := health(startCluster(t, c).MasterAddr(), &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}); got != "" {
		t.Errorf("with TLS 1.3 a client gets %q", got)
	}
}

func TestClientWithoutACertificateOfTheAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	c, pool, pair := secured(t)
	c.SSL.RequireClientCert, c.SSL.CAFile = true, c.SSL.CertFile
	address := startCluster(t, c).MasterAddr()
	if got := health(address, &tls.Config{RootCAs: pool, CipherSuites: rsaKeyExchange}); got == "" {
		t.Error("a client without a certificate gets an answer")
	}
	_, _, other := secured(t)
	if got := health(address, &tls.Config{RootCAs: pool, CipherSuites: rsaKeyExchange, Certificates: []tls.Certificate{other}}); got == "" {
		t.Error("a client with a certificate of another authority gets an answer")
	}
	if got := health(address, &tls.Config{RootCAs: pool, CipherSuites: rsaKeyExchange, Certificates: []tls.Certificate{pair}}); got != "" {
		t.Errorf("a client with a certificate gets %q", got)
	}
}

func TestTLSThatCannotBeIsRefused(t *testing.T) {
	good, _, _ := secured(t)
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
