package minion

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dockerclient "github.com/docker/docker/client"
)

func TestHealthIsWhatTheEndpointSays(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, "syncloop failed at "+r.URL.Path)
	}))
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	if err := getHealth(t.Context(), port, "/livez"); err != nil {
		t.Error(err)
	}
	status = http.StatusInternalServerError
	if err := getHealth(t.Context(), port, "/livez"); !errors.As(err, &unhealthy{}) || !strings.Contains(err.Error(), "syncloop failed at /livez") {
		t.Error(err)
	}
	server.Close()
	if err := getHealth(t.Context(), port, "/livez"); err == nil || errors.As(err, &unhealthy{}) {
		t.Errorf("nothing listens, but the error is %v", err)
	}
}

// part is the health port of a part of a node, or its Docker Engine.
func part(t *testing.T) (port int, broken *atomic.Bool) {
	t.Helper()
	broken = new(atomic.Bool)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port, broken
}

func TestNodeIsReadyWhileAllItsPartsAre(t *testing.T) {
	kubelet, noKubelet := part(t)
	proxy, noProxy := part(t)
	engine, noEngine := part(t)
	var noServer atomic.Bool
	docker, err := dockerclient.NewClientWithOpts(dockerclient.WithHost(fmt.Sprintf("tcp://127.0.0.1:%d", engine)))
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	n := node{docker: docker, settings: settings{kubeletHealthPort: kubelet, proxyHealthPort: proxy}}
	ready := func() error {
		return n.ready(func() error {
			if noServer.Load() {
				return errors.New("no API server is ready")
			}
			return nil
		})(t.Context())
	}
	for says, broken := range map[string]*atomic.Bool{"kubelet": noKubelet, "kube-proxy": noProxy, "Docker Engine": noEngine, "API servers": &noServer} {
		if err := ready(); err != nil {
			t.Errorf("at first: %v", err)
		}
		broken.Store(true)
		if err := ready(); err == nil || !strings.HasPrefix(err.Error(), says+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("without %s: %v", says, err)
		}
		broken.Store(false)
	}
}

func TestLogsInTheSandboxAreRotatedAndBounded(t *testing.T) {
	n := node{}
	n.env.Sandbox = t.TempDir()
	log := n.sandboxLog("kubelet")
	defer log.Close()
	line := []byte(strings.Repeat("x", 1<<20-1) + "\n")
	for range 100 {
		if _, err := log.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.After(30 * time.Second)
	for { // lumberjack removes old files in a goroutine
		files, err := filepath.Glob(filepath.Join(n.env.Sandbox, "kubelet*.log"))
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				size += info.Size()
			}
		}
		if len(files) == 4 && size <= 40<<20 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("100 MB became %d bytes in %v", size, files)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
