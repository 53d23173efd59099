package ui

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/gorilla/websocket"

	webbrowser "github.com/k8sm/k8sm/contrib/test/browser"
)

// networkFails has the network between the page and its server fail, as it does when a laptop gets another one, or a VPN comes up.
func networkFails(b *webbrowser.Tab, built *pages) {
	for name, test := range map[string]func(*webbrowser.Tab, *pages){
		"what a page loads first is loaded again":        lostCodeIsLoadedAgain,
		"what can't be loaded is told, and tried again":  codeThatStaysAwayIsTold,
		"what may change something is sent once":         changesAreSentOnce,
		"a log-in that was lost can be tried again":      lostLogInIsTriedAgain,
		"a question is asked again soon":                 questionsAreAskedAgainSoon,
		"what was shown stays, and is said to be old":    pageKeepsWhatItShowed,
		"a log goes on, and a shell is said to be gone":  streamsBreakOff,
		"what nobody has caught is told":                 uncaughtErrorsAreTold,
		"Mesos is followed again soon after it answered": mesosIsFollowedAgainSoon,
	} {
		b.Run(name, func(t *testing.T) { t.Parallel(); test(b.For(t), built) })
	}
}

// relay is the network between a browser and a server.
type relay struct {
	net.Listener
	to string

	mu    sync.Mutex // guards the rest
	down  bool
	conns []net.Conn
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: to}
	t.Cleanup(func() { l.Close(); r.set(true) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go r.carry(conn)
		}
	}()
	return r
}

func (r *relay) carry(conn net.Conn) {
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		conn.Close()
		return
	}
	r.mu.Lock()
	r.conns = append(r.conns, conn, server)
	down := r.down
	r.mu.Unlock()
	if !down {
		go func() { _, _ = io.Copy(server, conn); server.Close() }()
		_, _ = io.Copy(conn, server)
	}
	conn.Close()
	server.Close()
}

// set ends all connections, and takes no others while the network is down.
func (r *relay) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
}

// openThrough is openPage by a relay.
func openThrough(b *webbrowser.Tab, built *pages, handler http.HandlerFunc) (*webbrowser.Tab, *relay) {
	b.Helper()
	a := newAPI(b.T, handler)
	s := openWith(b.T, a, Config{}, built).server
	link, err := s.Link(b.Context(), a.config("token-of-ann"))
	if err != nil {
		b.Fatal(err)
	}
	r := newRelay(b.T, s.Addr())
	b = b.Beside(b.T, strings.Replace(link, s.Addr(), r.Addr().String(), 1))
	b.Until(`document.querySelector(".who-name")?.textContent === "ann"`)
	return b, r
}

// charted is shell with a pod whose usage is kept, while it answers.
type charted struct {
	shell
	away atomic.Bool
}

func newCharted() *charted {
	return &charted{shell: shell{conn: make(chan *websocket.Conn, 10), typed: make(chan string, 100)}}
}

func (c *charted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch usage := usagePath.FindStringSubmatch(r.URL.Path); {
	case r.URL.Path == "/apis":
		writeJSON(w, object{"items": []object{groupOfPods("monitoring.k8sm.io")}})
	case usage == nil:
		c.shell.ServeHTTP(w, r)
	case c.away.Load():
		http.Error(w, `{"message": "try later"}`, http.StatusServiceUnavailable)
	default:
		at := time.Now().Unix()
		writeJSON(w, object{"data": object{"result": []object{{"metric": object{"pod": usage[2]}, "values": [][2]any{{at - 60, "1"}, {at - 30, "3"}}}}}})
	}
}

const (
	threeCharts = `document.querySelectorAll(".usage canvas").length === 3`
	saysOld     = `document.querySelector(".old")?.innerText === "not up to date"`
	saysFresh   = `document.querySelector(".old")?.innerText === ""`
)

// follow clicks a link: the document stays.
func follow(b *webbrowser.Tab, to string) {
	b.Helper()
	find := fmt.Sprintf(`document.querySelector('main a[href*=%q]')`, to)
	b.Until(find + " !== null")
	webbrowser.Eval[any](b, find+".click()")
}

// lostCodeIsLoadedAgain has the network lose each file of the page once.
func lostCodeIsLoadedAgain(b *webbrowser.Tab, built *pages) {
	c := newCharted()
	b = openPage(b, built, c.ServeHTTP)
	var mu sync.Mutex
	times := map[string]int{} // by path
	b.Lose(func(r *network.Request) bool {
		at, err := url.Parse(r.URL)
		if err != nil || !strings.HasPrefix(at.Path, "/assets/") || strings.HasSuffix(at.Path, ".svg") {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		times[at.Path]++
		return times[at.Path] == 1
	})
	webbrowser.Call(b, network.SetCacheDisabled, network.SetCacheDisabledParams{CacheDisabled: true})
	b.Go("/pods/shop/web")
	b.Until(threeCharts)
	if loaded := webbrowser.Eval[int](b, "document.styleSheets.length"); loaded < 1 {
		b.Error("it has no style sheet")
	}
	follow(b, "tab=yaml")
	b.Until(`document.querySelector("pre.code")?.innerText.includes("nodeName")`)
	b.Press("main", "Edit")
	b.Until(`document.querySelector(".cm-content")?.innerText.includes("nodeName")`)
	b.Press("main", "Cancel")
	follow(b, "tab=terminal")
	<-c.conn
	mu.Lock()
	defer mu.Unlock()
	if len(times) < 6 {
		b.Errorf("only %v were lost", times)
	}
	for path, n := range times {
		if n != 2 {
			b.Errorf("%s was loaded %d times", path, n)
		}
	}
}

// codeThatStaysAwayIsTold has the network lose a part of the page again and again.
func codeThatStaysAwayIsTold(b *webbrowser.Tab, built *pages) {
	c := newCharted()
	b = openPage(b, built, c.ServeHTTP)
	var back atomic.Bool
	b.Lose(func(r *network.Request) bool { return !back.Load() && strings.Contains(r.URL, "/assets/yaml-") })
	b.Go("/pods/shop/web?tab=yaml")
	b.Await("A part of this page could not be loaded")
	b.Check("without YAML")
	back.Store(true)
	b.Press("main", "Try again")
	b.Until(`document.querySelector("pre.code")?.innerText.includes("nodeName")`)
}

// changesAreSentOnce has the network lose a request that deletes a pod.
func changesAreSentOnce(b *webbrowser.Tab, built *pages) {
	b = openPage(b, built, newCharted().ServeHTTP)
	var sent atomic.Int32
	b.Lose(func(r *network.Request) bool {
		lost := r.Method == http.MethodDelete
		if lost {
			sent.Add(1)
		}
		return lost
	})
	b.Go("/pods/shop/web")
	b.Press(".actions", "Delete")
	b.Press("dialog", "Delete")
	b.Await("Perhaps it was done all the same")
	if n := sent.Load(); n != 1 {
		b.Errorf("it was sent %d times", n)
	}
}

// lostLogInIsTriedAgain has the network lose the key of a link.
func lostLogInIsTriedAgain(b *webbrowser.Tab, built *pages) {
	a := newAPI(b.T, newCharted().ServeHTTP)
	s := openWith(b.T, a, Config{}, built).server
	link, err := s.Link(b.Context(), a.config("token-of-ann"))
	if err != nil {
		b.Fatal(err)
	}
	b = b.Beside(b.T, "about:blank")
	var sent atomic.Int32
	b.Lose(func(r *network.Request) bool { return strings.HasSuffix(r.URL, "/auth/key") && sent.Add(1) == 1 })
	if err := b.Chrome.Open(link); err != nil {
		b.Fatal(err)
	}
	b.Await("The connection broke off while you were logged in")
	b.Press("main", "Try again")
	b.Until(`document.querySelector(".who-name")?.textContent === "ann"`)
}

// impatient has nothing wait for more than some seconds, but be forgotten.
const impatient = `(() => {
	const once = setTimeout;
	window.setTimeout = (run, ms, ...rest) => ms > 8000 ? 0 : once(run, ms, ...rest);
})()`

// questionsAreAskedAgainSoon has an API that answers no question at first.
func questionsAreAskedAgainSoon(b *webbrowser.Tab, built *pages) {
	c := newCharted()
	c.away.Store(true)
	b = openPage(b, built, c.ServeHTTP)
	b.First(impatient)
	b.Go("/pods/shop/web")
	b.Await("The metrics server does not answer")
	c.away.Store(false)
	b.Until(threeCharts)
}

// pageKeepsWhatItShowed takes away one question's answer, and then the network.
func pageKeepsWhatItShowed(b *webbrowser.Tab, built *pages) {
	c := newCharted()
	b, r := openThrough(b, built, c.ServeHTTP)
	b.First(faster)
	b.Go("/pods/shop/web")
	b.Until(threeCharts + " && " + saysFresh)
	webbrowser.Eval[any](b, `window.sameDocument = true`)
	c.away.Store(true)
	b.Until(saysOld + " && " + threeCharts)
	b.Check("old charts")
	b.Wide(390)
	b.Until("innerWidth === 390")
	if over := webbrowser.Eval[int](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
		b.Errorf("on a phone it is %d pixels too wide", over)
	}
	b.Wide(1440)
	c.away.Store(false)
	b.Until(saysFresh)
	r.set(true)
	b.Until(saysOld + " && " + threeCharts + ` && document.querySelector(".live")?.innerText === "reconnecting…"`)
	r.set(false)
	b.Until(saysFresh + " && " + threeCharts + ` && document.querySelector(".live")?.innerText === "live" && sameDocument`)
}

// streamsBreakOff follows a log and opens a shell, and breaks the connections.
func streamsBreakOff(b *webbrowser.Tab, built *pages) {
	c := newCharted()
	b, r := openThrough(b, built, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/log") {
			c.ServeHTTP(w, r)
			return
		}
		fmt.Fprintln(w, "the first line")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	b.Go("/pods/shop/web?tab=logs")
	const following = `document.querySelector(".log-state")?.innerText.includes("following · 1 lines") && document.querySelectorAll(".line").length === 1`
	b.Until(following)
	r.set(true)
	b.Until(`document.querySelector(".log-state")?.innerText.includes("reconnecting") && document.querySelectorAll(".line").length === 1`)
	r.set(false)
	b.Until(following)

	follow(b, "tab=terminal")
	<-c.conn
	b.Until(`document.activeElement?.closest(".xterm") !== null`) // it is open
	r.set(false)
	b.Await("The connection broke off, and the shell with it")
	select {
	case <-c.conn:
		b.Error("it opened another shell by itself")
	default:
	}
	b.Press("main", "Again")
	<-c.conn
}

// uncaughtErrorsAreTold has a promise fail that nobody looks at.
func uncaughtErrorsAreTold(b *webbrowser.Tab, built *pages) {
	b = openPage(b, built, newCharted().ServeHTTP)
	webbrowser.Eval[any](b, `(setTimeout(() => Promise.reject(new Error("nobody has caught me"))), 0)`)
	b.Await("nobody has caught me")
}

// mesosIsFollowedAgainSoon has a scheduler that refuses at first.
func mesosIsFollowedAgainSoon(b *webbrowser.Tab, built *pages) {
	var refuses atomic.Bool
	refuses.Store(true)
	scheduler := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuses.Load() || r.URL.Path != "/mesos/state" {
			http.Error(w, "not now", http.StatusNotFound)
			return
		}
		writeJSON(w, object{"masters": []string{"10.0.0.1:5050"}, "agents": []object{}, "frameworks": []object{}, "roles": []object{}, "maintenance": []object{}, "unknown": []object{}})
		<-r.Context().Done()
	}))
	b.Cleanup(scheduler.Close)
	a := newAPI(b.T, newCharted().ServeHTTP)
	s := openWith(b.T, a, Config{StatusAddress: strings.TrimPrefix(scheduler.URL, "https://")}, built).server
	link, err := s.Link(b.Context(), a.config("token-of-ann"))
	if err != nil {
		b.Fatal(err)
	}
	b = b.Beside(b.T, link)
	b.Until(`document.querySelector(".who-name") !== null`)
	b.First(impatient)
	b.Go("/mesos")
	b.Await("not now")
	refuses.Store(false)
	b.Await("What the agents have")
}
