package artifact

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// FuzzRequests holds that no request makes the server panic, or gets anything but parts of the archive.
func FuzzRequests(f *testing.F) {
	program := filepath.Join(f.TempDir(), "km")
	if err := os.WriteFile(program, []byte("a program"), 0o600); err != nil {
		f.Fatal(err)
	}
	s, err := Listen(Config{Address: "127.0.0.1:0", Program: program}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	if err := s.pack(context.Background()); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"GET " + s.path() + " HTTP/1.1\r\nHost: km\r\n\r\n", "HEAD " + s.path() + " HTTP/1.1\r\nHost: km\r\n\r\n",
		"GET " + s.path() + " HTTP/1.1\r\nHost: km\r\nRange: bytes=0-1,5-\r\nIf-Range: \"x\"\r\n\r\n", "GET " + s.path() + " HTTP/1.1\r\nHost: km\r\nRange: bytes=-9223372036854775808\r\n\r\n",
		"POST " + s.path() + " HTTP/1.1\r\nHost: km\r\nContent-Length: 3\r\n\r\nabc", "GET /../km HTTP/1.1\r\nHost: km\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	handler := s.handler()
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code/100 == 2 && r.URL.Path != s.path() {
			t.Errorf("%q gets %d", raw, w.Code)
		}
	})
}
