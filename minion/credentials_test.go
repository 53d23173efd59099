package minion

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue writes a client's pair as the kubelet does: the certificate, then its key.
func (a *authority) issue(path, name string) { a.issueFor(path, name, x509.ExtKeyUsageClientAuth) }

func (a *authority) issueFor(path, name string, usage x509.ExtKeyUsage, hosts ...string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, DNSNames: hosts,
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	content := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// shortDir returns a directory for the test whose name, unlike that of t.TempDir, is short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func testNode(t *testing.T, a *authority) (layout, api.Bootstrap) {
	files, err := newLayout(shortDir(t), "k8sm", "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := files.make(); err != nil {
		t.Fatal(err)
	}
	return files, api.Bootstrap{Cluster: "k8sm", Node: "agent-1", APIServer: "https://127.0.0.1:6443", CA: a.pem, Token: "abcdef.0123456789abcdef"}
}

func TestNodeWithoutCertificateBootstrapsWithItsToken(t *testing.T) {
	files, boot := testNode(t, newAuthority(t))
	if err := files.prepareIdentity(boot, boot.CA, time.Now()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(files.bootstrapKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the token: %s", info.Mode())
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", files.bootstrapKubeconfig())
	if err != nil || cfg.BearerToken != boot.Token || cfg.Host != boot.APIServer {
		t.Errorf("%+v %v", cfg, err)
	}
}

func TestNodeWithGoodCertificateNeedsNoToken(t *testing.T) {
	a := newAuthority(t)
	files, boot := testNode(t, a)
	a.issue(files.certificate(), "system:node:agent-1")
	if err := files.prepareIdentity(boot, boot.CA, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(files.bootstrapKubeconfig()); !os.IsNotExist(err) {
		t.Errorf("the token was written: %v", err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", files.kubeconfig())
	if err != nil || cfg.CertFile != files.certificate() || cfg.Host != boot.APIServer {
		t.Errorf("%+v %v", cfg, err)
	}
}

func TestInvalidCertificateIsNotUsed(t *testing.T) {
	a := newAuthority(t)
	for name, spoil := range map[string]func(files layout, boot *api.Bootstrap) time.Time{
		"expired": func(layout, *api.Bootstrap) time.Time { return time.Now().Add(2 * time.Hour) },
		"another node's": func(files layout, _ *api.Bootstrap) time.Time {
			a.issue(files.certificate(), "system:node:agent-2")
			return time.Now()
		},
		"another cluster's": func(_ layout, boot *api.Bootstrap) time.Time {
			boot.CA = newAuthority(t).pem
			return time.Now()
		},
		"broken": func(files layout, _ *api.Bootstrap) time.Time {
			if err := os.WriteFile(files.certificate(), []byte("-----BEGIN"), 0o600); err != nil {
				t.Fatal(err)
			}
			return time.Now()
		},
	} {
		t.Run(name, func(t *testing.T) {
			files, boot := testNode(t, a)
			a.issue(files.certificate(), "system:node:agent-1")
			now := spoil(files, &boot)
			if err := files.prepareIdentity(boot, boot.CA, now); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(files.bootstrapKubeconfig()); err != nil {
				t.Errorf("no bootstrap kubeconfig was written: %v", err)
			}
			if _, err := os.Stat(files.certificate()); !os.IsNotExist(err) {
				t.Errorf("the invalid certificate was not removed: %v", err)
			}
		})
	}
}

func TestOnlyPairsSignedByTheClustersCAAreKept(t *testing.T) {
	a, serving, before := newAuthority(t), newAuthority(t), newAuthority(t)
	files, boot := testNode(t, a)
	pki := func(name string) string { return filepath.Join(files.pki(), name) }
	// The kubelet keeps a pair in a file with its date, and a link to the newest.
	server := func(by *authority, date string) {
		t.Helper()
		by.issueFor(pki("kubelet-server-"+date+".pem"), "system:node:agent-1", x509.ExtKeyUsageServerAuth)
		current := pki("kubelet-server-current.pem")
		if err := os.Remove(current); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.Symlink(pki("kubelet-server-"+date+".pem"), current); err != nil {
			t.Fatal(err)
		}
	}
	check := func(now time.Time, want ...string) {
		t.Helper()
		if err := files.prepareIdentity(boot, serving.pem, now); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(pki("*.pem"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range found {
			found[i] = filepath.Base(found[i])
		}
		if diff := cmp.Diff(want, found, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the node's pairs (-want +got):\n%s", diff)
		}
	}
	before.issue(files.certificate(), "system:node:agent-1")
	server(before, "2026-01-01")
	check(time.Now())

	a.issue(files.certificate(), "system:node:agent-1")
	server(a, "2026-01-01") // before kubelets had a CA of their own
	check(time.Now(), "kubelet-client-current.pem")
	server(serving, "2026-02-02")
	check(time.Now(), "kubelet-client-current.pem", "kubelet-server-2026-02-02.pem", "kubelet-server-current.pem")
	check(time.Now().Add(2 * time.Hour)) // all have expired
}

func TestTokenIsRemovedOnceTheCertificateIsThere(t *testing.T) {
	a := newAuthority(t)
	files, boot := testNode(t, a)
	if err := files.prepareIdentity(boot, boot.CA, time.Now()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- files.awaitIdentity(t.Context(), boot) }()
	a.issue(files.certificate(), "system:node:agent-1")
	if err := writeKubeconfig(files.kubeconfig(), kubeconfig(boot, files.ca(), files.nodeAuth())); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(files.bootstrapKubeconfig()); !os.IsNotExist(err) {
		t.Errorf("the bootstrap token was not removed: %v", err)
	}
}

func TestOnlyLastingRejectionEndsTheExecutor(t *testing.T) {
	var r rejection
	no, begin := apierrors.NewUnauthorized("no"), time.Now()
	for i, step := range []struct {
		after time.Duration
		err   error
		want  bool
	}{
		{0, no, false}, {20 * time.Second, no, false}, {29 * time.Second, errors.New("connection refused"), false},
		{31 * time.Second, no, false}, {60 * time.Second, no, false}, {61 * time.Second, no, true}, {62 * time.Second, nil, false},
	} {
		if got := r.lasts(begin.Add(step.after), step.err); got != step.want {
			t.Errorf("step %d: got %v", i, got)
		}
	}
}

func TestConfigurationComesFromTheConfigMap(t *testing.T) {
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.MinionConfigNamespace, Name: api.MinionConfigName},
		Data:       map[string]string{api.MinionConfigKey: `{"clusterCIDR":"10.244.0.0/16","rootDir":"/r"}`},
	}
	cfg, err := fetchConfig(context.Background(), fake.NewClientset(object))
	if err != nil || cfg.ClusterCIDR != "10.244.0.0/16" || cfg.RootDir != "/r" {
		t.Errorf("%+v %v", cfg, err)
	}
	if _, err := fetchConfig(context.Background(), fake.NewClientset()); err == nil || !strings.Contains(err.Error(), "kube-system/k8sm-minion") {
		t.Errorf("err = %v", err)
	}
}

// TestMinionAsksForProtobuf: it watches all nodes, and JSON of them costs both sides more.
func TestMinionAsksForProtobuf(t *testing.T) {
	wanted := make(chan string, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wanted <- r.Header.Get("Accept")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	boot := api.Bootstrap{APIServer: server.URL, Token: "t", CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
	client, err := newClient(boot, "", tokenAuth(boot))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("a teapot has nodes")
	}
	if got := <-wanted; !strings.HasPrefix(got, "application/vnd.kubernetes.protobuf") {
		t.Errorf("it asks for %q", got)
	}
}

func TestLayoutKeepsSocketPathsShort(t *testing.T) {
	files, err := newLayout("/var/lib/k8sm", "k8sm", strings.Repeat("n", 60)+".example.org")
	if err != nil || len(files.longestSocket()) > maxSocketPath {
		t.Errorf("%s %v", files.dir, err)
	}
	if _, err := newLayout("/"+strings.Repeat("r", 100), "k8sm", "n"); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("err = %v", err)
	}
}
