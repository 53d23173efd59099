package commiter

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	certutil "k8s.io/client-go/util/cert"
)

const (
	ftpUser     = "backup"
	ftpPassword = "correct horse"
)

// ftpServer is a script for Debian's python3-pyftpdlib: the server of a directory, with TLS if there is a certificate. It says where it
// listens.
const ftpServer = `
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer
directory, user, password, certificate = sys.argv[1:5]
handler = TLS_FTPHandler if certificate else FTPHandler
handler.authorizer = DummyAuthorizer()
handler.authorizer.add_user(user, password, directory, perm="elradfmwMT")
if certificate:
    handler.certfile = certificate
    handler.tls_control_required = handler.tls_data_required = True
server = FTPServer(("127.0.0.1", 0), handler)
print("listening on %s:%d" % server.socket.getsockname(), flush=True)
server.serve_forever()
`

// serveFTP starts an FTP server and returns its address.
func serveFTP(t *testing.T, dir, certificate string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", ftpServer, dir, ftpUser, ftpPassword, certificate)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out lines
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; run make test-deps first", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 200 {
		if _, address, found := strings.Cut(out.String(), "listening on "); found && strings.Contains(address, "\n") {
			address, _, _ = strings.Cut(address, "\n")
			return address
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the FTP server did not start (make test-deps installs it): %s", out.String())
	return ""
}

// lines is an output that can be read while it is written.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parsed(t *testing.T, url string, l login) *target {
	t.Helper()
	to, err := parseUpload(url, l)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// arrives uploads twice: folders and files that exist are no error, and the second text wins.
func arrives(t *testing.T, to *target, dir string) {
	t.Helper()
	for _, text := range []string{"first", "second and longer"} {
		if err := to.put(t.Context(), "/shop/web", "shop-web-198.51.100.1.yaml", []byte(text)); err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(dir, "shop", "web")
		got, err := os.ReadFile(filepath.Join(folder, "shop-web-198.51.100.1.yaml"))
		if err != nil || string(got) != text {
			t.Errorf("the server has %q, %v", got, err)
		}
		if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
			t.Errorf("the server has %v, %v", left, err)
		}
	}
}

func TestUploadByFTP(t *testing.T) {
	dir := t.TempDir()
	address := serveFTP(t, dir, "")
	l := login{passwordFile: write(t, "password", []byte(ftpPassword+"\n"))}
	arrives(t, parsed(t, "ftp://"+ftpUser+"@"+address, l), dir)
	arrives(t, parsed(t, "ftp://"+ftpUser+"@"+address+"/a/b/", l), filepath.Join(dir, "a", "b"))
	l.passwordFile = write(t, "password", []byte("wrong"))
	err := parsed(t, "ftp://"+ftpUser+"@"+address, l).put(t.Context(), "/shop/web", "x.yaml", nil)
	if err == nil || !strings.Contains(err.Error(), "cannot log in") {
		t.Errorf("with a wrong password: %v", err)
	}
}

func TestUploadByFTPS(t *testing.T) {
	dir := t.TempDir()
	cert, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.ParseIP("127.0.0.1")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	address := serveFTP(t, dir, write(t, "server.pem", append(cert, key...)))
	l := login{passwordFile: write(t, "password", []byte(ftpPassword)), caFile: write(t, "ca.crt", cert)}
	arrives(t, parsed(t, "ftps://"+ftpUser+"@"+address, l), dir)
	l.caFile = ""
	err = parsed(t, "ftps://"+ftpUser+"@"+address, l).put(t.Context(), "/shop/web", "x.yaml", nil)
	if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) {
		t.Errorf("a server of an unknown CA: %v", err)
	}
}

// serveSFTP is an SSH server that runs OpenSSH's sftp-server in a directory. It takes one key.
func serveSFTP(t *testing.T, dir string, client ssh.PublicKey) (address string, host ssh.PublicKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), client.Marshal()) {
				return nil, errors.New("an unknown key")
			}
			return nil, nil
		},
		PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if string(password) != ftpPassword {
				return nil, errors.New("a wrong password")
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveSSH(t.Context(), conn, config, dir)
		}
	}()
	return listener.Addr().String(), signer.PublicKey()
}

func serveSSH(ctx context.Context, conn net.Conn, config *ssh.ServerConfig, dir string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		for request := range requests {
			wanted := request.Type == "subsystem" && string(request.Payload[4:]) == "sftp"
			_ = request.Reply(wanted, nil)
			if wanted {
				break
			}
		}
		go ssh.DiscardRequests(requests)
		cmd := exec.CommandContext(ctx, "/usr/lib/openssh/sftp-server", "-d", dir)
		cmd.Stdin, cmd.Stdout = channel, channel
		_ = cmd.Run()
		_ = channel.Close()
	}
}

func TestUploadBySFTP(t *testing.T) {
	if _, err := os.Stat("/usr/lib/openssh/sftp-server"); err != nil {
		t.Fatalf("%v; run make test-deps first", err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	address, host := serveSFTP(t, dir, client)
	known := write(t, "known_hosts", []byte(knownhosts.Line([]string{address}, host)+"\n"))
	l := login{keyFile: write(t, "key", pem.EncodeToMemory(block)), knownHosts: known}
	// The server has the machine's paths.
	arrives(t, parsed(t, "sftp://"+ftpUser+"@"+address+dir, l), dir)
	byPassword := login{passwordFile: write(t, "password", []byte(ftpPassword)), knownHosts: known}
	arrives(t, parsed(t, "sftp://"+ftpUser+"@"+address+dir+"/p", byPassword), filepath.Join(dir, "p"))
	l.knownHosts = write(t, "known_hosts", []byte(knownhosts.Line([]string{address}, client)+"\n"))
	err = parsed(t, "sftp://"+ftpUser+"@"+address+dir, l).put(t.Context(), "/shop/web", "x.yaml", nil)
	if changed := new(knownhosts.KeyError); !errors.As(err, &changed) {
		t.Errorf("a server with another key: %v", err)
	}
}

func TestUploadToAServerThatSaysNothingEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, url := range []string{"ftp://" + listener.Addr().String(), "sftp://a@" + listener.Addr().String()} {
		l := login{}
		if strings.HasPrefix(url, "sftp") {
			l = login{passwordFile: write(t, "password", []byte("x")), knownHosts: write(t, "known_hosts", nil)}
		}
		if err := parsed(t, url, l).put(ctx, "/a/b", "x.yaml", nil); err == nil {
			t.Errorf("%s: no error", url)
		}
	}
}

func TestWrongUploadsAreRefused(t *testing.T) {
	for url, want := range map[string]string{
		"http://files.example":               "give ftp://, ftps:// or sftp://",
		"files.example":                      "give ftp://, ftps:// or sftp://",
		"ftp://":                             "give ftp://, ftps:// or sftp://",
		"ftp://a:secret@files.example":       "with a password in it",
		"ftp://a@files.example":              "without --ftp-password-file",
		"sftp://files.example":               "without a user",
		"ftp://files.example/%0D%0ADELE%20x": "it has a line break",
		"ftp://files.example?x":              "give ftp://, ftps:// or sftp://",
		"%":                                  "it is no URL",
	} {
		_, err := parseUpload(url, login{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
	for want, l := range map[string]login{
		"--ftp-key-file or --ftp-known-hosts": {keyFile: "x"}, "but with --ftp=ftps://": {caFile: "x"},
	} {
		if _, err := parseUpload("ftp://files.example", l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", l, err, want)
		}
	}
	if _, err := parseUpload("", login{caFile: "x"}); err == nil {
		t.Error("a flag of an upload without an upload is taken")
	}
	to := parsed(t, "sftp://a@[fd00::1]/x/../y", login{keyFile: "k"})
	if got := fmt.Sprint(to, to.path("/A/C", "n.yaml")); got != "sftp://[fd00::1]:22/y/A/C/n.yaml" {
		t.Error(got)
	}
}
