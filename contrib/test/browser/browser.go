// Package browser drives Chromium in tests of the web page (contrib/ui). A Tab opens pages and uses them as a person does; Check finds what
// the page's policy forbade, what people with disabilities cannot use, and requests to other servers.
//
// Start reading at Open. The package imports no part of the cluster. It is package chrome with a test that fails.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/k8sm/k8sm/contrib/test/chrome"
)

// Tab is a tab of Chromium. Its methods fail the test if the browser does, and must not be called concurrently.
type Tab struct {
	*testing.T
	// Chrome is the same tab, which returns errors, and measures.
	Chrome *chrome.Tab

	heard *heard
}

// heard is what the browser told of the page's requests since somebody asked.
type heard struct {
	mu   sync.Mutex // guards the rest
	urls []string
}

// Start starts Chromium with an empty tab, and builds the page of the source tree (contrib/ui/embedded) if it has changed.
func Start(t *testing.T) *Tab {
	t.Helper()
	if _, err := axe(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Minute)
	t.Cleanup(cancel)
	tab, err := chrome.Start(ctx)
	return watched(t, tab, err)
}

// Open starts Chromium and opens a link to the web page.
func Open(t *testing.T, link string) *Tab {
	t.Helper()
	b := Start(t)
	b.must(b.Chrome.Open(link))
	return b
}

// For is the same tab for a part of a test.
func (b *Tab) For(t *testing.T) *Tab {
	of := *b
	of.T = t
	return &of
}

// Another opens a link in the same browser as somebody else: it shares no cookies.
func (b *Tab) Another(t *testing.T, link string) *Tab {
	t.Helper()
	tab, err := b.Chrome.Another()
	of := watched(t, tab, err)
	of.must(of.Chrome.Open(link))
	return of
}

// Beside opens a link in another tab of the same person.
func (b *Tab) Beside(t *testing.T, link string) *Tab {
	t.Helper()
	tab, err := b.Chrome.Beside()
	of := watched(t, tab, err)
	of.must(of.Chrome.Open(link))
	return of
}

// watched is a fresh tab of which Check will know all.
func watched(t *testing.T, tab *chrome.Tab, err error) *Tab {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tab.Close)
	b := &Tab{T: t, Chrome: tab, heard: &heard{}}
	// Each page keeps what the policy forbade it.
	b.First(`window.violations = []; document.addEventListener("securitypolicyviolation", (e) => violations.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample));`)
	Call(b, network.Enable, network.EnableParams{})
	b.must(tab.Listen(b.hear))
	return b
}

// must fails the test if there is an error.
func (b *Tab) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// hear notes requests.
func (b *Tab) hear(event any) {
	b.heard.mu.Lock()
	defer b.heard.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.heard.urls = append(b.heard.urls, e.Request.URL)
	case *network.EventWebSocketCreated:
		b.heard.urls = append(b.heard.urls, strings.Replace(e.URL, "wss://", "https://", 1))
	}
}

// axe is the script of axe-core, which finds what people with disabilities can't use (https://github.com/dequelabs/axe-core). It comes with
// the packages for tests.
var axe = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("cannot find the source tree: %w", err)
	}
	build := exec.Command("go", "run", "-trimpath", "./contrib/ui/bundle", "-dev")
	build.Dir, build.Env = strings.TrimSpace(string(root)), append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the page: %w\n%s", err, said)
	}
	script, err := os.ReadFile(filepath.Join(build.Dir, "contrib/ui/web/node_modules/axe-core/axe.min.js"))
	return string(script), err
})

// First runs a script in each document that is opened from now on, before the page's own.
func (b *Tab) First(script string) {
	b.Helper()
	b.must(b.Chrome.First(script))
}

// Do does what Chromium is told.
func (b *Tab) Do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	b.must(b.Chrome.Do(actions...))
}

// Call calls a method of the browser's protocol.
func Call[P, R any](b *Tab, command cdp.Command[P, R], params P) R {
	b.Helper()
	result, err := chrome.Call(b.Chrome, command, params)
	b.must(err)
	return result
}

// Eval evaluates JavaScript in the page. A promise is waited for.
func Eval[T any](b *Tab, script string) T {
	b.Helper()
	value, err := chrome.Eval[T](b.Chrome, script)
	b.must(err)
	return value
}

// Text is what the page shows.
func (b *Tab) Text() string { return b.Chrome.Text() }

// Location is the page's URL.
func (b *Tab) Location() string { return Eval[string](b, `location.href`) }

// Lose has the network lose the requests that the function chooses, from then on. It is called concurrently.
func (b *Tab) Lose(which func(*network.Request) bool) {
	b.Helper()
	b.must(b.Chrome.Listen(func(event any) {
		if e, is := event.(*fetch.EventRequestPaused); is {
			go func() { // a listener must not block
				if which(e.Request) {
					_, _ = chrome.Call(b.Chrome, fetch.FailRequest, fetch.FailRequestParams{RequestID: e.RequestID, ErrorReason: network.ErrorReasonConnectionReset})
				} else {
					_, _ = chrome.Call(b.Chrome, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID}) // unless the tab has gone
				}
			}()
		}
	}))
	Call(b, fetch.Enable, fetch.EnableParams{})
}

// Go goes to a path of the page.
func (b *Tab) Go(path string) {
	b.Helper()
	b.must(b.Chrome.Go(path))
}

// Open goes to a path of the page and waits for a text on it.
func (b *Tab) Open(path, text string) {
	b.Helper()
	b.Go(path)
	b.Await(text)
}

// Await waits until the page shows a text.
func (b *Tab) Await(text string) {
	b.Helper()
	b.Until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// Until waits for a condition in JavaScript.
func (b *Tab) Until(condition string) {
	b.Helper()
	b.must(b.Chrome.Until(condition))
}

// Press clicks the button of this text, once it can be pressed: it is not disabled, nor behind a dialog.
func (b *Tab) Press(within, text string) {
	b.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((b) => b.textContent.trim() === %q && !b.disabled && (b.closest("dialog") || !document.querySelector("dialog[open]")))`, within+" button", text)
	b.Until(find + " !== undefined")
	Eval[any](b, find+".click()")
}

// Keys presses keys one after the other. A key is a character, or one of package kb. A page that handles a key keeps it from being typed.
func (b *Tab) Keys(keys ...string) {
	b.Helper()
	for _, key := range keys {
		for _, r := range key {
			down, up := pressed(r)
			for _, event := range []input.DispatchKeyEventParams{down, up} {
				Call(b, input.DispatchKeyEvent, event)
			}
		}
	}
}

// pressed is what happens when a key is pressed and let go. Unlike those of chromedp.KeyEvent, the first event also types the key, as in a
// real browser.
func pressed(r rune) (down, up input.DispatchKeyEventParams) {
	for _, event := range kb.Encode(r) {
		switch event.Type {
		case input.DispatchKeyEventTypeKeyUp:
			up = *event
		case input.DispatchKeyEventTypeChar:
			down.Text, down.UnmodifiedText = event.Text, event.UnmodifiedText
		default:
			down = *event
		}
	}
	if down.Text != "" {
		down.Type = input.DispatchKeyEventTypeKeyDown
	}
	return down, up
}

// Insert puts a text where the focus is, as pasting it does.
func (b *Tab) Insert(text string) {
	b.Helper()
	Call(b, input.InsertText, input.InsertTextParams{Text: text})
}

// Wide is how wide the page is, in CSS pixels: 390 is a phone.
func (b *Tab) Wide(pixels int64) {
	b.Helper()
	b.Do(chromedp.EmulateViewport(pixels, 900))
}

// Check fails the test if the policy forbade the page something, if it asked another server, or if somebody can't use it, by light and by
// dark colors.
func (b *Tab) Check(name string) {
	b.Helper()
	script, err := axe()
	b.must(err)
	b.Until(`document.querySelector("h1") !== null`) // the page is there, not only what is around it
	if !Eval[bool](b, `"axe" in window`) {
		Eval[any](b, script+";0")
	}
	// What does not depend on colors is the same in both.
	for _, by := range []struct{ scheme, rules string }{{"dark", `{runOnly: ["color-contrast", "link-in-text-block"], resultTypes: ["violations"]}`}, {"light", `{resultTypes: ["violations"]}`}} {
		Call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: by.scheme}}})
		for _, f := range Eval[[]string](b, `axe.run(`+by.rules+`).then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + " at " + n.target.join(" ") + ": " + n.failureSummary)))`) {
			b.Errorf("%s, %s: %s", name, by.scheme, f)
		}
	}
	for _, f := range Eval[[]string](b, `violations`) {
		b.Errorf("%s: the policy forbids %s", name, f)
	}
	base := b.Chrome.Base
	b.heard.mu.Lock()
	defer b.heard.mu.Unlock()
	for _, f := range b.heard.urls {
		if f != base && !strings.HasPrefix(f, base+"/") && !strings.HasPrefix(f, "data:") && !strings.HasPrefix(f, "blob:"+base+"/") {
			b.Errorf("%s: the page asks %s", name, f)
		}
	}
	b.heard.urls = nil
}
