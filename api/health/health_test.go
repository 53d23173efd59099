package health

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

func TestPathsSayWhatTheirCheckFinds(t *testing.T) {
	mux := http.NewServeMux()
	broken := errors.New("no disk")
	Handle(mux, func(context.Context) error { return nil }, func(context.Context) error { return broken })
	for path, want := range map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 503, "/health": 404} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want || want == 503 && !strings.Contains(w.Body.String(), "no disk") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestAPIServerThatIsDownOrGoneIsNotReady(t *testing.T) {
	var code atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || r.Header.Get("Authorization") != "" {
			t.Errorf("it is asked for %s, as %q", r.URL, r.Header.Get("Authorization"))
		}
		w.WriteHeader(int(code.Load()))
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL, BearerToken: "secret", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	says := func(want string) {
		t.Helper()
		check, err := APIServer(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t.Context()); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for status, want := range map[int32]string{200: "", 401: "", 403: "", 500: "not ready", 503: "not ready"} {
		code.Store(status)
		says(want)
	}
	server.Close()
	says("cannot reach the API server")
}

func TestAnswerCountsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		broken := errors.New("gone")
		check := Seldom(func() error { asked++; return broken })
		for range 100 {
			if err := check(t.Context()); !errors.Is(err, broken) {
				t.Fatal(err)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		broken = nil
		time.Sleep(2 * remembered)
		if err := check(t.Context()); err != nil || asked != 2 {
			t.Errorf("later: %v, asked %d times", err, asked)
		}
	})
}
