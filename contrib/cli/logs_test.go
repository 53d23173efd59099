package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/k8sm/k8sm/contrib/logs/read"
)

// logServer is an API server with a log store that answers with the lines. asked is its last request.
func logServer(t *testing.T, writers string, lines ...read.Line) (kubeconfig string, asked *url.URL) {
	t.Helper()
	asked = &url.URL{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = *r.URL
		w.Header().Set(read.HeaderWriters, writers)
		for _, l := range lines {
			_ = json.NewEncoder(w).Encode(l)
		}
	}))
	t.Cleanup(server.Close)
	return kubeconfigOf(t, server.URL), asked
}

// kubeconfigOf writes a kubeconfig for a server, with the namespace shop.
func kubeconfigOf(t *testing.T, server string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: server}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", Namespace: "shop"}
	config.CurrentContext = "c"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLogsAskForWhatTheFlagsSay(t *testing.T) {
	for line, want := range map[string]string{
		"web-0":                         "/apis/logs.k8sm.io/v1/namespaces/shop/pods/web-0/log?pod=web-0",
		"pod/web-0 -c app -n other -p":  "/apis/logs.k8sm.io/v1/namespaces/other/pods/web-0/log?container=app&pod=web-0&previous=true",
		"web-0 web-1 --node=a":          "/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/log?node=a&pod=web-0&pod=web-1",
		"deploy/web sts/db":             "/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/log?owner=ReplicaSet/web-[a-z0-9]+|StatefulSet/db",
		"rc/a.b":                        `/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/log?owner=ReplicationController/a\.b`,
		"CronJob/backup":                "/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/log?owner=Job/backup-[0-9]+",
		"-A -l app=web,!old --tail=5":   "/apis/logs.k8sm.io/v1/pods/*/log?labelSelector=app=web,!old&tail=5",
		"-A web-0":                      "/apis/logs.k8sm.io/v1/pods/*/log?pod=web-0",
		"--grep=a --grep=b --exclude=c": "/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/log?exclude=c&grep=a&grep=b",
		"--since=2026-11-30T12:00:00Z --until=2026-11-30T14:00:00+01:00": "/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/log?since=2026-11-30T12:00:00Z&until=2026-11-30T13:00:00Z",
		"--components kubelet proxy":                                     "/apis/logs.k8sm.io/v1/components/*/log?component=kubelet&component=proxy",
		"--query=error --since=2026-11-30T12:00:00Z":                     "/apis/logs.k8sm.io/v1/namespaces/shop/pods/*/log/select/logsql/query?query=error&start=2026-11-30T12:00:00Z",
		"--query=error -f -A":                                            "/apis/logs.k8sm.io/v1/pods/*/log/select/logsql/tail?query=error",
		"--frameworks --query=*":                                         "/apis/logs.k8sm.io/v1/frameworks/*/log/select/logsql/query?query=*",
	} {
		kubeconfig, asked := logServer(t, "1", read.Line{Message: "x"})
		if status, _, errs := km(t, append(strings.Fields("logs "+line), "--kubeconfig="+kubeconfig)...); status != 0 {
			t.Errorf("%s: %s", line, errs)
		}
		parameters, err := url.QueryUnescape(asked.RawQuery)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, asked.Path+"?"+parameters); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
}

func TestTimesOfLogsMayBeAges(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "1h": time.Hour, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour} {
		if got, err := parseThen(text, now); err != nil || now.Sub(got) != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}

func TestLinesArePrinted(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 5, time.UTC)
	of := func(pod, container, text string) read.Line {
		return read.Line{Time: at, Namespace: "shop", Pod: pod, Container: container, Node: "a", Message: text}
	}
	long := of("web-0", "app", "begins ")
	long.More = true
	bytes := of("web-0", "app", "")
	bytes.Raw = []byte("\xff\x00")
	lost := of("web-0", "app", "")
	lost.Lost, lost.LostLines = "the disk was full", 7
	component := read.Line{Time: at, Component: "kubelet", Node: "a", Message: "Starting"}
	for _, c := range []struct {
		flags, writers string
		lines          []read.Line
		want, errs     string
	}{
		{"web-0", "1", []read.Line{of("web-0", "app", "one"), long, of("web-0", "app", "and ends"), bytes, of("web-0", "app", "")}, "one\nbegins and ends\n\xff\x00\n\n", ""},
		{"-l a", "2", []read.Line{of("web-0", "app", "one"), of("web-1", "side", "two")}, "[pod/web-0/app] one\n[pod/web-1/side] two\n", ""},
		{"-l a -A", "2", []read.Line{of("web-0", "app", "one")}, "[shop/pod/web-0/app] one\n", ""},
		{"-l a", "2", []read.Line{long, of("web-1", "app", "two"), of("web-0", "app", "ends")}, "[pod/web-0/app] begins \n[pod/web-1/app] two\n[pod/web-0/app] ends\n", ""},
		{"-l a --timestamps", "2", []read.Line{of("web-0", "app", "one")}, "[pod/web-0/app] 2026-11-30T12:00:00.000000005Z one\n", ""},
		{"-l a -o raw", "2", []read.Line{of("web-0", "app", "one"), bytes}, "one\n\xff\x00\n", ""},
		{"web-0 -o json", "1", []read.Line{bytes}, `{"time":"2026-11-30T12:00:00.000000005Z","namespace":"shop","pod":"web-0","container":"app","node":"a","raw":"/wA="}` + "\n", ""},
		{"web-0", "1", []read.Line{lost, of("web-0", "app", "after")}, "after\n", "km: here are 7 lines of pod/web-0/app missing: the disk was full\n"},
		{"--components", "3", []read.Line{component}, "[a/kubelet] Starting\n", ""},
	} {
		kubeconfig, _ := logServer(t, c.writers, c.lines...)
		status, out, errs := km(t, append(strings.Fields("logs "+c.flags), "--kubeconfig="+kubeconfig)...)
		if status != 0 || out != c.want || errs != c.errs {
			t.Errorf("%s: %d %q, want %q; %q", c.flags, status, out, c.want, errs)
		}
	}
}

func TestNoLogsAreExplained(t *testing.T) {
	for _, c := range []struct {
		code        int
		body, flags string
		want        string
	}{
		{200, "", "web-0", "no such lines in namespace shop"},
		{200, "", "-A", "no such lines: the log store has"},
		{403, `{"kind":"Status","message":"pods \"x\" is forbidden"}`, "web-0", "you may not read the logs of namespace shop: that needs the right to get pods/log there"},
		{403, "no", "--components", "only administrators read these logs"},
		{404, "404 page not found", "web-0", "this cluster has no log store: start km apiserver or km up without --logs=false"},
		{503, "service unavailable", "web-0", "the log store does not answer just now"},
		{400, "cannot understand the query", "--query=(", "cannot understand the query"},
		{200, `{"error":"the disk is gone"}`, "web-0", "could not read on: the disk is gone"},
		{200, `{"time":`, "web-0", "broke off"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.code)
			_, _ = w.Write([]byte(c.body))
		}))
		status, out, errs := km(t, append(strings.Fields("logs "+c.flags), "--kubeconfig="+kubeconfigOf(t, server.URL))...)
		if status != exitFailed || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%d %s: %d %q %q", c.code, c.body, status, out, errs)
		}
		server.Close()
	}
}

func TestWrongCommandLinesOfLogsStartNothing(t *testing.T) {
	checkWrongLines(t, map[string]string{
		"up --logs-retention=1h":      `cannot use --logs-retention=1h: give at least 1d; see km up --help`,
		"up --logs-retention=always":  "give a time such as 36h, 7d or 1y; see km up --help",
		"up --logs-max-size=1MiB":     `cannot use --logs-max-size=1MiB: give at least 64MiB, or 0 for no limit; see km up --help`,
		"up --logs-max-size=much":     "give a size such as 512MiB or 10GiB; see km up --help",
		"up --logs-port=0":            `cannot use --logs-port=0: give a port from 1 to 65535; see km up --help`,
		"up --logs-address=127.0.0.1": `cannot use --logs-address=127.0.0.1: give an address of this machine that the cluster's API servers and nodes reach; see km up --help`,
		"up --logs-namespace-rate=-1": `cannot use --logs-namespace-rate=-1: give a number of lines, or 0 for no limit; see km up --help`,
		"apiserver --bind-address=192.0.2.1 --metrics=false --enable-aggregator-routing=false": "cannot use --enable-aggregator-routing=false with --logs",
		"logstore":                             `cannot use --address=: not an IP address; see km logstore --help`,
		"logstore --address=10.0.0.5 --port=0": `cannot use --port=0: give a port from 1 to 65535; see km logstore --help`,
		"up --logs-ingest-address=9428":        `cannot use --logs-ingest-address=9428: give host:port, such as 10.0.0.5:9428; see km up --help`,
		"up --logs-syslog-address=10.0.0.5":    `cannot use --logs-syslog-address=10.0.0.5: give host:port, such as 10.0.0.5:9428; see km up --help`,
		"logs svc/web":                         `cannot show the logs of svc/web: give a pod, or deploy, rs, rc, sts, ds, job or cj with a name; or use --selector; see km logs --help`,
		"logs deploy/":                         `cannot show the logs of "deploy/": give a name; see km logs --help`,
		"logs web deploy/web":                  "cannot show pods and other objects at once",
		"logs -o yaml":                         `cannot use --output=yaml: give text, raw or json; see km logs --help`,
		"logs --since=noon":                    `cannot use --since=noon: give a time as 2026-11-30T12:00:00Z, or how long ago, as 90s, 5m, 1h or 2d; see km logs --help`,
		"logs --grep=(":                        "cannot use --grep=(: ",
		"logs --tail=-2":                       `cannot use --tail=-2: give a number of lines; see km logs --help`,
		"logs -A -n shop":                      `cannot use --namespace with --all-namespaces; see km logs --help`,
		"logs --query=* web":                   "cannot use --query with what selects lines besides it",
		"logs --frameworks":                    "cannot use --frameworks without --query",
	})
}
