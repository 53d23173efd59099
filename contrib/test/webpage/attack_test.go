package webpage

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/browser"
	"github.com/k8sm/k8sm/contrib/test/chrome"
)

// evil is a page of another server. It tries what it can with the cookies of who looks at it, and says at the end how each attempt went.
const evil = `<!doctype html><title>evil</title><body><h1>Win a prize</h1><script>
const at = %q, object = JSON.stringify({apiVersion: "v1", kind: "Namespace", metadata: {name: "evil"}}), results = {};
const post = (name, path, init) => fetch(at + path, {method: "POST", credentials: "include", ...init}).then((r) => r.status ? r.text().then((t) => r.status + " " + t) : "opaque", () => "blocked").then((r) => { results[name] = r; });
const socket = (name, path, protocols) => new Promise((done) => {
  const s = new WebSocket(at.replace("https", "wss") + path, protocols);
  s.onopen = () => { results[name] = "open"; done(); };
  s.onerror = () => { results[name] = "blocked"; done(); };
});
const load = (name, element) => new Promise((done) => {
  element.onload = () => { results[name] = "loaded"; done(); };
  element.onerror = () => { results[name] = "blocked"; done(); };
  document.body.append(element);
});
const form = () => new Promise((done) => {
  // As text/plain, a form can send any JSON.
  const f = Object.assign(document.createElement("form"), {method: "POST", action: at + "/api/k8s/api/v1/namespaces", enctype: "text/plain", target: "sink"});
  const rest = object.slice(0, -1) + ',"x":"';
  f.append(Object.assign(document.createElement("input"), {name: rest, value: '"}'}));
  const sink = Object.assign(document.createElement("iframe"), {name: "sink"});
  sink.onload = () => { if (sink.dataset.sent) done(); };
  document.body.append(sink, f);
  sink.dataset.sent = "1";
  f.submit();
  setTimeout(done, 2000);
});
const frame = () => new Promise((done) => {
  const f = Object.assign(document.createElement("iframe"), {src: at + "/pods"});
  f.onload = () => { results.frame = f.contentWindow.length + (f.contentDocument ? " own" : " foreign"); done(); };
  document.body.append(f);
});
Promise.all([
  post("nocors", "/api/k8s/api/v1/namespaces", {mode: "no-cors", body: object}),
  post("json", "/api/k8s/api/v1/namespaces", {headers: {"Content-Type": "application/json"}, body: object}),
  post("read", "/api/k8s/api/v1/secrets", {method: "GET"}),
  post("session", "/api/session", {method: "GET"}),
  post("logout", "/auth/logout", {mode: "no-cors"}),
  post("login", "/auth/token", {mode: "no-cors", body: JSON.stringify({secret: "mine"})}),
  socket("watch", "/api/watch"), socket("exec", "/api/k8s/api/v1/namespaces/default/pods/hostile/exec?command=sh&stdin=true", ["v5.channel.k8s.io"]),
  load("script", Object.assign(document.createElement("script"), {src: at + "/api/k8s/api/v1/secrets"})),
  load("image", Object.assign(document.createElement("img"), {src: at + "/api/k8s/api/v1/secrets"})),
  form(), frame(),
]).then(() => { window.results = results; });
</script>`

// othersReachNothing opens pages of other servers in the browser of the administrator.
func othersReachNothing(b *browser.Tab, c *cluster) {
	var asked []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, evil, strings.TrimSuffix(c.page.URL(), "/"))
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	// Another port of this machine is the same site: cookies go along.
	for _, host := range []string{"127.0.0.1", chrome.Rebound} {
		from := b.Beside(b.T, "https://"+net.JoinHostPort(host, port)+"/")
		from.Until(`"results" in window`)
		for name, result := range browser.Eval[map[string]string](from, `results`) {
			switch {
			case result == "blocked", result == "opaque", name == "frame" && result == "0 foreign":
			default:
				b.Errorf("from %s, %s: %s", host, name, result)
			}
		}
	}
	if len(asked) == 0 {
		b.Error("nobody has opened the other pages")
	}
	if _, err := c.kube.CoreV1().Namespaces().Get(b.Context(), "evil", metav1.GetOptions{}); gone(err) != nil {
		b.Errorf("another page has made a namespace: %v", err)
	}
	// Its own page goes on.
	b.Open("/pods", "live")

	// A name of a stranger that leads to this server (DNS rebinding).
	_, port, _ = net.SplitHostPort(c.page.Addr())
	rebound := b.Beside(b.T, "https://"+net.JoinHostPort(chrome.Rebound, port)+"/pods")
	rebound.Await("this server is not " + chrome.Rebound)
	if said := browser.Eval[string](rebound, `fetch("/api/session").then((r) => r.status + "", () => "blocked")`); said != "421" && said != "blocked" {
		b.Errorf("under another name the session is %s", said)
	}
}
