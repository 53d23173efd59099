// Package browser drives Chromium in tests of the web page (contrib/ui). A Tab opens pages and uses them as a person does; Check finds what
// the page's policy forbade, what people with disabilities cannot use, and requests to other servers.
//
// Start reading at Open. The package imports no part of the cluster.
package browser

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// patience is how long a page may take to show what a test waits for.
const patience = time.Minute

// Rebound is a name that leads Chromium to this machine, as an attacker's does who rebinds it.
const Rebound = "evil.example"

// Tab is a tab of Chromium. Its methods fail the test if the browser does, and must not be called concurrently.
type Tab struct {
	*testing.T
	// Base is the page's URL, without a path.
	Base string

	ctx     context.Context
	axe     string // axe-core, which finds what people with disabilities can't use (https://github.com/dequelabs/axe-core)
	foreign *foreign
}

// foreign are URLs of other servers that the page asked for.
type foreign struct {
	mu   sync.Mutex // guards urls
	urls []string
}

// Open starts Chromium and opens a link to the web page. root is the folder of the module.
func Open(t *testing.T, root, link string) *Tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.IgnoreCertErrors, chromedp.WindowSize(1440, 900),
		chromedp.Flag("host-resolver-rules", "MAP "+Rebound+" 127.0.0.1"))
	within, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewExecAllocator(within, options...)
	t.Cleanup(cancel)
	return open(t, ctx, axe(t, root), link)
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
	return open(t, b.ctx, b.axe, link, chromedp.WithNewBrowserContext())
}

// Beside opens a link in another tab of the same person.
func (b *Tab) Beside(t *testing.T, link string) *Tab {
	t.Helper()
	return open(t, b.ctx, b.axe, link)
}

func open(t *testing.T, parent context.Context, axe, link string, options ...chromedp.ContextOption) *Tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, options...)
	t.Cleanup(cancel)
	base, _, _ := strings.Cut(link, "/#")
	if at, err := url.Parse(link); err == nil {
		base = at.Scheme + "://" + at.Host
	}
	b := &Tab{T: t, ctx: ctx, Base: base, axe: axe, foreign: &foreign{}}
	// Each page keeps what the policy forbade it.
	_, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `window.violations = []; document.addEventListener("securitypolicyviolation", (e) => violations.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample));`,
	})
	if err != nil {
		t.Fatalf("cannot start chromium: %v; run make test-deps", err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatal(err)
	}
	b.Do(chromedp.Navigate(link))
	return b
}

// hear notes requests to other servers.
func (b *Tab) hear(event any) {
	var asked string
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		asked = e.Request.URL
	case *network.EventWebSocketCreated:
		asked = strings.Replace(e.URL, "wss://", "https://", 1)
	}
	if asked == "" || asked == b.Base || strings.HasPrefix(asked, b.Base+"/") || strings.HasPrefix(asked, "data:") || strings.HasPrefix(asked, "blob:"+b.Base+"/") {
		return
	}
	b.foreign.mu.Lock()
	defer b.foreign.mu.Unlock()
	b.foreign.urls = append(b.foreign.urls, asked)
}

// axe is axe-core's script. It comes with the packages for tests.
func axe(t *testing.T, root string) string {
	t.Helper()
	fetch := exec.CommandContext(t.Context(), "go", "run", "-trimpath", "./contrib/ui/bundle", "-dev")
	fetch.Dir = root
	fetch.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script, err := os.ReadFile(filepath.Join(root, "contrib/ui/web/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// Do does what Chromium is told.
func (b *Tab) Do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatalf("the browser: %v; it shows:\n%s", err, b.Text())
	}
}

// Eval evaluates JavaScript in the page. A promise is waited for.
func Eval[T any](b *Tab, script string) T {
	b.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatalf("%s: %v", script, err)
	}
	return value
}

// Text is what the page shows.
func (b *Tab) Text() string {
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`)) // for a message only
	return text
}

// Location is the page's URL.
func (b *Tab) Location() string { return Eval[string](b, `location.href`) }

// Open goes to a path of the page and waits for a text on it.
func (b *Tab) Open(path, text string) {
	b.Helper()
	b.Do(chromedp.Navigate(b.Base + path))
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
	for {
		_, err := chromedp.Run(b.ctx, chromedp.Poll[bool]("!!("+condition+")", chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(patience)))
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "Cannot find context") { // another document has come meanwhile
			at, _ := chromedp.Run(b.ctx, chromedp.Location()) // for a message only
			b.Fatalf("%s never had %s: %v; it shows:\n%s", at, condition, err, b.Text())
		}
	}
}

// Press clicks the button of this text, once it can be pressed.
func (b *Tab) Press(within, text string) {
	b.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((b) => b.textContent.trim() === %q && !b.disabled)`, within+" button", text)
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
				if _, err := chromedp.Call(b.ctx, input.DispatchKeyEvent, event); err != nil {
					b.Fatal(err)
				}
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
	if _, err := chromedp.Call(b.ctx, input.InsertText, input.InsertTextParams{Text: text}); err != nil {
		b.Fatal(err)
	}
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
	b.Until(`document.querySelector("h1") !== null`) // the page is there, not only what is around it
	for scheme, rules := range map[string]string{"light": `{}`, "dark": `{runOnly: ["color-contrast"]}`} {
		b.colors(scheme)
		if !Eval[bool](b, `"axe" in window`) {
			Eval[any](b, b.axe+";0")
		}
		for _, f := range Eval[[]string](b, `axe.run(`+rules+`).then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + " at " + n.target.join(" ") + ": " + n.failureSummary)))`) {
			b.Errorf("%s, %s: %s", name, scheme, f)
		}
	}
	for _, f := range Eval[[]string](b, `violations`) {
		b.Errorf("%s: the policy forbids %s", name, f)
	}
	b.foreign.mu.Lock()
	defer b.foreign.mu.Unlock()
	for _, f := range b.foreign.urls {
		b.Errorf("%s: the page asks %s", name, f)
	}
	b.foreign.urls = nil
}

func (b *Tab) colors(scheme string) {
	b.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err != nil {
		b.Fatal(err)
	}
}
