package kubecfg

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// server gives answers that were recorded, in turn, and keeps the requests that it got.
type server struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex // guards all below
	answers []answer
	got     []asked
}

// answer is what the server says to a request to METHOD PATH; its code is 200 if it is 0.
type answer struct {
	to   string
	code int
	body string
}

// asked is a request.
type asked struct{ line, body string }

func newServer(t *testing.T, answers ...answer) *server {
	t.Helper()
	s := &server{t: t}
	s.expect(answers...)
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		if len(s.answers) > 0 {
			t.Errorf("nobody asked for %+v", s.answers)
		}
	})
	return s
}

// expect replaces the answers.
func (s *server) expect(answers ...answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = answers
}

// asked are the requests until now.
func (s *server) asked() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, asked{r.Method + " " + r.URL.RequestURI(), string(body)})
	if len(s.answers) == 0 || s.answers[0].to != r.Method+" "+r.URL.Path {
		s.t.Errorf("the server got %s %s; it has %+v", r.Method, r.URL, s.answers)
		http.Error(w, "not expected", http.StatusTeapot)
		return
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	if a.code != 0 {
		w.WriteHeader(a.code)
	}
	fmt.Fprint(w, a.body)
}

// recorded returns the body of a recorded answer.
func recorded(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../api/v1beta1/testdata/http", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, body, found := strings.Cut(strings.ReplaceAll(string(text), "\r", ""), "\n\n")
	if !found {
		t.Fatalf("%s has no body", name)
	}
	return strings.TrimSuffix(body, "\n")
}

// result is what a call of the program did.
type result struct {
	status    int
	out, errs string
}

// kubecfgAt runs the program in a home directory of its own, with the server from the environment.
func kubecfgAt(t *testing.T, url string, args ...string) result {
	t.Helper()
	if os.Getenv("HOME") == home {
		t.Setenv("HOME", t.TempDir())
	}
	t.Setenv("KUBERNETES_MASTER", url)
	return call(t, "", args...)
}

// home is that of who runs the tests.
var home = os.Getenv("HOME")

func nowhere() (*rest.Config, error) { return nil, errors.New("no cluster here") }

// call runs the program.
func call(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	status := Run(t.Context(), Call{Args: args, In: strings.NewReader(in), Out: &out, Errs: &errs, Help: "More.\n", Find: nowhere})
	return result{status, out.String(), errs.String()}
}
