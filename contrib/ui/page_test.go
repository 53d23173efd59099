package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	browserprotocol "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/evanw/esbuild/pkg/api"
	"github.com/gorilla/websocket"

	webbrowser "github.com/k8sm/k8sm/contrib/test/browser"
)

// TestPage runs the page's own code in Chromium, on an API server that is a fake. What needs a control plane is in contrib/test/webpage, and
// what needs a cluster in contrib/test/e2e.
func TestPage(t *testing.T) {
	t.Parallel()
	b := webbrowser.Start(t)
	built, err := newPages(os.DirFS(".")) // what is in the source tree now
	if err != nil {
		t.Fatal(err)
	}
	// Those that need no clipboard and measure nothing run side by side, each in a tab of its own.
	t.Run("side by side", func(t *testing.T) {
		t.Run("logic", func(t *testing.T) { t.Parallel(); logicOfThePage(b.For(t)) })
		t.Run("usage of pods", func(t *testing.T) { t.Parallel(); usageIsAskedByNamespace(b.For(t), built) })
		t.Run("hidden page", func(t *testing.T) { t.Parallel(); hiddenPageAsksNothing(b.For(t), built) })
		t.Run("list on a phone", func(t *testing.T) { t.Parallel(); listOnAPhone(b.For(t), built) })
		t.Run("charts of a pod", func(t *testing.T) { t.Parallel(); chartsOfAPod(b.For(t), built) })
		t.Run("a network that fails", func(t *testing.T) { t.Parallel(); networkFails(b.For(t), built) })
	})
	t.Run("terminal", func(t *testing.T) { terminalKeepsToItself(b.For(t), built) })
	t.Run("thousands of pods", func(t *testing.T) { thousandsOfPods(b.For(t), built) })
}

// openPage opens the page in a tab, as a user of a fake API server.
func openPage(b *webbrowser.Tab, built *pages, handler http.HandlerFunc) *webbrowser.Tab {
	b.Helper()
	a := newAPI(b.T, handler)
	s := openWith(b.T, a, Config{}, built).server
	link, err := s.Link(b.Context(), a.config("token-of-ann"))
	if err != nil {
		b.Fatal(err)
	}
	b = b.Beside(b.T, link) // each server's cookie has a name of its own
	b.Until(`document.querySelector(".who-name")?.textContent === "ann"`)
	return b
}

// eventually waits for a condition of the fake.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(2 * time.Minute); !condition(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s never came", what)
		}
	}
}

// logicOfThePage runs web/test, which has functions of the page without its looks.
func logicOfThePage(b *webbrowser.Tab) {
	result := api.Build(api.BuildOptions{
		EntryPoints: []string{"web/test/main.ts"}, Bundle: true, Format: api.FormatIIFE, Target: api.ES2022, JSX: api.JSXAutomatic, JSXImportSource: "preact", Outdir: b.TempDir(),
	})
	for _, e := range result.Errors {
		b.Fatalf("%v: %s", e.Location, e.Text)
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
	b.Cleanup(server.Close)
	b = b.Beside(b.T, server.URL)
	b.Until("window.results !== undefined")
	results := webbrowser.Eval[[][2]string](b, "results")
	if len(results) < 20 {
		b.Errorf("only %d tests ran", len(results))
	}
	for _, r := range results {
		b.Run(r[0], func(t *testing.T) {
			if r[1] != "" {
				t.Error(r[1])
			}
		})
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
func usageIsAskedByNamespace(b *webbrowser.Tab, built *pages) {
	s := &shop{namespaces: []string{"a", "b", "c", "d", "secret"}, each: 1000}
	b = openPage(b, built, s.ServeHTTP)
	b.Go("/pods")
	b.Until(`document.querySelectorAll(".spark polyline").length > 20`)
	eventually(b.T, "both questions", func() bool { return len(s.usageAsked()) >= 2 })
	asked := s.usageAsked()
	slices.Sort(asked)
	if got := strings.Join(asked, ", "); got != "a * cpu, a * memory" {
		b.Errorf("for the rows in sight it asks %s", got)
	}
	if rows := webbrowser.Eval[int](b, `document.querySelectorAll("tbody tr").length`); rows > 100 {
		b.Errorf("there are %d rows in the document", rows)
	}
	b.Check("pods")
	// Who may not see what pods used sees what they use now.
	webbrowser.Eval[any](b, `document.querySelector(".rows").scrollTo(0, 1e7)`)
	b.Until(`document.querySelector("tbody").innerText.includes("secret-0999") && document.querySelectorAll(".spark").length === 0`)
	eventually(b.T, "a question about the last rows", func() bool { return slices.Contains(s.usageAsked(), "secret * memory") })
	b.Until(`document.querySelector("tbody").innerText.includes("7m")`)
	if asked := s.usageAsked(); len(asked) > 10 {
		b.Errorf("5,000 pods make %d questions: %q", len(asked), asked)
	}

}

// listOnAPhone looks at a list where there is room for a name only.
func listOnAPhone(b *webbrowser.Tab, built *pages) {
	s := &shop{namespaces: []string{"a"}, each: 500}
	b = openPage(b, built, s.ServeHTTP)
	b.Do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	b.Go("/pods")
	b.Until(`/a\/a-0000\s+Running.*1\/1.*node-1/.test(document.querySelector("tbody tr")?.innerText.replaceAll("\n", " "))`)
	if wide := webbrowser.Eval[int](b, `document.documentElement.scrollWidth`); wide > 390 {
		b.Errorf("the page is %d pixels wide", wide)
	}
	webbrowser.Eval[any](b, `document.querySelector(".rows").scrollTo(0, 1e7)`)
	b.Until(`document.querySelector("tbody").innerText.includes("a-0499")`)
	b.Check("pods on a phone")
}

// hiddenPageAsksNothing hides a list that asks every minute, and shows it again.
func hiddenPageAsksNothing(b *webbrowser.Tab, built *pages) {
	s := &shop{namespaces: []string{"a", "b"}, each: 5}
	b = openPage(b, built, s.ServeHTTP)
	b.First(faster)
	b.Go("/pods")
	before := len(s.usageAsked())
	eventually(b.T, "the next questions", func() bool { return len(s.usageAsked()) >= before+8 })
	const hidden = `Object.defineProperty(document, "visibilityState", {value: %q, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`
	webbrowser.Eval[any](b, fmt.Sprintf(hidden, "hidden"))
	const minutes = `new Promise((done) => setTimeout(() => done(0), %d * 60000))`
	webbrowser.Eval[int](b, fmt.Sprintf(minutes, 1)) // what was under way
	before = len(s.usageAsked())
	webbrowser.Eval[int](b, fmt.Sprintf(minutes, 3))
	if now := len(s.usageAsked()); now != before {
		b.Errorf("a page that nobody sees asked %d times", now-before)
	}
	webbrowser.Eval[any](b, fmt.Sprintf(hidden, "visible"))
	eventually(b.T, "a question of the page that is seen again", func() bool { return len(s.usageAsked()) > before })
}

// chartsOfAPod looks at a pod whose usage is kept, is not kept, or is for others.
func chartsOfAPod(b *webbrowser.Tab, built *pages) {
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
		b.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openPage(b.For(t), built, func(w http.ResponseWriter, r *http.Request) {
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
			b.Go("/pods/shop/web")
			b.Until(c.want)
			b.Check("charts")
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
	*webbrowser.Tab
	shell *shell
	conn  *websocket.Conn
}

// say writes what a program would, and waits until the terminal shows the text at its end.
func (s *terminal) say(text, shown string) {
	s.Helper()
	if err := s.conn.WriteMessage(websocket.BinaryMessage, append([]byte{1}, text...)); err != nil {
		s.Fatal(err)
	}
	s.Until(fmt.Sprintf(`document.querySelector(".xterm-rows").innerText.replaceAll("\u00a0", " ").includes(%q)`, shown))
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
		webbrowser.Call(s.Tab, input.DispatchKeyEvent, p)
	}
}

// click clicks a word that the terminal shows, or doubles the click.
func (s *terminal) click(word string, times int64) {
	s.Helper()
	at := webbrowser.Eval[[2]float64](s.Tab, fmt.Sprintf(`(() => {
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
		webbrowser.Call(s.Tab, input.DispatchMouseEvent, p)
	}
}

const ctrl, shift = 2, 8

// terminalKeepsToItself lets a program in a container try to reach out of the terminal.
func terminalKeepsToItself(b *webbrowser.Tab, built *pages) {
	sh := &shell{conn: make(chan *websocket.Conn, 1), typed: make(chan string, 100)}
	b = openPage(b, built, sh.ServeHTTP)
	for _, name := range []string{"clipboard-read", "clipboard-write"} {
		webbrowser.Call(b, browserprotocol.SetPermission, browserprotocol.SetPermissionParams{
			Permission: &browserprotocol.PermissionDescriptor{Name: name}, Setting: browserprotocol.PermissionSettingGranted})
	}
	b.Go("/pods/shop/web?tab=terminal")
	s := &terminal{Tab: b, shell: sh, conn: <-sh.conn}
	s.say("ready\r\n", "ready")
	clipboard := func() string { return webbrowser.Eval[string](b, "navigator.clipboard.readText()") }
	webbrowser.Eval[any](b, `navigator.clipboard.writeText("mine")`)

	// A program neither writes nor reads the clipboard (OSC 52).
	s.say("\x1b]52;c;c3RvbGVu\x07\x1b]52;;c3RvbGVu\x1b\\\x1b]52;c;?\x07done\r\n", "done")
	if got := clipboard(); got != "mine" {
		b.Errorf("a program has put %q on the clipboard", got)
	}

	// Links of programs (OSC 8) are opened if they are of the web, in a page that knows nothing of this one.
	webbrowser.Eval[any](b, `window.opened = []; window.open = (...how) => { opened.push(how.join(" ")); return null; }`)
	link := func(url, text string) string { return "\x1b]8;;" + url + "\x1b\\" + text + "\x1b]8;;\x1b\\ " }
	s.say(link("javascript:alert(document.domain)", "script")+link("file:///etc/passwd", "filed")+link("HTTPS://evil.example", "upper")+link("data:text/html,x", "datum")+
		link("https://example.com/a", "secure")+"\r\nlinks\r\n", "links")
	for _, word := range []string{"script", "filed", "datum", "secure"} {
		s.click(word, 1)
	}
	b.Until("opened.length > 0")
	if got := webbrowser.Eval[[]string](b, "opened"); len(got) != 1 || got[0] != "https://example.com/a _blank noopener,noreferrer" {
		b.Errorf("it opened %q", got)
	}

	// Ctrl C copies what is selected, and is the shell's otherwise.
	s.say("copyme other\r\n", "copyme")
	s.click("copyme", 1)
	s.click("copyme", 2)
	s.key("c", "KeyC", ctrl)
	eventually(b.T, "the copy", func() bool { return clipboard() == "copyme" })
	s.key("c", "KeyC", ctrl)
	s.gets("\x03")
	s.click("other", 1)
	s.click("other", 2)
	s.key("C", "KeyC", ctrl|shift)
	eventually(b.T, "the copy", func() bool { return clipboard() == "other" })

	// What is pasted is text: it ends no bracketed paste, and types no keys.
	webbrowser.Eval[any](b, `navigator.clipboard.writeText("echo a\u001b[201~\nrm -rf x\u0003\u0015 ä\t")`)
	s.key("V", "KeyV", ctrl|shift, "paste")
	s.gets("echo a[201~\rrm -rf x ä\t")
	s.say("\x1b[?2004hbracketed\r\n", "bracketed")
	s.key("V", "KeyV", ctrl|shift, "paste")
	s.gets("\x1b[200~echo a[201~\rrm -rf x ä\t\x1b[201~")
	webbrowser.Eval[any](b, `[...document.querySelectorAll("button")].find((b) => b.textContent === "Paste").click()`)
	s.gets("\x1b[200~echo a[201~\rrm -rf x ä\t\x1b[201~")
	select {
	case typed := <-sh.typed:
		b.Errorf("the shell also got %q", typed)
	default:
	}
}
