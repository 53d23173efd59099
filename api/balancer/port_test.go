package balancer

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// kubeconfigOf writes a kubeconfig for a server, with the CA in a file beside it.
func (a authority) kubeconfigOf(t *testing.T, address string) (path string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["a"] = &clientcmdapi.Cluster{Server: "https://" + address, CertificateAuthority: "ca.crt"}
	c.AuthInfos["a"] = &clientcmdapi.AuthInfo{Token: "secret"}
	c.Contexts["a"] = &clientcmdapi.Context{Cluster: "a", AuthInfo: "a"}
	c.CurrentContext = "a"
	path = filepath.Join(dir, "some.kubeconfig")
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// opened opens a port that is served until the test ends.
func opened(t *testing.T, kubeconfig, file string) *Port {
	t.Helper()
	p, err := OpenPort(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if file != "" {
		p.Remember(file)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	for _, run := range []func(context.Context) error{p.Run, p.ServePort} {
		go func() { _ = run(ctx); ended <- struct{}{} }()
	}
	t.Cleanup(func() { cancel(); <-ended; <-ended; p.Close() })
	return p
}

// answering returns who answers a client that has read the port's kubeconfig.
func (p *Port) answering(t *testing.T) (name string, err error) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if config.BearerToken != "secret" || !strings.HasPrefix(config.Host, "https://127.0.0.1:") {
		t.Fatalf("the kubeconfig has the server %s and the token %q", config.Host, config.BearerToken)
	}
	config.Timeout = 20 * time.Second
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	response, err := client.Get(config.Host)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return strings.TrimSpace(string(text)), err
}

func TestKubeconfigOfAPortLeadsToAnyServer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := ca.start(t, "one", ""), ca.start(t, "two", "")
	kubeconfig, file := ca.kubeconfigOf(t, one.address()), filepath.Join(t.TempDir(), "api-servers.json")
	p := opened(t, kubeconfig, file)
	if name, err := p.answering(t); name != "one" || err != nil {
		t.Errorf("at first %q, %v", name, err)
	}
	p.Set([]string{one.address(), two.address()})
	one.kill()
	if name, err := p.answering(t); name != "two" || err != nil {
		t.Errorf("without the first server %q, %v", name, err)
	}
	later := opened(t, kubeconfig, file)
	if name, err := later.answering(t); name != "two" || err != nil {
		t.Errorf("one that starts without the first server: %q, %v", name, err)
	}
}

func TestKubeconfigOfAPortIsInNoDirectory(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	p := opened(t, ca.kubeconfigOf(t, ca.start(t, "one", "").address()), "")
	target, err := os.Readlink(p.Kubeconfig())
	if err != nil || !strings.HasPrefix(target, "/memfd:") {
		t.Errorf("it is at %s, %v", target, err)
	}
}

func TestOnlyConfigurationsThatLeadToAPIServersThemselvesSuit(t *testing.T) {
	ca := []byte("a CA")
	good := rest.Config{Host: "https://192.0.2.1:6443", TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
	for what, change := range map[string]func(*rest.Config){
		"+by its CA":              func(*rest.Config) {},
		"+by a CA in a file":      func(c *rest.Config) { c.CAData, c.CAFile = nil, "ca.crt" },
		"+by the usual name":      func(c *rest.Config) { c.ServerName = ServerName },
		"-by http":                func(c *rest.Config) { c.Host = "http://192.0.2.1:6443" },
		"-by a host alone":        func(c *rest.Config) { c.Host = "192.0.2.1:6443" },
		"-by CAs of the machine":  func(c *rest.Config) { c.CAData = nil },
		"-without a check":        func(c *rest.Config) { c.CAData, c.Insecure = nil, true },
		"-under another name":     func(c *rest.Config) { c.ServerName = "api.example" },
		"-through a proxy":        func(c *rest.Config) { c.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } },
		"-by a dialer of its own": func(c *rest.Config) { c.Dial = new(Balancer).Dial },
	} {
		c := good
		change(&c)
		if got := Suits(&c); got != (what[0] == '+') {
			t.Errorf("%s: %v", what, got)
		}
	}
}
