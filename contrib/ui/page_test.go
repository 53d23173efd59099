package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	browserprotocol "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/evanw/esbuild/pkg/api"
	"github.com/gorilla/websocket"
)

// TestPage runs the page's own code in Chromium, on an API server that is a fake. What needs a cluster is in contrib/test/e2e.
func TestPage(t *testing.T) {
	built := buildPage(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.IgnoreCertErrors, chromedp.WindowSize(1440, 900))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx) // the browser; each test has a tab
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("cannot start chromium: %v; run make test-deps", err)
	}
	t.Run("logic", func(t *testing.T) { logicOfThePage(t, ctx) })
	t.Run("usage of pods", func(t *testing.T) { usageIsAskedByNamespace(t, ctx, built) })
	t.Run("hidden page", func(t *testing.T) { hiddenPageAsksNothing(t, ctx, built) })
	t.Run("list on a phone", func(t *testing.T) { listOnAPhone(t, ctx, built) })
	t.Run("charts of a pod", func(t *testing.T) { chartsOfAPod(t, ctx, built) })
	t.Run("terminal", func(t *testing.T) { terminalKeepsToItself(t, ctx, built) })
}

// buildPage builds the page as it is in the source tree. The packages for tests are in web/node_modules then.
func buildPage(t *testing.T) *pages {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "embedded"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "-trimpath", "./contrib/ui/bundle", "-dev", "-out", filepath.Join(dir, "embedded"))
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the page: %v\n%s", err, said)
	}
	p, err := newPages(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tab is a tab of the browser.
type tab struct {
	*testing.T
	ctx context.Context
}

func newTab(t *testing.T, browser context.Context) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	return &tab{t, ctx}
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatalf("the browser: %v", err)
	}
}

// first runs a script in each page that is opened from now on, before the page's own.
func (b *tab) first(script string) {
	b.Helper()
	if _, err := chromedp.Call(b.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script}); err != nil {
		b.Fatal(err)
	}
}

// eval returns what an expression of JavaScript is, a promise's value if it is one.
func eval[T any](b *tab, script string) T {
	b.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatalf("%s: %v", script, err)
	}
	return value
}

// until waits for a condition in JavaScript.
func (b *tab) until(condition string) {
	b.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](condition, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(time.Minute))); err != nil {
		b.Fatalf("the page never had %s: %v; it shows:\n%s", condition, err, eval[string](b, `document.body.innerText.replaceAll(/\s*\n\s*/g, "\n")`))
	}
}

// eventually waits for a condition of the fake.
func (b *tab) eventually(what string, condition func() bool) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.Fatalf("%s never came: %v", what, b.ctx.Err())
		}
	}
}

// usable fails the test if the policy forbade the page something, or somebody can't use it (https://github.com/dequelabs/axe-core).
func (b *tab) usable() {
	b.Helper()
	script, err := os.ReadFile("web/node_modules/axe-core/axe.min.js")
	if err != nil {
		b.Fatal(err)
	}
	eval[int](b, string(script)+";0")
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		if err != nil {
			b.Fatal(err)
		}
		for _, found := range eval[[]string](b, `axe.run().then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + " at " + n.target.join(" ") + ": " + n.failureSummary)))`) {
			b.Errorf("in %s colours: %s", scheme, found)
		}
	}
	for _, f := range eval[[]string](b, `forbidden`) {
		b.Errorf("the policy forbids %s", f)
	}
}

// logicOfThePage runs web/test, which has functions of the page without its looks.
func logicOfThePage(t *testing.T, browser context.Context) {
	result := api.Build(api.BuildOptions{
		EntryPoints: []string{"web/test/main.ts"}, Bundle: true, Format: api.FormatIIFE, Target: api.ES2022, JSX: api.JSXAutomatic, JSXImportSource: "preact", Outdir: t.TempDir(),
	})
	for _, e := range result.Errors {
		t.Fatalf("%v: %s", e.Location, e.Text)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, file := range result.OutputFiles {
			if r.URL.Path == "/test.js" && filepath.Ext(file.Path) == ".js" {
				w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
				_, _ = w.Write(file.Contents)
				return
			}
		}
		fmt.Fprint(w, `<!doctype html><title>test</title><script src="/test.js"></script>`)
	}))
	t.Cleanup(server.Close)
	b := newTab(t, browser)
	b.do(chromedp.Navigate(server.URL))
	b.until("window.results !== undefined")
	results := eval[[][2]string](b, "results")
	if len(results) < 20 {
		t.Errorf("only %d tests ran", len(results))
	}
	for _, r := range results {
		t.Run(r[0], func(t *testing.T) {
			if r[1] != "" {
				t.Error(r[1])
			}
		})
	}
}

// openPage opens a path of the page in a tab, as a user of a fake API server.
func openPage(t *testing.T, browser context.Context, built *pages, handler http.HandlerFunc) (b *tab, show func(path string)) {
	t.Helper()
	a := newAPI(t, handler)
	s := openWith(t, a, Config{}, built).server
	link, err := s.Link(t.Context(), a.config("token-of-ann"))
	if err != nil {
		t.Fatal(err)
	}
	b = newTab(t, browser)
	b.first(`window.forbidden = []; document.addEventListener("securitypolicyviolation", (e) => forbidden.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample));`)
	b.do(chromedp.Navigate(link))
	b.until(`document.querySelector(".who-name")?.textContent === "ann"`)
	return b, func(path string) {
		t.Helper()
		b.do(chromedp.Navigate(strings.TrimSuffix(s.URL(), "/") + path))
	}
}

// object is anything of the API.
type object = map[string]any

// shop is a cluster of namespaces with many pods each, of which one is for others.
type shop struct {
	namespaces []string
	each       int

	mu    sync.Mutex // guards asked
	asked []string   // the paths of usage
}

func (s *shop) podsOf(ns string) (names []string) {
	for i := range s.each {
		names = append(names, fmt.Sprintf("%s-%04d", ns, i))
	}
	return names
}

// usageAsked are the questions about usage so far.
func (s *shop) usageAsked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

var usagePath = regexp.MustCompile(`^/apis/monitoring.k8sm.io/v1/namespaces/([^/]+)/pods/([^/]+)/([a-z-]+)$`)

// ServeHTTP is an API server with as much as the list of pods needs.
func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	usage := usagePath.FindStringSubmatch(r.URL.Path)
	switch {
	case r.URL.Path == "/apis":
		writeJSON(w, object{"items": []object{groupOfPods("metrics.k8s.io"), groupOfPods("monitoring.k8sm.io")}})
	case r.URL.Query().Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case r.URL.Path == "/api/v1/pods":
		s.servePods(w)
	case r.URL.Path == "/apis/metrics.k8s.io/v1beta1/pods":
		var items []object
		for _, ns := range s.namespaces {
			for _, name := range s.podsOf(ns) {
				items = append(items, object{"metadata": object{"namespace": ns, "name": name}, "containers": []object{{"usage": object{"cpu": "7m", "memory": "3Mi"}}}})
			}
		}
		writeJSON(w, object{"items": items})
	case usage != nil:
		s.serveUsage(w, usage[1], usage[2])
		s.mu.Lock()
		s.asked = append(s.asked, strings.Join(usage[1:], " "))
		s.mu.Unlock()
	default:
		writeJSON(w, object{"items": []object{}, "rows": []object{}})
	}
}

// groupOfPods is what discovery says of an API group that has pods.
func groupOfPods(name string) object {
	return object{"metadata": object{"name": name}, "versions": []object{{"version": "v1", "resources": []object{{"resource": "pods", "scope": "Namespaced", "verbs": []string{"get"}}}}}}
}

func (s *shop) servePods(w http.ResponseWriter) {
	var rows []object
	for _, ns := range s.namespaces {
		for _, name := range s.podsOf(ns) {
			rows = append(rows, object{"cells": []any{name, "1/1", "Running", "0", "5m", "10.0.0.1", "node-1"}, "object": object{"metadata": object{"uid": name, "namespace": ns, "name": name}}})
		}
	}
	var columns []object
	for _, name := range []string{"Name", "Ready", "Status", "Restarts", "Age", "IP", "Node"} {
		columns = append(columns, object{"name": name, "type": "string"})
	}
	writeJSON(w, object{"metadata": object{"resourceVersion": "1"}, "columnDefinitions": columns, "rows": rows})
}

func (s *shop) serveUsage(w http.ResponseWriter, ns, pod string) {
	if ns == "secret" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(object{"message": "no"})
		return
	}
	if pod != "*" {
		http.Error(w, "one by one takes all day", http.StatusTooManyRequests)
		return
	}
	at := time.Now().Unix()
	var result []object
	for _, name := range s.podsOf(ns) {
		result = append(result, object{"metric": object{"pod": name}, "values": [][2]any{{at - 180, "1"}, {at - 90, "3"}, {at, "2"}}})
	}
	writeJSON(w, object{"data": object{"result": result}})
}

// faster makes the page's time run 50 times as fast, so that what it does every minute can be seen.
const faster = `(() => {
	const times = 50, began = Date.now(), now = Date.now, every = setInterval, once = setTimeout;
	Date.now = () => began + (now() - began) * times;
	window.setInterval = (run, ms) => every(run, ms / times);
	window.setTimeout = (run, ms) => once(run, ms / times);
})()`

// usageIsAskedByNamespace looks at a list of 5,000 pods.
func usageIsAskedByNamespace(t *testing.T, browser context.Context, built *pages) {
	s := &shop{namespaces: []string{"a", "b", "c", "d", "secret"}, each: 1000}
	b, show := openPage(t, browser, built, s.ServeHTTP)
	show("/pods")
	b.until(`document.querySelectorAll(".spark polyline").length > 20`)
	asked := s.usageAsked()
	slices.Sort(asked)
	if got := strings.Join(asked, ", "); got != "a * cpu, a * memory" {
		t.Errorf("for the rows in sight it asks %s", got)
	}
	if rows := eval[int](b, `document.querySelectorAll("tbody tr").length`); rows > 100 {
		t.Errorf("there are %d rows in the document", rows)
	}
	b.usable()
	// Who may not see what pods used sees what they use now.
	eval[any](b, `document.querySelector(".rows").scrollTo(0, 1e7)`)
	b.until(`document.querySelector("tbody").innerText.includes("secret-0999") && document.querySelectorAll(".spark").length === 0`)
	b.eventually("a question about the last rows", func() bool { return slices.Contains(s.usageAsked(), "secret * memory") })
	b.until(`document.querySelector("tbody").innerText.includes("7m")`)
	if asked := s.usageAsked(); len(asked) > 10 {
		t.Errorf("5,000 pods make %d questions: %q", len(asked), asked)
	}

}

// listOnAPhone looks at a list where there is room for a name only.
func listOnAPhone(t *testing.T, browser context.Context, built *pages) {
	s := &shop{namespaces: []string{"a"}, each: 500}
	b, show := openPage(t, browser, built, s.ServeHTTP)
	if _, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 390, Height: 844, DeviceScaleFactor: 1, Mobile: true}); err != nil {
		t.Fatal(err)
	}
	show("/pods")
	b.until(`/a\/a-0000\s+Running.*1\/1.*node-1/.test(document.querySelector("tbody tr")?.innerText.replaceAll("\n", " "))`)
	if wide := eval[int](b, `document.documentElement.scrollWidth`); wide > 390 {
		t.Errorf("the page is %d pixels wide", wide)
	}
	eval[any](b, `document.querySelector(".rows").scrollTo(0, 1e7)`)
	b.until(`document.querySelector("tbody").innerText.includes("a-0499")`)
	b.usable()
}

// hiddenPageAsksNothing hides a list that asks every minute, and shows it again.
func hiddenPageAsksNothing(t *testing.T, browser context.Context, built *pages) {
	s := &shop{namespaces: []string{"a", "b"}, each: 5}
	b, show := openPage(t, browser, built, s.ServeHTTP)
	b.first(faster)
	show("/pods")
	before := len(s.usageAsked())
	b.eventually("the next questions", func() bool { return len(s.usageAsked()) >= before+8 })
	const hidden = `Object.defineProperty(document, "visibilityState", {value: %q, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`
	eval[any](b, fmt.Sprintf(hidden, "hidden"))
	const minutes = `new Promise((done) => setTimeout(() => done(0), %d * 60000))`
	eval[int](b, fmt.Sprintf(minutes, 1)) // what was under way
	before = len(s.usageAsked())
	eval[int](b, fmt.Sprintf(minutes, 3))
	if now := len(s.usageAsked()); now != before {
		t.Errorf("a page that nobody sees asked %d times", now-before)
	}
	eval[any](b, fmt.Sprintf(hidden, "visible"))
	b.eventually("a question of the page that is seen again", func() bool { return len(s.usageAsked()) > before })
}

// chartsOfAPod looks at a pod whose usage is kept, is not kept, or is for others.
func chartsOfAPod(t *testing.T, browser context.Context, built *pages) {
	for name, c := range map[string]struct {
		groups []object
		code   int
		want   string // in JavaScript
	}{
		"kept":      {[]object{groupOfPods("monitoring.k8sm.io")}, http.StatusOK, `document.querySelectorAll(".usage canvas").length === 3 && document.querySelector(".usage").innerText.includes("received")`},
		"not kept":  {nil, http.StatusNotFound, `document.body.innerText.includes("This cluster keeps no metrics")`},
		"forbidden": {[]object{groupOfPods("monitoring.k8sm.io")}, http.StatusForbidden, `document.body.innerText.includes("You may not see what pods of shop used")`},
		"away":      {[]object{groupOfPods("monitoring.k8sm.io")}, http.StatusServiceUnavailable, `document.body.innerText.includes("The metrics server does not answer: try later")`},
	} {
		t.Run(name, func(t *testing.T) {
			b, show := openPage(t, browser, built, func(w http.ResponseWriter, r *http.Request) {
				switch usage := usagePath.FindStringSubmatch(r.URL.Path); {
				case r.URL.Path == "/apis":
					writeJSON(w, object{"items": c.groups})
				case usage == nil:
					(&shell{}).ServeHTTP(w, r)
				case c.code != http.StatusOK:
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(c.code)
					_ = json.NewEncoder(w).Encode(object{"message": "try later"})
				default:
					at := time.Now().Unix()
					writeJSON(w, object{"data": object{"result": []object{{"metric": object{"pod": usage[2]}, "values": [][2]any{{at - 60, "1"}, {at - 30, "3"}}}}}})
				}
			})
			show("/pods/shop/web")
			b.until(c.want)
			b.usable()
		})
	}
}

// shell is the other side of a terminal.
type shell struct {
	conn  chan *websocket.Conn
	typed chan string // what the terminal sends
}

func (s *shell) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/exec"):
		upgrader := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		s.conn <- conn
		for {
			_, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if len(message) > 0 && message[0] == 0 {
				s.typed <- string(message[1:])
			}
		}
	case r.URL.Query().Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case strings.Contains(r.URL.Path, "selfsubjectrulesreviews"):
		writeJSON(w, object{"status": object{"resourceRules": []object{{"verbs": []string{"*"}, "apiGroups": []string{"*"}, "resources": []string{"*"}}}}})
	case strings.HasSuffix(r.URL.Path, "/pods"):
		writeJSON(w, object{"metadata": object{"resourceVersion": "1"}, "items": []object{{
			"metadata": object{"name": "web", "namespace": "shop", "uid": "u"}, "spec": object{"nodeName": "node-1", "containers": []object{{"name": "main"}}}, "status": object{"phase": "Running"},
		}}})
	default:
		writeJSON(w, object{"items": []object{}, "rows": []object{}})
	}
}

// terminal is a tab with a shell.
type terminal struct {
	*tab
	shell *shell
	conn  *websocket.Conn
}

// say writes what a program would, and waits until the terminal shows the text at its end.
func (s *terminal) say(text, shown string) {
	s.Helper()
	if err := s.conn.WriteMessage(websocket.BinaryMessage, append([]byte{1}, text...)); err != nil {
		s.Fatal(err)
	}
	s.until(fmt.Sprintf(`document.querySelector(".xterm-rows").innerText.replaceAll("\u00a0", " ").includes(%q)`, shown))
}

// gets reads what the terminal sends.
func (s *terminal) gets(want string) {
	s.Helper()
	select {
	case got := <-s.shell.typed:
		if got != want {
			s.Errorf("the shell gets %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		s.Fatalf("the shell gets nothing, want %q", want)
	}
}

// key presses a key with modifiers. The browser does what it does for the key: command is what that is called.
func (s *terminal) key(key, code string, modifiers int64, command ...string) {
	s.Helper()
	for _, of := range []input.DispatchKeyEventType{"rawKeyDown", "keyUp"} {
		p := input.DispatchKeyEventParams{Type: of, Key: key, Code: code, Modifiers: modifiers, WindowsVirtualKeyCode: int64(strings.ToUpper(key)[0])}
		if of == "rawKeyDown" {
			p.Commands = command
		}
		if _, err := chromedp.Call(s.ctx, input.DispatchKeyEvent, p); err != nil {
			s.Fatal(err)
		}
	}
}

// click clicks a word that the terminal shows, or doubles the click.
func (s *terminal) click(word string, times int64) {
	s.Helper()
	at := eval[[2]float64](s.tab, fmt.Sprintf(`(() => {
		const rows = document.createTreeWalker(document.querySelector(".xterm-rows"), NodeFilter.SHOW_TEXT);
		for (let n; (n = rows.nextNode());) {
			const i = n.data.indexOf(%q);
			if (i < 0) continue;
			const range = document.createRange();
			range.setStart(n, i);
			range.setEnd(n, i + 1);
			const box = range.getBoundingClientRect();
			return [box.x + box.width / 2, box.y + box.height / 2];
		}
	})()`, word))
	for _, of := range []input.DispatchMouseEventType{"mouseMoved", "mousePressed", "mouseReleased"} {
		p := input.DispatchMouseEventParams{Type: of, X: at[0], Y: at[1]}
		if of != "mouseMoved" {
			p.Button, p.ClickCount = "left", times
		}
		if _, err := chromedp.Call(s.ctx, input.DispatchMouseEvent, p); err != nil {
			s.Fatal(err)
		}
	}
}

const ctrl, shift = 2, 8

// terminalKeepsToItself lets a program in a container try to reach out of the terminal.
func terminalKeepsToItself(t *testing.T, browser context.Context, built *pages) {
	sh := &shell{conn: make(chan *websocket.Conn, 1), typed: make(chan string, 100)}
	b, show := openPage(t, browser, built, sh.ServeHTTP)
	for _, name := range []string{"clipboard-read", "clipboard-write"} {
		if _, err := chromedp.Call(b.ctx, browserprotocol.SetPermission, browserprotocol.SetPermissionParams{
			Permission: &browserprotocol.PermissionDescriptor{Name: name}, Setting: browserprotocol.PermissionSettingGranted}); err != nil {
			t.Fatal(err)
		}
	}
	show("/pods/shop/web?tab=terminal")
	s := &terminal{tab: b, shell: sh, conn: <-sh.conn}
	s.say("ready\r\n", "ready")
	clipboard := func() string { return eval[string](b, "navigator.clipboard.readText()") }
	eval[any](b, `navigator.clipboard.writeText("mine")`)

	// A program neither writes nor reads the clipboard (OSC 52).
	s.say("\x1b]52;c;c3RvbGVu\x07\x1b]52;;c3RvbGVu\x1b\\\x1b]52;c;?\x07done\r\n", "done")
	if got := clipboard(); got != "mine" {
		t.Errorf("a program has put %q on the clipboard", got)
	}

	// Links of programs (OSC 8) are opened if they are of the web, in a page that knows nothing of this one.
	eval[any](b, `window.opened = []; window.open = (...how) => { opened.push(how.join(" ")); return null; }`)
	link := func(url, text string) string { return "\x1b]8;;" + url + "\x1b\\" + text + "\x1b]8;;\x1b\\ " }
	s.say(link("javascript:alert(document.domain)", "script")+link("file:///etc/passwd", "filed")+link("HTTPS://evil.example", "upper")+link("data:text/html,x", "datum")+
		link("https://example.com/a", "secure")+"\r\nlinks\r\n", "links")
	for _, word := range []string{"script", "filed", "datum", "secure"} {
		s.click(word, 1)
	}
	b.until("opened.length > 0")
	if got := eval[[]string](b, "opened"); len(got) != 1 || got[0] != "https://example.com/a _blank noopener,noreferrer" {
		t.Errorf("it opened %q", got)
	}

	// Ctrl C copies what is selected, and is the shell's otherwise.
	s.say("copyme other\r\n", "copyme")
	s.click("copyme", 1)
	s.click("copyme", 2)
	s.key("c", "KeyC", ctrl)
	b.eventually("the copy", func() bool { return clipboard() == "copyme" })
	s.key("c", "KeyC", ctrl)
	s.gets("\x03")
	s.click("other", 1)
	s.click("other", 2)
	s.key("C", "KeyC", ctrl|shift)
	b.eventually("the copy", func() bool { return clipboard() == "other" })

	// What is pasted is text: it ends no bracketed paste, and types no keys.
	eval[any](b, `navigator.clipboard.writeText("echo a\u001b[201~\nrm -rf x\u0003\u0015 ä\t")`)
	s.key("V", "KeyV", ctrl|shift, "paste")
	s.gets("echo a[201~\rrm -rf x ä\t")
	s.say("\x1b[?2004hbracketed\r\n", "bracketed")
	s.key("V", "KeyV", ctrl|shift, "paste")
	s.gets("\x1b[200~echo a[201~\rrm -rf x ä\t\x1b[201~")
	eval[any](b, `[...document.querySelectorAll("button")].find((b) => b.textContent === "Paste").click()`)
	s.gets("\x1b[200~echo a[201~\rrm -rf x ä\t\x1b[201~")
	select {
	case typed := <-sh.typed:
		t.Errorf("the shell also got %q", typed)
	default:
	}
}
