package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// serve serves this test's binary until the test ends.
func serve(t *testing.T) *Server {
	t.Helper()
	s, err := Listen(Config{Address: "127.0.0.1:0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return s
}

// answer is what matters of a response.
type answer struct {
	status int
	length int64 // as announced
	body   []byte
}

func ask(t *testing.T, method, url, span string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if span != "" {
		request.Header.Set("Range", span)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.ContentLength, body}
}

func TestRunningProgramIsServedUnderItsHashWholeAndInParts(t *testing.T) {
	s := serve(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(program)
	if got, want := s.SHA256(), hex.EncodeToString(sum[:]); got != want || !strings.HasSuffix(s.URL(), "/km/"+want+"/km") {
		t.Errorf("hash %s, URL %s, want %s", got, s.URL(), want)
	}
	if got := ask(t, http.MethodGet, s.URL(), ""); got.status != http.StatusOK || !bytes.Equal(got.body, program) {
		t.Errorf("GET: %d, %d bytes of %d", got.status, len(got.body), len(program))
	}
	got := ask(t, http.MethodHead, s.URL(), "")
	if got.status != http.StatusOK || got.length != int64(len(program)) || len(got.body) != 0 {
		t.Errorf("HEAD: %d, %d bytes announced", got.status, got.length)
	}
	if got := ask(t, http.MethodGet, s.URL(), "bytes=1-3"); got.status != http.StatusPartialContent || string(got.body) != "ELF" {
		t.Errorf("a part: %d, %q", got.status, got.body)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	s := serve(t)
	base := "http://" + s.listener.Addr().String()
	for _, path := range []string{"/", "/km", "/km/", "/km/" + s.sum, "/km/" + s.sum + "/", "/km/" + strings.Repeat("0", 64) + "/km",
		"/km/" + s.sum + "/km/..", "/km/" + s.sum + "/other", "/metrics", "/etc/passwd"} {
		if got := ask(t, http.MethodGet, base+path, ""); got.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.status)
		}
	}
	if got := ask(t, http.MethodPost, s.URL(), ""); got.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", got.status)
	}
}

func TestAgentsAreToldTheGivenHostOrTheOneThatReachesTheMaster(t *testing.T) {
	for _, test := range []struct {
		address string
		peers   []string
		want    string
	}{
		{"127.0.0.1:0", nil, "http://127.0.0.1:"},
		{":0", []string{"127.0.0.1:5050"}, "http://127.0.0.1:"},
		{"0.0.0.0:0", []string{"no.such.host.invalid:5050", "127.0.0.1:5050"}, "http://127.0.0.1:"},
	} {
		s, err := Listen(Config{Address: test.address}, test.peers)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(s.URL(), test.want) {
			t.Errorf("%s: agents are told %s", test.address, s.URL())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatCannotBeServedSaysWhatToDo(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for address, words := range map[string][]string{
		busy.Addr().String(): {"in use", "--artifact-address", "--km-path"},
		"nowhere":            {"--artifact-address=nowhere", "host:port"},
		":0":                 {"--artifact-address=HOST:PORT"}, // no master is known by its address
	} {
		_, err := Listen(Config{Address: address}, nil)
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %v, want it to say %q", address, err, word)
			}
		}
	}
}

func TestFlagSaysWhereToServe(t *testing.T) {
	var c Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(fs)
	if c.Address != ":10269" {
		t.Errorf("the default is %s", c.Address)
	}
	if err := fs.Parse([]string{"--artifact-address=10.0.0.5:80"}); err != nil || c.Address != "10.0.0.5:80" {
		t.Errorf("%s, %v", c.Address, err)
	}
}
