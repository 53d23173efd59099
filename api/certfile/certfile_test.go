package certfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/keyutil"
)

// authority signs certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	return authority{parse(t, template, template, key, key), key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parse(t *testing.T, template, parent *x509.Certificate, of, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// write issues a certificate of a name, and replaces the files.
func (a authority) write(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key := newKey(t)
	cert := parse(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(30 * time.Minute),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key, a.key)
	replace(t, certFile, encode(cert))
	data, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, keyFile, data)
}

func encode(certs ...*x509.Certificate) (data []byte) {
	for _, cert := range certs {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return data
}

func replace(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// greet makes a connection to a server with the settings, and returns the name in its certificate and what the server says.
func greet(t *testing.T, settings *tls.Config, as *tls.Certificate) (name string, err error) {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	served := make(chan error, 1)
	go func() {
		defer there.Close()
		served <- tls.Server(there, settings).HandshakeContext(t.Context())
	}()
	config := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12} // in which a refused client is told by the handshake
	if as != nil {
		config.Certificates = []tls.Certificate{*as}
	}
	client := tls.Client(here, config)
	if err := client.HandshakeContext(t.Context()); err != nil {
		return "", err
	}
	return client.ConnectionState().PeerCertificates[0].Subject.CommonName, <-served
}

func TestNextHandshakeHasTheNewCertificate(t *testing.T) {
	dir, ca := t.TempDir(), newAuthority(t)
	certFile, keyFile := filepath.Join(dir, "c"), filepath.Join(dir, "k")
	pair := NewPair(certFile, keyFile)
	if _, err := pair.Get(); err == nil || !strings.Contains(err.Error(), certFile) {
		t.Errorf("without files: %v", err)
	}
	ca.write(t, certFile, keyFile, "first")
	settings, err := Server(&tls.Config{}, pair, "")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := greet(t, settings, nil); name != "first" {
		t.Errorf("%q, %v", name, err)
	}
	ca.write(t, certFile, keyFile, "second")
	if name, err := greet(t, settings, nil); name != "second" {
		t.Errorf("%q, %v", name, err)
	}
	if leaf, err := pair.Leaf(); err != nil || leaf.Subject.CommonName != "second" {
		t.Errorf("%v, %v", leaf, err)
	}
}

func TestSpoiledFilesLeaveTheFormerCertificate(t *testing.T) {
	dir, ca := t.TempDir(), newAuthority(t)
	certFile, keyFile := filepath.Join(dir, "c"), filepath.Join(dir, "k")
	ca.write(t, certFile, keyFile, "first")
	settings, err := Server(&tls.Config{}, NewPair(certFile, keyFile), "")
	if err != nil {
		t.Fatal(err)
	}
	other, err := keyutil.MarshalPrivateKeyToPEM(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(){
		"the key of another certificate": func() { replace(t, keyFile, other) },
		"no certificate":                 func() { replace(t, certFile, []byte("nothing")) },
		"no file":                        func() { _ = os.Remove(keyFile) },
	} {
		spoil()
		if got, err := greet(t, settings, nil); got != "first" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	ca.write(t, certFile, keyFile, "second")
	if got, err := greet(t, settings, nil); got != "second" {
		t.Errorf("mended: %q, %v", got, err)
	}
}

func TestClientsOfANewAuthorityAreTrusted(t *testing.T) {
	dir, old, fresh := t.TempDir(), newAuthority(t), newAuthority(t)
	certFile, keyFile, caFile := filepath.Join(dir, "c"), filepath.Join(dir, "k"), filepath.Join(dir, "ca")
	old.write(t, certFile, keyFile, "server")
	replace(t, caFile, encode(old.cert))
	settings, err := Server(&tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}, NewPair(certFile, keyFile), caFile)
	if err != nil {
		t.Fatal(err)
	}
	client := func(ca authority) *tls.Certificate {
		ca.write(t, filepath.Join(dir, "cc"), filepath.Join(dir, "ck"), "client")
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cc"), filepath.Join(dir, "ck"))
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	ofOld, ofFresh := client(old), client(fresh)
	check := func(state string, trusted ...*tls.Certificate) {
		t.Helper()
		for i, pair := range []*tls.Certificate{ofOld, ofFresh} {
			_, err := greet(t, settings, pair)
			if want := len(trusted) == 2 || trusted[0] == pair; want != (err == nil) {
				t.Errorf("%s, client %d: %v", state, i, err)
			}
		}
	}
	check("with the old CA", ofOld)
	replace(t, caFile, encode(old.cert, fresh.cert))
	check("with both", ofOld, ofFresh)
	replace(t, caFile, []byte("spoiled"))
	check("with a spoiled file", ofOld, ofFresh)
	replace(t, caFile, encode(fresh.cert))
	check("with the new CA", ofFresh)
	if _, err := Server(&tls.Config{}, NewPair(certFile, keyFile), filepath.Join(dir, "none")); err == nil {
		t.Error("a server without the CA of its clients")
	}
}

func TestMetricsTellHowLongFilesLast(t *testing.T) {
	dir, ca := t.TempDir(), newAuthority(t)
	certFile := filepath.Join(dir, "c")
	ca.write(t, certFile, filepath.Join(dir, "k"), "server")
	start := time.Now()
	c := collector{files: map[string]string{"server": certFile, "missing": filepath.Join(dir, "none")}, now: func() time.Time { return start.Add(10 * time.Minute) }}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()+" "+m.Label[0].GetValue()] = m.Gauge.GetValue()
		}
	}
	if l := got["k8sm_certificate_left_seconds server"]; len(got) != 2 || l > 1200 || l < 1100 || got["k8sm_certificate_life_seconds server"] != 1860 {
		t.Errorf("got %v", got)
	}
}
