package status

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/contrib/test/reviewer"
)

// ask gets a path with a token, and with the certificate of a kubeconfig; "" for neither.
func ask(t *testing.T, address, path, token, kubeconfig string) (code int, body string, err error) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true}
	if kubeconfig != "" {
		who, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err == nil {
			err = rest.LoadTLSFiles(who)
		}
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(who.CertData, who.KeyData)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func TestCallersReadWhatTheAPIServerLetsThemRead(t *testing.T) {
	d, other := cluster(t), cluster(t)
	address := serve(t, d, fakeSource{})
	const ok, unknown, forbidden = http.StatusOK, http.StatusUnauthorized, http.StatusForbidden
	for name, test := range map[string]struct {
		token, kubeconfig       string
		state, metrics, profile int
	}{
		"nobody":                      {"", "", unknown, unknown, unknown},
		"an invented token":           {"x", "", unknown, unknown, unknown},
		"a token with the right":      {reviewer.TokenOf("viewer"), "", ok, forbidden, forbidden},
		"a token without it":          {reviewer.TokenOf("someone"), "", forbidden, forbidden, forbidden},
		"an administrator":            {"", d.AdminKubeconfig(), ok, ok, ok},
		"the scheduler":               {"", d.SchedulerKubeconfig(), ok, ok, forbidden},
		"another user of the cluster": {"", d.ControllerManagerKubeconfig(), forbidden, forbidden, forbidden},
		// The API server would take the certificate, and not look at the token.
		"another user, and a token with the right": {reviewer.TokenOf("viewer"), d.ControllerManagerKubeconfig(), forbidden, forbidden, forbidden},
	} {
		for path, want := range map[string]int{
			"/mesos/state": test.state, "/debug/offers": test.state, "/debug/offers/ended": test.state, "/debug/queue": test.state,
			"/debug/queue/reasons": test.state, "/debug/tasks": test.state, "/debug/nodes": test.state,
			"/metrics": test.metrics, "/metrics/mesos": test.metrics, "/debug/pprof/goroutine?debug=1": test.profile,
		} {
			code, body, err := ask(t, address, path, test.token, test.kubeconfig)
			if err != nil || code != want {
				t.Errorf("%s: %s answers %d, %v, want %d: %.200s", name, path, code, err, want, body)
			}
		}
	}
	if code, body, err := ask(t, address, "/mesos/state", reviewer.TokenOf("viewer"), other.AdminKubeconfig()); err == nil {
		t.Errorf("a certificate of another cluster: %d %s", code, body)
	}
	if code, body, err := ask(t, address, "/mesos/../debug/pprof/heap", reviewer.TokenOf("viewer"), ""); err != nil || code == ok {
		t.Errorf("a path with dots: %d %s %v", code, body, err)
	}
}

func TestWhoMayGetThePodReadsItsSpans(t *testing.T) {
	d := cluster(t)
	book := podtrace.NewBook(10)
	web := api.PodKey{Namespace: "shop", Name: "web"}
	book.Open(podtrace.Pod{PodKey: web, UID: "1"})
	book.Runs("1", "n1")
	grants := func(asked authorizationv1.SubjectAccessReviewSpec) bool {
		r := asked.ResourceAttributes
		return asked.User == "viewer" && r != nil && r.Verb == "get" && r.Resource == "pods" && r.Namespace == "shop" && r.Subresource == ""
	}
	address := serveShows(t, d, Shows{Scheduler: fakeSource{}, Traces: book, Metrics: prometheus.NewRegistry(), Mesos: fakeMesos{}, Reviewer: reviewer.New(t, grants).Client(t)})
	for who, want := range map[string][2]int{
		"": {http.StatusUnauthorized, http.StatusUnauthorized}, reviewer.TokenOf("viewer"): {http.StatusOK, http.StatusForbidden},
		reviewer.TokenOf("someone"): {http.StatusForbidden, http.StatusForbidden},
	} {
		for i, path := range []string{"/pods/shop/web/trace", "/pods/other/web/trace"} {
			if code, body, err := ask(t, address, path, who, ""); err != nil || code != want[i] {
				t.Errorf("%q: %s answers %d, %v, want %d: %.200s", who, path, code, err, want[i], body)
			}
		}
	}
	got, err := client(t, d.AdminKubeconfig(), address).Traces(t.Context(), web)
	if err != nil || len(got) != 1 || got[0].UID != "1" || got[0].Node != "n1" {
		t.Errorf("an administrator reads %+v, %v", got, err)
	}
}

func TestAdministratorsAreAnsweredWhileTheAPIServerIsDown(t *testing.T) {
	d := cluster(t)
	server := reviewer.New(t, viewers)
	server.Down.Store(true)
	address := serveShows(t, d, Shows{Scheduler: fakeSource{}, Metrics: prometheus.NewRegistry(), Mesos: fakeMesos{}, Reviewer: server.Client(t)})
	for _, kubeconfig := range []string{d.AdminKubeconfig(), d.SchedulerKubeconfig()} {
		if code, body, err := ask(t, address, "/mesos/state", "", kubeconfig); err != nil || code != http.StatusOK {
			t.Errorf("%s: %d %s %v", kubeconfig, code, body, err)
		}
	}
	if code, body, err := ask(t, address, "/mesos/state", reviewer.TokenOf("viewer"), ""); err != nil || code == http.StatusOK {
		t.Errorf("a token: %d %s %v", code, body, err)
	}
	if asked := server.Reviews(); asked == 0 {
		t.Error("the API server was not asked")
	}
}

func TestRefusalIsASentence(t *testing.T) {
	d := cluster(t)
	address := serve(t, d, fakeSource{})
	for token, want := range map[string]string{
		"":                           "a client certificate from the cluster's CA, or a token of the cluster, is required",
		reviewer.TokenOf("somebody"): `user "somebody" may not get /mesos/state`,
	} {
		if _, body, err := ask(t, address, "/mesos/state", token, ""); err != nil || strings.TrimSpace(body) != want {
			t.Errorf("got %q %v, want %q", body, err, want)
		}
	}
}
