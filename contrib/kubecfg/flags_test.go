package kubecfg

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
)

// asProgram, in the environment, makes this test binary be kubecfg: the log's flags are the whole process's.
const asProgram = "K8SM_TEST_KUBECFG"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(Run(context.Background(), Call{Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Errs: os.Stderr}))
	}
	os.Exit(m.Run())
}

func TestOutputFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "template")
	if err := os.WriteFile(file, []byte(`{{range .items}}{{.id}} {{.resourceVersion}} {{end}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	pods := recorded(t, "06-list-labels")
	for flags, want := range map[string]string{
		"-json":                  pods + "\n",
		"-template {{.kind}}":    "PodList\n",
		"-template_file " + file: "redis 6 \n",
		"-yaml":                  "creationTimestamp: null\nselfLink: /api/v1beta1/pods\nresourceVersion: \"7\"\nitems:\n- id: redis\n",
	} {
		s := newServer(t, answer{to: "GET /api/v1beta1/pods", body: pods})
		got := kubecfgAt(t, s.URL, append(strings.Fields(flags), "list", "pods")...)
		if got.status != 0 || !strings.HasPrefix(got.out, want) || !strings.HasPrefix(flags, "-yaml") && got.out != want {
			t.Errorf("%s: %+v", flags, got)
		}
	}
}

func TestObjectIsReadFromStandardInputAndFromAURL(t *testing.T) {
	const pod = "id: web\ndesiredState:\n  manifest:\n    containers:\n    - image: nginx\n"
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, pod) }))
	defer web.Close()
	t.Setenv("HOME", t.TempDir())
	const sent = `{"kind":"Pod","id":"web","creationTimestamp":null,"apiVersion":"v1beta1","desiredState":{"manifest":{"version":"","id":"","volumes":null,` +
		`"containers":[{"name":"","image":"nginx","imagePullPolicy":""}],"restartPolicy":{}}},"currentState":{"manifest":{"version":"","id":"","volumes":null,` +
		`"containers":null,"restartPolicy":{}}}}`
	for _, source := range []string{"-", web.URL + "/pod.yaml"} {
		got := call(t, pod, "-verbose", "-c", source, "-template", "{{.kind}} {{.id}}\n", "print", "pods")
		if got.status != 0 || got.out != "Pod web\n" ||
			got.errs != "Parsed config file successfully; sending:\n"+sent+"\n" {
			t.Errorf("%s: %+v", source, got)
		}
	}
}

func TestVersionsAreCompared(t *testing.T) {
	if got := call(t, "", "-version"); got.out != "Kubernetes "+api.KubernetesVersion+"\n" || got.status != 0 {
		t.Errorf("%+v", got)
	}
	for version, status := range map[string]int{api.KubernetesVersion: 0, "v0.4-dev": exitFailed} {
		answers := []answer{{to: "GET /version", body: `{"gitVersion":"` + version + `"}`}, {to: "GET /api/v1beta1/minions", body: recorded(t, "15-minions")}}
		if status != 0 {
			answers = answers[:1]
		}
		got := kubecfgAt(t, newServer(t, answers...).URL, "-expect_version_match", "list", "minions")
		if got.status != status || status != 0 && got.errs != "Server version (v0.4-dev) differs from client version ("+api.KubernetesVersion+")!\n" {
			t.Errorf("%+v", got)
		}
	}
}

func TestNamespaceIsKept(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	step := func(want, line string, args ...string) {
		t.Helper()
		s := newServer(t)
		if line != "" {
			s.expect(answer{to: "GET /api/v1beta1/pods", body: recorded(t, "06-list-labels")})
		}
		got := kubecfgAt(t, s.URL, args...)
		if got.status != 0 || want != "" && got.out != want || line != "" && s.asked()[0].line != line {
			t.Errorf("%q: %+v, %q", args, got, s.asked())
		}
	}
	step("Using namespace default\n", "", "ns")
	step("Using namespace prod\n", "", "ns", "prod")
	step("Using namespace prod\n", "", "ns")
	step("", "GET /api/v1beta1/pods?namespace=prod", "list", "pods")
	step("", "GET /api/v1beta1/pods?namespace=test", "-ns", "test", "list", "pods")
	other := filepath.Join(t.TempDir(), "ns")
	step("Using namespace other\n", "", "-ns_file", other, "ns", "other")
	if text, err := os.ReadFile(other); err != nil || string(text) != `{"Namespace":"other"}` {
		t.Errorf("%s %v", text, err)
	}
}

// secure is a server that answers who calls it.
func secure(t *testing.T) (s *httptest.Server, caFile string) {
	t.Helper()
	s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		_ = json.NewEncoder(w).Encode(map[string]string{"kind": "Status", "status": "Success", "message": user + ":" + password + " " + r.Header.Get("Authorization")})
	}))
	t.Cleanup(s.Close)
	caFile = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(caFile, certificatePEM(s.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, caFile
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func TestCredentialsComeFromTheirFileOrThePerson(t *testing.T) {
	s, ca := secure(t)
	t.Setenv("HOME", t.TempDir())
	who := []string{"-template", "{{.message}}", "get", "pods/x"}
	host := strings.TrimPrefix(s.URL, "https://")
	got := call(t, "jane\nsecret\n", append([]string{"-h", host, "-certificate_authority", ca}, who...)...)
	if got.status != 0 || !strings.HasPrefix(got.out, "Please enter Username: Please enter Password: jane:secret Basic ") {
		t.Errorf("%+v", got)
	}
	file := filepath.Join(os.Getenv("HOME"), ".kubernetes_auth")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if got := call(t, "", append([]string{"-h", s.URL, "-insecure_skip_tls_verify"}, who...)...); !strings.HasPrefix(got.out, "jane:secret ") {
		t.Errorf("%+v", got)
	}
	if got := call(t, "", append([]string{"-h", s.URL}, who...)...); got.status != exitFailed || !strings.Contains(got.errs, "certificate signed by unknown authority") {
		t.Errorf("%+v", got)
	}
	token := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(token, []byte(`{"BearerToken":"t0ken","CAFile":"`+ca+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := call(t, "", append([]string{"-h", s.URL, "-auth", token}, who...)...); !strings.HasPrefix(got.out, ": Bearer t0ken") {
		t.Errorf("%+v", got)
	}
}

func TestLogGoesWhereItIsSent(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	for _, test := range []struct {
		flags        string
		stderr, file bool
	}{
		{flags: "", stderr: false}, {flags: "-v=8", stderr: true}, {flags: "-vmodule=round_trippers=8,type=8", stderr: true},
		{flags: "-v=8 -log_flush_frequency=1s -log_dir " + dir, file: true},
		{flags: "-v=8 -log_dir " + dir + " -logtostderr", stderr: true},
		{flags: "-v=8 -log_dir " + dir + " -alsologtostderr", stderr: true, file: true},
		{flags: "-v=8 -log_dir " + dir + " -stderrthreshold=INFO", stderr: true, file: true},
	} {
		s.expect(answer{to: "GET /api/v1beta1/minions", body: recorded(t, "15-minions")})
		program := exec.CommandContext(t.Context(), os.Args[0], append(strings.Fields(test.flags), "-h", s.URL, "list", "minions")...)
		var errs strings.Builder
		program.Env, program.Stderr = append(os.Environ(), asProgram+"=1", "HOME="+t.TempDir()), &errs
		if err := program.Run(); err != nil {
			t.Fatalf("%v %s", err, errs.String())
		}
		const logged = "/api/v1beta1/minions"
		if got := strings.Contains(errs.String(), logged); got != test.stderr {
			t.Errorf("%s: on standard error: %s", test.flags, errs.String())
		}
		files, _ := os.ReadDir(dir)
		found := false
		for _, f := range files {
			text, _ := os.ReadFile(filepath.Join(dir, f.Name()))
			found = found || strings.Contains(string(text), logged)
			_ = os.Remove(filepath.Join(dir, f.Name()))
		}
		if found != test.file {
			t.Errorf("%s: in files: %v", test.flags, files)
		}
	}
}

func TestProxyIsForPagesOfThisMachine(t *testing.T) {
	s := newServer(t)
	www := t.TempDir()
	if err := os.WriteFile(filepath.Join(www, "page.html"), []byte("a page"), 0o600); err != nil {
		t.Fatal(err)
	}
	handler, err := proxyHandler(&rest.Config{Host: s.URL}, www)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(handler)
	defer front.Close()
	own := front.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(own)
	const pods = "/api/v1beta1/pods"
	for _, test := range []struct {
		path, host, origin string
		want               string // "" is 403
	}{
		{path: pods, host: own, want: `"PodList"`},
		{path: pods, host: "localhost:" + port, origin: "http://localhost:" + port, want: `"PodList"`},
		{path: "/static/page.html", host: own, want: "a page"},
		{path: pods, host: "evil.example"},
		{path: "/static/page.html", host: "evil.example:" + port},
		{path: pods, host: own, origin: "http://evil.example"},
		{path: pods, host: own, origin: "http://127.0.0.1:1"},
		{path: pods, host: own, origin: "null"},
	} {
		if test.path == pods && test.want != "" {
			s.expect(answer{to: "GET " + pods, body: recorded(t, "06-list-labels")})
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = test.host
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := readAll(response.Body, 1<<20)
		response.Body.Close()
		if want := http.StatusOK; err != nil || test.want == "" && response.StatusCode != http.StatusForbidden ||
			test.want != "" && (response.StatusCode != want || !strings.Contains(string(body), test.want)) {
			t.Errorf("%+v: %d %s %v", test, response.StatusCode, body, err)
		}
	}
}

func TestProxyServesUntilItIsStoppedAndOpensABrowser(t *testing.T) {
	bin, opened := t.TempDir(), filepath.Join(t.TempDir(), "opened")
	if err := os.WriteFile(filepath.Join(bin, "xdg-open"), []byte("#!/bin/sh\necho $1 >"+opened+".new; mv "+opened+".new "+opened+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("DISPLAY", ":0")
	s := newServer(t, answer{to: "GET /healthz", body: "ok"})
	t.Setenv("KUBERNETES_MASTER", s.URL)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	page := "http://" + listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	k := kubecfg{Call: Call{Out: io.Discard}, options: options{openBrowser: true}}
	ended := make(chan error)
	go func() { ended <- k.serveProxyOn(ctx, listener) }()
	response, err := http.Get(page + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || string(body) != "ok" {
		t.Errorf("%s %v", body, err)
	}
	for {
		text, err := os.ReadFile(opened)
		if err == nil && string(text) == page+"/static/\n" {
			break
		}
		if err == nil || t.Context().Err() != nil {
			t.Fatalf("the browser shows %q", text)
		}
		runtime.Gosched()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
