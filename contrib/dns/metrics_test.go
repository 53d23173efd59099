package dns

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/statedir"
)

// servedMetrics serves the metrics of a server in a new cluster until the test ends.
func servedMetrics(t *testing.T) (dir statedir.Dir, url string) {
	t.Helper()
	dir = statedir.Dir(t.TempDir())
	if err := dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	m := Metrics{Address: "127.0.0.1:0", ClientCAFile: dir.CA()}
	m.CertFile, m.KeyFile = dir.Pair(statedir.DNSServer)
	listener, err := m.listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return dir, "https://" + listener.Addr().String()
}

// configOf has the certificate of a kubeconfig; with "", none.
func configOf(t *testing.T, kubeconfig string) *tls.Config {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true}
	if kubeconfig == "" {
		return config
	}
	who, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err == nil {
		err = rest.LoadTLSFiles(who)
	}
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(who.CertData, who.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config
}

// getAs requests a URL as configOf says.
func getAs(t *testing.T, kubeconfig, url string) (code int, body string, err error) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: configOf(t, kubeconfig), DisableKeepAlives: true}, Timeout: 20 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func TestProfilesAreForAdministratorsAndMetricsForTheCluster(t *testing.T) {
	dir, url := servedMetrics(t)
	for kubeconfig, profiles := range map[string]int{dir.AdminKubeconfig(): http.StatusOK, dir.DNSKubeconfig(): http.StatusForbidden} {
		if code, body, err := getAs(t, kubeconfig, url+"/metrics"); err != nil || code != http.StatusOK || !strings.Contains(body, "coredns_") {
			t.Errorf("%s gets %d %.300s %v", kubeconfig, code, body, err)
		}
		if code, body, err := getAs(t, kubeconfig, url+"/debug/pprof/goroutine?debug=1"); err != nil || code != profiles {
			t.Errorf("%s gets the profiles: %d %.300s %v", kubeconfig, code, body, err)
		}
	}
	other, _ := servedMetrics(t)
	for _, stranger := range []string{"", other.AdminKubeconfig()} {
		if code, _, err := getAs(t, stranger, url+"/metrics"); err == nil {
			t.Errorf("%q gets %d", stranger, code)
		}
	}
}

func TestMetricsTakeStrongCipherSuitesOnly(t *testing.T) {
	dir, url := servedMetrics(t)
	for suite, good := range map[uint16]bool{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: true, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA: false} {
		config := configOf(t, dir.AdminKubeconfig())
		config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{suite}
		conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), config)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != good {
			t.Errorf("%s: %v", tls.CipherSuiteName(suite), err)
		}
	}
}
