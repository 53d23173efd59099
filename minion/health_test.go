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
	"testing"
	"time"
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
