// Package mesoshttptest is for tests of TLS clients of Mesos: it makes certificates, and servers as strict as a Mesos with default
// ciphers. It must never be linked into a program.
package mesoshttptest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates for a test.
type Authority struct {
	// File is its own certificate, in PEM.
	File string

	t           testing.TB
	certificate *x509.Certificate
	key         *rsa.PrivateKey // shared by all its certificates, because generating one is slow
	dir         string
	serial      int64
}

// NewAuthority makes an authority whose files are the test's.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var err error
	if a.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	a.File = filepath.Join(a.dir, "ca.pem")
	a.sign(template, a.File, filepath.Join(a.dir, "ca-key.pem"))
	pair, err := tls.LoadX509KeyPair(a.File, filepath.Join(a.dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	a.certificate = pair.Leaf
	return a
}

// Pair writes a certificate for the IP addresses and names, and its key. The first name is also the common name.
func (a *Authority) Pair(hosts ...string) (certFile, keyFile string) {
	a.t.Helper()
	certFile, keyFile = filepath.Join(a.dir, hosts[0]+".pem"), filepath.Join(a.dir, hosts[0]+"-key.pem")
	a.PairAt(certFile, keyFile, hosts...)
	return certFile, keyFile
}

// PairAt is Pair with the given files.
func (a *Authority) PairAt(certFile, keyFile string, hosts ...string) {
	a.t.Helper()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, host)
	}
	a.sign(template, certFile, keyFile)
}

// sign writes a certificate and its key. The authority's own is self-signed.
func (a *Authority) sign(template *x509.Certificate, certFile, keyFile string) {
	a.t.Helper()
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &a.key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(certFile, "CERTIFICATE", der)
	a.write(keyFile, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(a.key))
}

func (a *Authority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// Server serves like a Mesos with default ciphers: TLS 1.2 without forward secrecy (LIBPROCESS_SSL_CIPHERS in
// https://mesos.apache.org/documentation/latest/ssl/). Its certificate is for the hosts; change may modify the configuration.
func (a *Authority) Server(handler http.Handler, change func(*tls.Config), hosts ...string) *httptest.Server {
	a.t.Helper()
	certFile, keyFile := a.Pair(hosts...)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		a.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA},
	}
	if change != nil {
		change(s.TLS)
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail
	s.StartTLS()
	a.t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Clients makes a server require certificates of the authority, as LIBPROCESS_SSL_REQUIRE_CLIENT_CERT does.
func (a *Authority) Clients(c *tls.Config) {
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, a.Pool()
}

// Pool trusts the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}
