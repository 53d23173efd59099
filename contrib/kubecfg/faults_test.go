package kubecfg

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// TestFailuresHaveTheOldMessages: one line as it was, without a log's header, and exit status 1.
func TestFailuresHaveTheOldMessages(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for line := []byte(strings.Repeat("# no end\n", 1000)); r.Context().Err() == nil; {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	nothing := httptest.NewServer(http.NotFoundHandler())
	defer nothing.Close()
	elsewhere := httptest.NewServer(http.RedirectHandler(nothing.URL, http.StatusTemporaryRedirect))
	defer elsewhere.Close()
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"pod.json": `{"kind":"Pod","apiVersion":"v1beta1","id":"p"}`, "pods.json": `{"kind":"PodList","items":[]}`, "v1.yaml": "kind: Pod\napiVersion: v1\n",
		"broken.json": `{"kind":"Pod"`, "list.yaml": "- a\n", "empty.yaml": "", "number.yaml": "kind: 7\n", "template": "{{.id", "ns": "{",
		"big.yaml": strings.Repeat("# big\n", 1<<20),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const names = "<minions|pods|replicationControllers|services>"
	for _, test := range []struct{ args, want string }{
		{"get", "usage: kubecfg [OPTIONS] get " + names + "[/<id>]"},
		{"get pods", "usage: kubecfg [OPTIONS] get " + names + "[/<id>]"},
		{"get /pods/", "usage: kubecfg [OPTIONS] get " + names + "[/<id>]"},
		{"delete pods", "usage: kubecfg [OPTIONS] delete " + names + "/<id>"},
		{"update pods", "usage: kubecfg [OPTIONS] update " + names + "/<id>"},
		{"create pods/x", "usage: kubecfg [OPTIONS] create " + names},
		{"list bindings", "usage: kubecfg [OPTIONS] list " + names},
		{"print widgets", "usage: kubecfg [OPTIONS] -c <file|url|-> print " + names},
		{"run image 1", "usage: kubecfg [OPTIONS] run <image> <replicas> <controller>"},
		{"run image many web", `Error parsing replicas: strconv.ParseInt: parsing "many": invalid syntax`},
		{"resize web -3", "Error parsing replicas: -3 is less than 0"},
		{"resize web 3000000000", `Error parsing replicas: strconv.ParseInt: parsing "3000000000": value out of range`},
		{"resize web", "usage: kubecfg [OPTIONS] resize <controller> <replicas>"},
		{"stop", "usage: kubecfg [OPTIONS] stop <controller>"},
		{"rm a b", "usage: kubecfg [OPTIONS] rm <controller>"},
		{"rollingupdate", "usage: kubecfg [OPTIONS] rollingupdate <controller>"},
		{"ns a b", "usage: kubecfg ns [<namespace>]"},
		{"ns Prod", "Error: a namespace cannot have the name Prod: a lowercase RFC 1123 label"},
		{"-p 80:70000 run image 1 web", "Error: Container port is not valid: 70000"},
		{"-p 0 run image 1 web", "Error: Container port is not valid: 0"},
		{"-p 80: run image 1 web", "Container port is not integer:  strconv.Atoi: parsing \"\": invalid syntax\nError: strconv.Atoi"},
		{"-s 80 run image 1 myWeb", "Error: a service cannot have the name myWeb: "},
		{"-s 70000 run image 1 web", "Error: a service cannot have the port 70000"},
		{"-l =, list pods", "Got request error: cannot use -l =,: "},
		{"-fields a list pods", "Got request error: cannot use -fields a: invalid selector"},
		{"-api_version v1 list pods", `Can't configure client: API version "v1" is not valid: use v1beta1 or v1beta2`},
		{"-h ftp://x list pods", `Can't configure client: host must be a URL or a host:port pair: "ftp://x"`},
		{"-h http:// list pods", `Can't configure client: host must be a URL or a host:port pair: "http://"`},
		{"-h 127.0.0.1:1 list pods", `Got request error: Get "http://127.0.0.1:1/api/v1beta1/pods?namespace=default": dial tcp 127.0.0.1:1: connect: connection refused`},
		{"-h 127.0.0.1:1 run image 1 web", `Error: Post "http://127.0.0.1:1/api/v1beta1/replicationControllers?namespace=default": dial tcp`},
		{"-h 127.0.0.1:1 -server_version", `Couldn't read version from server: Get "http://127.0.0.1:1/version": dial tcp`},
		{"-h 127.0.0.1:1 -c pod.json update pods/p", "error obtaining resource version for update: Get "},
		{"-h " + nothing.URL + " list pods", "Got request error: request [GET " + nothing.URL + "/api/v1beta1/pods?namespace=default] failed (404) 404 Not Found: 404 page not found"},
		{"-h " + elsewhere.URL + " list pods", "Got request error: request [GET " + elsewhere.URL + "/api/v1beta1/pods?namespace=default] failed (307) 307 Temporary Redirect: "},
		{"-h " + endless.URL + " -server_version", "Couldn't read version from server: there is more than 64 MiB"},
		{"-c missing.json create pods", "Unable to read config file: unable to open file missing.json: open missing.json: no such file or directory"},
		{"-c . create pods", "Unable to read config file: unable to read from .: read .: is a directory"},
		{"-c /dev/zero create pods", "Unable to read config file: unable to read from /dev/zero: there is more than 4 MiB"},
		{"-c big.yaml create pods", "Unable to read config file: unable to read from big.yaml: there is more than 4 MiB"},
		{"-c " + endless.URL + " create pods", "Unable to read config file: unable to read from " + endless.URL + ": there is more than 4 MiB"},
		{"-c " + nothing.URL + " create pods", "Unable to read config file: unable to read URL, server reported 404 Not Found"},
		{"-c http://127.0.0.1:1/x create pods", `Unable to read config file: unable to access URL http://127.0.0.1:1/x: Get "http://127.0.0.1:1/x": dial tcp`},
		{"-c broken.json create pods", "Error parsing broken.json as an object for pods: "},
		{"-c list.yaml create pods", "Error parsing list.yaml as an object for pods: "},
		{"-c empty.yaml create pods", "Error parsing empty.yaml as an object for pods: couldn't get version/kind: the body is empty"},
		{"-c number.yaml create pods", "Error parsing number.yaml as an object for pods: data of kind '7', obj of type 'Pod'"},
		{"-c v1.yaml create pods", "Error parsing v1.yaml as an object for pods: apiVersion 'v1' is none of v1beta1, v1beta2: send other objects to the Kubernetes API server"},
		{"-c pod.json create services", "Error parsing pod.json as an object for services: data of kind 'Pod', obj of type 'Service'"},
		{"-c pods.json create pods", "Error parsing pods.json as an object for pods: data of kind 'PodList', obj of type 'Pod'"},
		{"-template {{.id list pods", "Error parsing template {{.id, template: output:1: unclosed action"},
		{"-template_file missing list pods", "Error reading template missing, open missing: no such file or directory"},
		{"-ns_file ns list pods", "Error loading current namespace: cannot read ns: unexpected end of JSON input"},
		{"-log_dir missing list pods", "cannot use -log_dir: open missing: no such file or directory"},
		{"-proxy -www missing", "Error creating proxy server: open missing: no such file or directory"},
		{"-h https://127.0.0.1:1 list pods", "Error loading auth: there is neither a username nor the file "},
		{"-h https://127.0.0.1:1 -auth ns list pods", "Error loading auth: cannot read ns: unexpected end of JSON input"},
		{"-h 127.0.0.1:1 -certificate_authority missing -client_certificate missing -client_key missing list pods", "Can't configure client: "},
	} {
		t.Run(test.args, func(t *testing.T) {
			got := kubecfgAt(t, "127.0.0.1:1", strings.Fields(test.args)...)
			if got.status != exitFailed || !strings.HasPrefix(got.errs, test.want) {
				t.Errorf("exit status %d; it says %swant %s", got.status, got.errs, test.want)
			}
			if out := strings.TrimPrefix(got.out, "Please enter Username: "); out != "" {
				t.Errorf("it prints %q", out)
			}
		})
	}
}

func TestWrongFlagsAreToldWithTheUsage(t *testing.T) {
	for args, want := range map[string]string{
		"-frob":   "flag provided but not defined: -frob\nUsage: kubecfg -h ",
		"-u soon": "invalid value \"soon\" for flag -u: parse error\nUsage: kubecfg -h ",
		"-v loud": "invalid value \"loud\" for flag -v: ",
	} {
		if got := call(t, "", strings.Fields(args)...); got.status != exitUsage || got.out != "" || !strings.HasPrefix(got.errs, want) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func TestHelpIsPrintedWhereItIsAskedFor(t *testing.T) {
	for _, flag := range []string{"-help", "--help"} {
		got := call(t, "", flag)
		if got.status != 0 || got.errs != "" || !strings.HasPrefix(got.out, "Usage: kubecfg -h ") || !strings.HasSuffix(got.out, "\nMore.\n") {
			t.Errorf("%+v", got)
		}
	}
}

// TestClusterIsFound: -h wins over KUBERNETES_MASTER, that over the caller's way, and the caller is not asked without need.
func TestClusterIsFound(t *testing.T) {
	s := newServer(t)
	for _, test := range []struct {
		args, variable string
		find           func() (*rest.Config, error)
		path, fails    string
	}{
		{args: "-h " + s.URL + "/flag/ list minions", variable: s.URL + "/variable", path: "/flag/api/v1beta1/minions"},
		{args: "-h " + strings.TrimPrefix(s.URL, "http://") + " list minions", path: "/api/v1beta1/minions"},
		{args: "list minions", variable: s.URL + "/variable", path: "/variable/api/v1beta1/minions"},
		{args: "list minions", find: func() (*rest.Config, error) { return &rest.Config{Host: s.URL + "/found"}, nil }, path: "/found/api/v1beta1/minions"},
		{args: "list minions", find: nowhere,
			fails: "Can't configure client: no cluster here; or give -h or KUBERNETES_MASTER\n"},
		{args: "ns", find: func() (*rest.Config, error) { t.Error("a cluster was looked for"); return nil, errors.New("none") }},
	} {
		t.Setenv("KUBERNETES_MASTER", test.variable)
		t.Setenv("HOME", t.TempDir())
		s.expect()
		if test.path != "" {
			s.expect(answer{to: "GET " + test.path, body: recorded(t, "15-minions")})
		}
		var out, errs strings.Builder
		status := Run(t.Context(), Call{Args: strings.Fields(test.args), Out: &out, Errs: &errs, Find: test.find})
		if failed := status != 0; failed != (test.fails != "") || errs.String() != test.fails {
			t.Errorf("%s, KUBERNETES_MASTER=%s: exit status %d: %s", test.args, test.variable, status, errs.String())
		}
	}
}
