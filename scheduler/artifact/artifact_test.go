package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// listen makes a server of a program that packs well.
func listen(t *testing.T) (s *Server, program []byte) {
	t.Helper()
	program = bytes.Repeat([]byte("a program that packs well\n"), 10_000)
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, program, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(Config{Address: "127.0.0.1:0", Program: path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, program
}

// serve serves that until the test ends.
func serve(t *testing.T) (s *Server, program []byte) {
	t.Helper()
	s, program = listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return s, program
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

func TestProgramIsServedUnderItsHashWholeAndInParts(t *testing.T) {
	s, program := serve(t)
	sum := sha256.Sum256(program)
	if got, want := s.SHA256(), hex.EncodeToString(sum[:]); got != want || !strings.HasSuffix(s.URL(), "/km/"+want+"/km.tar.gz") {
		t.Errorf("hash %s, URL %s, want %s", got, s.URL(), want)
	}
	whole := ask(t, http.MethodGet, s.URL(), "")
	if whole.status != http.StatusOK || len(whole.body) > len(program)/10 {
		t.Errorf("GET: %d, %d bytes for a program of %d", whole.status, len(whole.body), len(program))
	}
	if name, mode, got := unpack(t, whole.body); name != "km" || mode != 0o755 || !bytes.Equal(got, program) {
		t.Errorf("the archive has %s, mode %o, %d bytes of %d", name, mode, len(got), len(program))
	}
	got := ask(t, http.MethodHead, s.URL(), "") // Mesos makes room in its cache by this
	if got.status != http.StatusOK || got.length != int64(len(whole.body)) || len(got.body) != 0 {
		t.Errorf("HEAD: %d, %d bytes announced", got.status, got.length)
	}
	if got := ask(t, http.MethodGet, s.URL(), "bytes=0-1"); got.status != http.StatusPartialContent || string(got.body) != "\x1f\x8b" {
		t.Errorf("a part: %d, %q", got.status, got.body)
	}
}

// unpack returns the only file of an archive.
func unpack(t *testing.T, packed []byte) (name string, mode int64, content []byte) {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(plain)
	header, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	if content, err = io.ReadAll(files); err != nil {
		t.Fatal(err)
	}
	if next, err := files.Next(); err != io.EOF {
		t.Errorf("the archive also has %v, %v", next, err)
	}
	return header.Name, header.Mode, content
}

func TestRequestBeforeTheProgramIsPackedWaitsForIt(t *testing.T) {
	s, _ := listen(t)
	answered := make(chan answer, 1)
	go func() { answered <- ask(t, http.MethodHead, s.URL(), "") }() // the kernel takes the connection before Run does
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if got := <-answered; got.status != http.StatusOK || got.length <= 0 {
		t.Errorf("HEAD: %d, %d bytes announced", got.status, got.length)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServerThatIsStoppedWhileItPacksEndsWithoutError(t *testing.T) {
	s, _ := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestRunningProgramIsWhatIsServedIfNoOtherIsNamed(t *testing.T) {
	s, err := Listen(Config{Address: "127.0.0.1:0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	self, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, self); err != nil || s.SHA256() != hex.EncodeToString(sum.Sum(nil)) {
		t.Errorf("%s is served, %v", s.SHA256(), err)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	s, _ := serve(t)
	base := "http://" + s.listener.Addr().String()
	for _, path := range []string{"/", "/km", "/km/", "/km/" + s.sum, "/km/" + s.sum + "/", "/km/" + strings.Repeat("0", 64) + "/km.tar.gz",
		"/km/" + s.sum + "/km", "/km/" + s.sum + "/km.tar.gz/..", "/km/" + s.sum + "/other", "/metrics", "/etc/passwd"} {
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
