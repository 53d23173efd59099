package cli

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api/statedir"
)

// prepared is a state directory with its certificates.
func prepared(t *testing.T) statedir.Dir {
	t.Helper()
	dir := statedir.Dir(t.TempDir())
	if err := dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://192.0.2.1:6443", ServerNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestKubecfgFindsTheCluster: as its administrator, by the record of the gateway's address.
func TestKubecfgFindsTheCluster(t *testing.T) {
	dir := prepared(t)
	pool, err := certutil.NewPool(dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(dir.Pair(statedir.APIServer))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"kind":"Status","status":"%s"}`, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	defer s.Close()
	t.Setenv("KUBERNETES_MASTER", "")
	t.Setenv("HOME", t.TempDir())
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, address := range []string{s.Listener.Addr().String(), "[::]:" + port} {
		if err := dir.WriteGateway(statedir.Gateway{Address: address}); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"--state-dir", string(dir), "kubecfg"}, {"kubecfg", "--state-dir=" + string(dir)}} {
			var out, errs strings.Builder
			status := Run(append(args, "-template", "{{.status}}", "get", "pods/x"), &out, &errs)
			if status != 0 || out.String() != "kubernetes-admin\n" || errs.String() != "" {
				t.Errorf("%q: exit status %d, %q, %q", args, status, out.String(), errs.String())
			}
		}
	}
}

func TestKubecfgFailsAsItDid(t *testing.T) {
	t.Setenv("KUBERNETES_MASTER", "")
	t.Setenv("HOME", t.TempDir())
	for line, want := range map[string]struct {
		status int
		errs   string
	}{
		"kubecfg list pods":     {exitFailed, "Can't configure client: no cluster in "},
		"kubecfg frob":          {exitFailed, "Unknown command frob\n"},
		"kubecfg -frob":         {exitUsage, "flag provided but not defined: -frob\nUsage: kubecfg"},
		"kubecfg":               {exitFailed, "Usage: kubecfg"},
		"kubecfg create pods":   {exitFailed, "Need config file (-c)\n"},
		"kubecfg --frob=1 help": {exitUsage, "flag provided but not defined: -frob\n"},
	} {
		if status, out, errs := km(t, strings.Fields(line)...); status != want.status || out != "" || !strings.HasPrefix(errs, want.errs) {
			t.Errorf("km %s: exit status %d, %q, %q", line, status, out, errs)
		}
	}
}

func TestKubecfgHelps(t *testing.T) {
	for _, line := range []string{"kubecfg --help", "kubecfg -help", "help kubecfg"} {
		if status, out, errs := km(t, strings.Fields(line)...); status != 0 || errs != "" || !strings.HasPrefix(out, "Usage: kubecfg") || !strings.HasSuffix(out, kubecfgHelp) {
			t.Errorf("km %s: exit status %d, %q, %q", line, status, out, errs)
		}
	}
}
