package gateway

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// proxied is an API server with something to proxy to, and what came there last.
func proxied(t *testing.T) (g *running, last func() seen) {
	api := newFakeAPI(t)
	web := aPod("default", "web", nil)
	web.Spec.Containers = []v1.Container{{Ports: []v1.ContainerPort{{ContainerPort: 8080}}}}
	web.Status.PodIP = "10.0.0.1"
	named := aService("named")
	named.Spec.Ports[0].Name = "http"
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.1"}}}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	capitals := aService("capitals")
	capitals.Annotations = map[string]string{"k8sm.io/v1beta1-id": "Capitals"}
	six := aPod("default", "six", nil)
	six.Status.PodIP = "fd00::1"
	api.put(web, aPod("other", "web", nil), aPod("default", "pending", nil), six, named, capitals, aService("empty"), node, aSlice("named", "named-1", "10.0.0.1"))
	slice := aSlice("named", "named-1", "10.0.0.1")
	slice.Ports[0].Name = new("http")
	api.put(slice)
	api.backend = func(w http.ResponseWriter, r *http.Request) {
		for _, name := range ofTheOrigin {
			w.Header().Set(name, "*")
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "this is %s", r.URL.Path)
	}
	return start(t, api, nil), api.last
}

func TestProxyGoesThroughTheAPIServer(t *testing.T) {
	g, last := proxied(t)
	for path, want := range map[string]string{
		"/api/v1beta1/proxy/pods/web":                             "/api/v1/namespaces/default/pods/web/proxy/",
		"/api/v1beta1/proxy/pods/web/":                            "/api/v1/namespaces/default/pods/web/proxy/",
		"/api/v1beta1/proxy/pods/web:8081/a/b?c=d%20e&f":          "/api/v1/namespaces/default/pods/web:8081/proxy/a/b?c=d%20e&f",
		"/api/v1beta1/proxy/pods/web/x?timeout=10&a;b&c=%zz":      "/api/v1/namespaces/default/pods/web/proxy/x?timeout=10&a;b&c=%zz",
		"/api/v1beta1/proxy/pods/web/a%2Fb/c%20d/e+f":             "/api/v1/namespaces/default/pods/web/proxy/a%2Fb/c%20d/e+f",
		"/api/v1beta2/proxy/pods/web/x?namespace=other":           "/api/v1/namespaces/other/pods/web/proxy/x?namespace=other",
		"/api/v1beta1/proxy/services/named/x":                     "/api/v1/namespaces/default/services/named:http/proxy/x",
		"/api/v1beta1/proxy/services/named:http/x":                "/api/v1/namespaces/default/services/named:http/proxy/x",
		"/api/v1beta1/proxy/services/Capitals/x":                  "/api/v1/namespaces/default/services/capitals/proxy/x",
		"/api/v1beta1/proxy/minions/n1/healthz":                   "/api/v1/nodes/n1/proxy/healthz",
		"/api/v1beta1/proxy/pods/web/a/...":                       "/api/v1/namespaces/default/pods/web/proxy/a/...",
		"/api/v1/namespaces/default/pods/web/proxy/link":          "/api/v1/namespaces/default/pods/web/proxy/link",
		"/api/v1/namespaces/other/pods/web/proxy/link?namespace=": "/api/v1/namespaces/other/pods/web/proxy/link?namespace=",
		"/api/v1/nodes/n1/proxy/logs/":                            "/api/v1/nodes/n1/proxy/logs/",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			response, body := g.ask(method+" "+path, "the body")
			if l := last(); response.StatusCode != http.StatusOK || l.uri != want || l.method != method || l.body != "the body" || l.user != "alice" || !strings.HasPrefix(body, "this is /api/v1/") {
				t.Errorf("%s %s: %d %q; the API server saw %s %s of %s with %q, want %s", method, path, response.StatusCode, body, l.method, l.uri, l.user, l.body, want)
			}
		}
	}
}

func TestPagesOfPodsAreContained(t *testing.T) {
	g, _ := proxied(t)
	response, _ := g.ask("GET /api/v1beta1/proxy/pods/web/", "")
	for _, name := range []string{"Set-Cookie", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc"} { // of all servers of this machine, for a browser
		if got := response.Header.Values(name); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
	for header, want := range map[string][]string{"Content-Security-Policy": {"sandbox"}, "X-Content-Type-Options": {"nosniff"}, "Access-Control-Allow-Origin": nil, "Content-Type": {"text/html"}} {
		if got := response.Header.Values(header); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
}

// TestProxyLeavesNoWayOut: no path ends elsewhere in the API server, and nothing that comes from outside says who a request is from.
func TestProxyLeavesNoWayOut(t *testing.T) {
	g, last := proxied(t)
	for _, path := range []string{
		"/api/v1beta1/proxy/pods/web/../../secrets", "/api/v1beta1/proxy/pods/web/%2e%2e/x", "/api/v1beta1/proxy/pods/web/a/..", "/api/v1beta1/proxy/pods/web/.%2E/x",
		"/api/v1beta1/proxy/pods/web/a%2F..%2F..%2Fx", "/api/v1beta1/proxy/pods/web/./x", "/api/v1beta1/proxy/pods/..:80/x", "/api/v1beta1/proxy/pods/%2e%2e/x",
		"/api/v1beta1/proxy/pods/a%2Fb/x", "/api/v1beta1/proxy/pods/web%2Flog", "/api/v1beta1/proxy/services/:80/x", "/api/v1/namespaces/../pods/web/proxy/x",
		"/api/v1/namespaces/%2e%2e/pods/web/proxy/x", "/api/v1/namespaces/default/pods/web/exec", "/api/v1/namespaces/default/pods/web/proxyx/y", "/api/v1/pods/web/proxy/x",
		"/api/v1/namespaces/default/secrets/x/proxy/y", "/api/v1/namespaces/default/nodes/n1/proxy/y", "/api/v1beta1/proxy/pods/web?x/../../y/../../../../secrets",
		"/api/v1beta1/proxy/pods/web:80%2F..%2F..%2Fsecrets/x", "/api/v1beta1/proxy/pods/web/%252e%252e/x",
	} {
		// Sent as it is: a client of net/http would clean it.
		r, err := http.NewRequest(http.MethodGet, "http://"+g.address, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = "//" + g.address + path
		r.Header = g.header
		response, err := g.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	allowed := regexp.MustCompile(`^/api/v1/namespaces/default/pods/[a-z]+$|^/api/v1/namespaces/default/pods/web/proxy/[^.?]*(\?.*)?$`)
	g.api.mu.Lock()
	for _, call := range g.api.calls {
		if call.user == "alice" && !allowed.MatchString(call.uri) {
			t.Errorf("the API server was asked for %s", call.uri)
		}
	}
	g.api.mu.Unlock()
	const cookie = "Cookie: session=of-another-server"
	evil := g.as("Authorization: Bearer bobs-token").with("X-Remote-User: kubernetes-admin").with("X-Remote-Group: system:masters").with("Impersonate-User: kubernetes-admin").
		with("X-Remote-Extra-A: b").with(cookie).with("Connection: X-Forwarded-For").with("Upgrade: websocket")
	certified := g.as("", g.api.certificate(t, "dave")).with("X-Remote-User: kubernetes-admin").with("X-Remote-Group: system:masters").with("Authorization: Basic eDp5").with(cookie)
	for user, as := range map[string]*running{"bob": evil, "dave": certified} {
		response, body := as.ask("GET /api/v1beta1/proxy/pods/web/x", "")
		if response.StatusCode != http.StatusOK || last().user != user || len(last().groups) > 0 {
			t.Errorf("%d %s as %s of %s", response.StatusCode, body, last().user, last().groups)
		}
		for header, values := range last().header {
			ours := user == "bob" && header == "Authorization" && slices.Equal(values, []string{"Bearer bobs-token"}) ||
				user == "dave" && (header == "X-Remote-User" || strings.HasPrefix(header, "X-Remote-Extra-Authentication.kubernetes.io"))
			if !ours && (strings.HasPrefix(header, "Impersonate") || strings.HasPrefix(header, "X-Remote-") || slices.Contains([]string{"Authorization", "Cookie", "Upgrade", "Connection"}, header)) {
				t.Errorf("%s: the API server got %s: %q", user, header, values)
			}
		}
	}
}

func TestWhatCannotBeReachedIsToldAsIn2014(t *testing.T) {
	g, _ := proxied(t)
	g.api.backend = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, map[string]string{
			"/down":  `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"error trying to reach service: dial tcp 192.0.2.1:10250: connect: connection refused","code":503}`,
			"/empty": `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no endpoints available for service \"x\"","code":503}`,
			"/own":   `{"an answer":"of the pod"}`,
		}[r.URL.Path[strings.LastIndex(r.URL.Path, "/"):]])
	}
	for path, want := range map[string]string{
		"down":  "Error: 'dial tcp 192.0.2.1:10250: connect: connection refused'\nTrying to reach: '/down'",
		"empty": "Error: 'no endpoints available for service \"x\"'\nTrying to reach: '/empty'",
		"own":   `{"an answer":"of the pod"}`,
	} {
		if response, body := g.ask("GET /api/v1beta1/proxy/minions/n1/"+path, ""); response.StatusCode != http.StatusServiceUnavailable || body != want {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
	if response, body := g.ask("GET /api/v1beta1/proxy/minions/none/", ""); response.StatusCode != http.StatusNotFound || !strings.Contains(body, `minion \"none\" not found`) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

func TestRedirectSaysWhereAnObjectIs(t *testing.T) {
	g, _ := proxied(t)
	g.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]string{
		"minions/n1": "https://192.0.2.1:10250", "pods/web": "http://10.0.0.1:8080", "pods/web:81": "http://10.0.0.1:81", "pods/six": "http://[fd00::1]",
		"services/named": "http://10.0.0.1:8080", "services/empty": `503 *service \"empty\" has no address yet*`, "pods/pending": `503 *pod \"pending\" has no address yet*`,
		"pods/web:80@evil.example": `400 *\"80@evil.example\" is no port*`, "pods/web:http": `400 *cannot redirect to port \"http\" of a pod*`,
		"services/named:80": `400 *cannot redirect to port \"80\" of a service*`, "pods/web:70000": `400 *`, "pods/web:": `400 *`, "pods/:80": `404 *pod \"\" not found*`, "minions/..": `404 *`,
		"pods/none": `404 *pod \"none\" not found*`, "events/x": `404 Not Found: *`, "pods/web/x": `404 Not Found: *`,
	} {
		response, body := g.ask("GET /api/v1beta1/redirect/"+path, "")
		got := fmt.Sprintf("%d %s", response.StatusCode, body)
		if response.StatusCode == http.StatusTemporaryRedirect {
			got = response.Header.Get("Location") + body
		}
		if !matches(want, got) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
