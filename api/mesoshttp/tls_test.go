package mesoshttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
)

// newTLS trusts the authority.
func newTLS(a *mesoshttptest.Authority) *TLS {
	return &TLS{Peer: "Mesos master", Settings: Settings{CA: "--ca", Cert: "--cert", Key: "--key"}, CAFile: a.File}
}

// connect makes a connection and returns its cipher.
func connect(t *testing.T, via *TLS, server *httptest.Server) (cipher uint16, err error) {
	t.Helper()
	conn, err := via.Dial(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().CipherSuite, nil
}

// logged returns what is logged meanwhile.
func logged(t *testing.T, do func()) string {
	t.Helper()
	var said bytes.Buffer
	before := log.StandardLogger().Out
	log.SetOutput(&said)
	defer log.SetOutput(before)
	do()
	return said.String()
}

func TestMesosWithItsOwnCiphersIsSpokenToAndTheBetterSettingIsNamedOnce(t *testing.T) {
	authority := mesoshttptest.NewAuthority(t)
	server := authority.Server(http.NotFoundHandler(), nil, "127.0.0.1")
	via := newTLS(authority)
	said := logged(t, func() {
		for range 2 {
			if cipher, err := connect(t, via, server); err != nil || cipher != tls.TLS_RSA_WITH_AES_128_CBC_SHA && cipher != tls.TLS_RSA_WITH_AES_256_CBC_SHA {
				t.Errorf("connected by %s, %v", tls.CipherSuiteName(cipher), err)
			}
		}
	})
	if strings.Count(said, "LIBPROCESS_SSL_CIPHERS=ECDHE") != 1 || !strings.Contains(said, "LIBPROCESS_SSL_ECDH_CURVES") {
		t.Errorf("it said %s", said)
	}
}

func TestForwardSecrecyIsPreferredWithoutAWarning(t *testing.T) {
	authority := mesoshttptest.NewAuthority(t)
	for want, change := range map[uint16]func(*tls.Config){
		tls.TLS_AES_128_GCM_SHA256: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS13 },
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: func(c *tls.Config) {
			c.CipherSuites = append(c.CipherSuites, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)
		},
	} {
		server := authority.Server(http.NotFoundHandler(), change, "127.0.0.1")
		said := logged(t, func() {
			if got, err := connect(t, newTLS(authority), server); err != nil || got != want {
				t.Errorf("connected by %s, %v, want %s", tls.CipherSuiteName(got), err, tls.CipherSuiteName(want))
			}
		})
		if said != "" {
			t.Errorf("it said %s", said)
		}
	}
}

func TestCertificatesAreVerifiedAndErrorsSayWhatToDo(t *testing.T) {
	authority, other := mesoshttptest.NewAuthority(t), mesoshttptest.NewAuthority(t)
	server := authority.Server(http.NotFoundHandler(), nil, "127.0.0.1")
	elsewhere := authority.Server(http.NotFoundHandler(), nil, "other.example", "10.0.0.1")
	picky := authority.Server(http.NotFoundHandler(), authority.Clients, "127.0.0.1")
	odd := authority.Server(http.NotFoundHandler(), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }, "127.0.0.1")
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	foreign := newTLS(authority)
	foreign.CertFile, foreign.KeyFile = other.Pair("client")
	for _, c := range []struct {
		via    *TLS
		server *httptest.Server
		want   string
	}{
		{newTLS(other), server, "--ca"},
		{newTLS(authority), elsewhere, "10.0.0.1, not 127.0.0.1"},
		{newTLS(authority), picky, "set --cert and --key"},
		{foreign, picky, "LIBPROCESS_SSL_CA_FILE"},
		{newTLS(authority), odd, "LIBPROCESS_SSL_ENABLE_TLS_V1_2"},
		{newTLS(authority), plain, "does not speak TLS"},
	} {
		if _, err := connect(t, c.via, c.server); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if _, err := connect(t, newTLS(authority), plain); !errors.Is(err, ErrNotTLS) {
		t.Errorf("got %v", err)
	}
}

func TestRenewedFilesAreUsedForTheNextConnection(t *testing.T) {
	authority, next := mesoshttptest.NewAuthority(t), mesoshttptest.NewAuthority(t)
	dir := t.TempDir()
	via := newTLS(authority)
	via.CAFile, via.CertFile, via.KeyFile = filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for _, a := range []*mesoshttptest.Authority{authority, next} {
		server := a.Server(http.NotFoundHandler(), a.Clients, "127.0.0.1")
		if _, err := connect(t, via, server); err == nil {
			t.Error("connected without the files")
		}
		pem, err := os.ReadFile(a.File)
		if err == nil {
			err = os.WriteFile(via.CAFile, pem, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.PairAt(via.CertFile, via.KeyFile, "client")
		if _, err := connect(t, via, server); err != nil {
			t.Error(err)
		}
	}
}

func TestWrongFilesAreToldBeforeAnythingIsConnected(t *testing.T) {
	authority := mesoshttptest.NewAuthority(t)
	cert, key := authority.Pair("a")
	_, foreign := mesoshttptest.NewAuthority(t).Pair("b")
	for want, change := range map[string]func(*TLS){
		"--ca":                                  func(v *TLS) { v.CAFile = "/nowhere" },
		"contains no certificate":               func(v *TLS) { v.CAFile = key },
		"--cert and --key must be set together": func(v *TLS) { v.CertFile = cert },
		"(--cert) with the key":                 func(v *TLS) { v.CertFile, v.KeyFile = cert, foreign },
		"no such file":                          func(v *TLS) { v.CertFile, v.KeyFile = cert, "/nowhere" },
		"CAs for the Mesos ma":                  func(v *TLS) { v.CADir = "/nowhere" },
	} {
		via := newTLS(authority)
		change(via)
		if err := via.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	via := newTLS(authority)
	via.CADir, via.CAFile, via.CertFile, via.KeyFile = filepath.Dir(authority.File), "", cert, key
	if err := via.Check(); err != nil {
		t.Error(err)
	}
}

func TestSilentPeerIsGivenUpWithTheCaller(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := (&TLS{}).Dial(ctx, "tcp", l.Addr().String())
		done <- err
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
