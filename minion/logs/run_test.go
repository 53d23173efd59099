package logs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/logs"
)

// ServeHTTP serves the protocol.
func (f *fakeStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, logs.PathSessions), "/"), "/")
	var answer any
	var err error
	switch {
	case r.Method == http.MethodPost && parts[0] == "":
		answer, err = f.Open(r.Context())
	case r.Method == http.MethodGet && len(parts) == 1:
		answer, err = f.Durable(r.Context(), parts[0])
	case r.Method == http.MethodPost && len(parts) == 2 && parts[1] == "held":
		var q logs.Questions
		if err = json.NewDecoder(r.Body).Decode(&q); err == nil {
			answer, err = f.Held(r.Context(), parts[0], q)
		}
	case r.Method == http.MethodPost && len(parts) == 3 && r.Header.Get("Content-Encoding") == "gzip":
		number, _ := strconv.ParseInt(parts[2], 10, 64)
		var body []byte
		if body, err = io.ReadAll(r.Body); err == nil {
			answer, err = f.Send(r.Context(), parts[0], number, body)
		}
	default:
		err = errRejected
	}
	switch {
	case errors.Is(err, errSessionEnded):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// The whole of it, by HTTPS and inotify: lines arrive within a second, rotation and deletion included.
func TestLinesArriveWithinASecond(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	server := httptest.NewTLSServer(store)
	defer server.Close()
	dir := t.TempDir()
	podLogs := filepath.Join(dir, "pod-logs")
	if err := os.Mkdir(podLogs, 0o755); err != nil {
		t.Fatal(err)
	}
	quiet := logrus.New()
	quiet.SetOutput(t.Output())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{
			Logs: podLogs, Dir: filepath.Join(dir, "logs"), Store: NewClient(server.URL, server.Client()), MinFreeBytes: 1,
			Metrics: NewMetrics(prometheus.NewRegistry()), Log: quiet,
		})
	}()
	container := filepath.Join(podLogs, "shop_web-0_uid-0", "app")
	run := containerRun{"uid-0", "app", 0}
	has := func(text string) func() bool {
		return func() bool { store.flush(); return strings.Contains(store.texts(t)[run][logs.Stdout], text) }
	}
	if err := os.MkdirAll(container, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(container, "0.log")
	want := ""
	for i := range 5 {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString(strings.ReplaceAll(logOf(fmt.Sprintf("out F line %d", i)), "000000006", fmt.Sprintf("%09d", i))); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		wrote := time.Now()
		want += fmt.Sprintf("line %d\n", i)
		eventually(t, want, has(want))
		t.Logf("line %d took %s", i, time.Since(wrote).Round(time.Millisecond))
		if took := time.Since(wrote); i > 0 && took > 5*time.Second { // a second, on a machine that is not busy
			t.Errorf("line %d took %s", i, took)
		}
		if err := os.Rename(path, fmt.Sprintf("%s.20260102-%06d", path, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(container)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the removal of what was shipped", func() bool {
		store.flush()
		left, err := os.ReadDir(filepath.Join(dir, "logs", "links"))
		return err == nil && len(left) == 0
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := store.texts(t)[run][logs.Stdout]; got != want {
		t.Errorf("the store has %q, want %q", got, want)
	}
}

func TestAnswersOfTheStoreAreUnderstood(t *testing.T) {
	for _, c := range []struct {
		status int
		header string
		want   error
		after  time.Duration
	}{
		{http.StatusConflict, "", errSessionEnded, 0},
		{http.StatusNotFound, "", errSessionEnded, 0},
		{http.StatusBadRequest, "", errRejected, 0},
		{http.StatusRequestEntityTooLarge, "", errRejected, 0},
		{http.StatusServiceUnavailable, "7", nil, 7 * time.Second},
		{http.StatusTooManyRequests, "99999999", nil, maxRetryAfter * time.Second},
		{http.StatusServiceUnavailable, "-5", nil, 0},
		{http.StatusInternalServerError, "", nil, 0},
		{http.StatusForbidden, "", nil, 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", c.header)
			http.Error(w, "because", c.status)
		}))
		_, err := NewClient(server.URL, server.Client()).Open(t.Context())
		var busy *busyError
		if err == nil || !strings.Contains(err.Error(), "because") || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%d: error %v", c.status, err)
		}
		if errors.As(err, &busy) && busy.after != c.after {
			t.Errorf("%d: try again after %s, want %s", c.status, busy.after, c.after)
		}
		server.Close()
	}
}
