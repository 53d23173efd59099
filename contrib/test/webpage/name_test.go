package webpage

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/scheduler/status"
)

// named is the cluster's name, which is not the default.
const named = "other"

// leads makes the scheduler's status that of the leader of the cluster, while stop has not been called.
func (c *cluster) leads(t *testing.T) (stop func()) {
	t.Helper()
	etcd, err := c.dir.Etcd()
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(t.Context(), state.Config{Endpoints: etcd.Endpoints, CAFile: etcd.CAFile, CertFile: etcd.CertFile, KeyFile: etcd.KeyFile, Name: named})
	if err != nil {
		t.Fatal(err)
	}
	address, err := c.mesos.find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Lead(t.Context(), status.SchedulerName("here", 1, address)); err != nil {
		t.Fatal(err)
	}
	return func() { store.Close() }
}

// pagesKnowTheName asks the pages of km apiserver and km ui for what the scheduler of their cluster knows.
func pagesKnowTheName(t *testing.T, c *cluster) {
	defer c.leads(t)()
	token := c.token(t, "operator", map[string]string{"": "cluster-admin"})
	knows(t, "km apiserver", "https://"+c.address, "/auth/token", token)

	cmd := exec.CommandContext(t.Context(), c.km, "ui", "--address=127.0.0.1:0", "--state-dir="+string(c.dir), "--cluster-name="+named)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Signal(syscall.SIGTERM), cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	base, key, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "Web: "), "/#key=")
	if err != nil || !found {
		t.Fatalf("km ui says %q, %v", line, err)
	}
	knows(t, "km ui", base, "/auth/key", key)
}

// knows logs in to a page, and fails the test if it does not know the scheduler.
func knows(t *testing.T, whose, base, way, secret string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := client.Post(base+way, "application/json", strings.NewReader(fmt.Sprintf(`{"secret": %q}`, secret)))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	response, err = client.Get(base + "/api/mesos/state")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if said, err := io.ReadAll(response.Body); response.StatusCode != http.StatusOK || !strings.Contains(string(said), agent) {
		t.Errorf("the page of %s answers %d %s, %v", whose, response.StatusCode, said, err)
	}
}
