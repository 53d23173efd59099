package cri

import (
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/k8sm/k8sm/api/mesoshttp/mesoshttptest"
)

// certPath makes a directory as DOCKER_CERT_PATH with a client certificate of the authority.
func certPath(t *testing.T, authority *mesoshttptest.Authority) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := os.ReadFile(authority.File)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	authority.PairAt(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), "minion")
	return dir
}

func TestEngineIsReachedByTLSWithACertificate(t *testing.T) {
	asked := make(chan string, 100)
	pong := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.TLS.PeerCertificates[0].Subject.CommonName
		w.Header().Set("Api-Version", "1.41")
	})
	authority, foreign := mesoshttptest.NewAuthority(t), mesoshttptest.NewAuthority(t)
	strict := func(c *tls.Config) { // as dockerd with --tlsverify
		authority.Clients(c)
		c.CipherSuites, c.MaxVersion = nil, 0
	}
	engine := authority.Server(pong, strict, "127.0.0.1")
	impostor := foreign.Server(pong, strict, "127.0.0.1")
	dir := certPath(t, authority)
	for _, test := range []struct {
		name, address, certPath string
		fails                   bool
	}{
		{"with the certificates", engine.Listener.Addr().String(), dir, false},
		{"without", engine.Listener.Addr().String(), "", true},
		{"with a certificate of another authority", engine.Listener.Addr().String(), certPath(t, foreign), true},
		{"at another Engine, which its authority did not sign", impostor.Listener.Addr().String(), dir, true},
	} {
		docker, err := Connect("tcp://"+test.address, test.certPath)
		if err != nil {
			t.Fatal(err)
		}
		_, err = docker.Ping(t.Context())
		if (err != nil) != test.fails {
			t.Errorf("%s: %v", test.name, err)
		}
		if err := docker.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(asked) == 0 || len(asked) > 2 { // with Ping, which asks by HEAD and perhaps by GET
		t.Errorf("the Engine was asked %d times", len(asked))
	}
	if _, err := Connect("tcp://127.0.0.1:1", t.TempDir()); err == nil || !strings.Contains(err.Error(), "ca.pem") || !strings.Contains(err.Error(), "tcp://127.0.0.1:1") {
		t.Errorf("without files: %v", err)
	}
}

func TestCertificatesAreNotForSockets(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "d.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	docker, err := Connect("unix://"+socket, "/nowhere")
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	if _, err := docker.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
