package controlplane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority returns a certificate that ends then, and its key, as blocks of PEM.
func authority(t *testing.T, name string, ends time.Time) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: ends.Add(-time.Hour), NotAfter: ends, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

func TestCertificatesOfRegistriesAreReadOrRefused(t *testing.T) {
	now := time.Now()
	good, key := authority(t, "good", now.Add(time.Hour))
	old, _ := authority(t, "old", now.Add(-time.Hour))
	dir := t.TempDir()
	file := func(name string, parts ...[]byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Join(parts, nil), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := file("ca.crt", []byte("a comment\n"), old, good)

	got, err := readRegistryCAs([]string{"harbor.example=" + ca, "10.0.0.1:5000=" + ca}, now)
	if err != nil || len(got) != 2 || !bytes.Equal(got["harbor.example"], good) || !bytes.Equal(got["10.0.0.1:5000"], good) {
		t.Errorf("got %s, %v", got, err)
	}
	c, fs := withFlags("/s")
	if err := fs.Parse([]string{"--registry-ca=harbor.example=" + ca}); err != nil {
		t.Fatal(err)
	}
	if e := effectOf(t, *c); !bytes.Equal(e.minions.RegistryCAs["harbor.example"], good) {
		t.Errorf("minions are told %s", e.minions.RegistryCAs)
	}
	if got, err := readRegistryCAs(nil, now); got != nil || err != nil {
		t.Errorf("without the flag: %v, %v", got, err)
	}
	for want, given := range map[string][]string{
		"give HOST=FILE": {ca},
		"=" + ca + ": give HOST=FILE or HOST:PORT=FILE":               {"=" + ca},
		"begins with a scheme":                                        {"https://harbor.example=" + ca},
		"docker.io is Docker Hub":                                     {"docker.io=" + ca},
		"harbor.example is given twice: put the certificates in one":  {"harbor.example=" + ca, "harbor.example=" + ca},
		"no such file or directory":                                   {"harbor.example=" + filepath.Join(dir, "missing")},
		"it has no certificate in PEM":                                {"harbor.example=" + file("der", []byte("\x30\x82"))},
		`the certificate of "CN=old" has expired on`:                  {"harbor.example=" + file("old.crt", old)},
		"it has a private key: give the certificate of the authority": {"harbor.example=" + file("both.pem", good, key)},
		"malformed certificate":                                       {"harbor.example=" + file("bad.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))},
	} {
		if _, err := readRegistryCAs(given, now); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cannot use --registry-ca="+given[0]) {
			t.Errorf("%v: got %v, want %q", given, err, want)
		}
	}
}
