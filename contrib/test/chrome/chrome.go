// Package chrome drives Chromium on the web page (contrib/ui): a Tab opens pages, evaluates, and waits for what they show. A Meter also
// measures what that takes: time, memory, and rows in the document. Start reading at Start. Chromium is Debian's
// (contrib/install-deps tests). Tests use package browser, which is on top of this one.
package chrome

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// patience is how long a page may take for anything.
const patience = 2 * time.Minute

// Rebound is a name that leads Chromium to this machine, as an attacker's does who rebinds it.
const Rebound = "evil.example"

// Tab is a tab of Chromium. One goroutine may use it at a time, and others other tabs.
type Tab struct {
	// Base is the URL of the page's server, without a path.
	Base string
	// Close closes the tab and those that were made of it; the first tab's closes Chromium.
	Close func()

	ctx context.Context //nolint:containedctx // the browser is in it
}

// Start starts Chromium with an empty tab. It runs until the tab is closed or ctx ends, and sees no change of the machine's network.
func Start(ctx context.Context) (*Tab, error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.IgnoreCertErrors, chromedp.WindowSize(1440, 900),
		chromedp.ModifyCmdFunc(blind), chromedp.Flag("host-resolver-rules", "MAP "+Rebound+" 127.0.0.1"))
	ctx, ended := chromedp.NewExecAllocator(ctx, options...)
	t, err := newTab(ctx)
	if err != nil {
		ended()
		return nil, fmt.Errorf("cannot start chromium: %w; run make test-deps", err)
	}
	t.Close = ended
	return t, nil
}

// Beside is another tab of the same person. It is empty.
func (t *Tab) Beside() (*Tab, error) { return newTab(t.ctx) }

// Another is a tab of somebody else: it shares no cookies. It is empty.
func (t *Tab) Another() (*Tab, error) { return newTab(t.ctx, chromedp.WithNewBrowserContext()) }

func newTab(parent context.Context, options ...chromedp.ContextOption) (*Tab, error) {
	ctx, cancel := chromedp.NewContext(parent, options...)
	if err := chromedp.Do(ctx); err != nil {
		cancel()
		return nil, err
	}
	return &Tab{ctx: ctx, Close: cancel}, nil
}

// Open opens a link. Paths are those of its server from then on.
func (t *Tab) Open(link string) error {
	at, err := url.Parse(link)
	if err != nil {
		return err
	}
	t.Base = at.Scheme + "://" + at.Host
	return t.Do(chromedp.Navigate(link))
}

// Go opens a path of the page.
func (t *Tab) Go(path string) error { return t.Do(chromedp.Navigate(t.Base + path)) }

// Do does what Chromium is told.
func (t *Tab) Do(actions ...chromedp.Action[chromedp.Void]) error {
	if err := chromedp.Do(t.ctx, actions...); err != nil {
		return t.trouble("the browser", err)
	}
	return nil
}

// Call calls a method of the browser's protocol (https://chromedevtools.github.io/devtools-protocol/).
func Call[P, R any](t *Tab, command cdp.Command[P, R], params P) (R, error) {
	return chromedp.Call(t.ctx, command, params)
}

// Listen has the protocol's events passed to a function, which must not block.
func (t *Tab) Listen(to func(event any)) error { return chromedp.Listen(t.ctx, to) }

// First runs a script in each document that is opened from now on, before the page's own.
func (t *Tab) First(script string) error {
	_, err := Call(t, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
	return err
}

// Eval evaluates JavaScript in the page. A promise is waited for.
func Eval[T any](t *Tab, script string) (T, error) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		err = t.trouble(script, err)
	}
	return value, err
}

// drawn waits for the next frame, and for what the page does after it: then it also handles what its user does. Pages that nobody sees have
// no frames.
const drawn = `new Promise((done) => { setTimeout(done, 100, 0); requestAnimationFrame(() => setTimeout(done, 0, 0)); })`

// Until waits for a condition in JavaScript until it holds on the screen, also if another document comes meanwhile.
func (t *Tab) Until(condition string) error {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	poll := chromedp.Poll[bool]("!!("+condition+")", chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(0))
	for {
		_, err := chromedp.Run(ctx, poll)
		switch {
		case err == nil:
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, _ = chromedp.Run(ctx, chromedp.Evaluate[int](drawn, chromedp.EvalAwaitPromise)) // another document may come, or the tab be busy
			return nil
		case !strings.Contains(err.Error(), "Cannot find context"): // of the document before
			return t.trouble("it never had "+condition, err)
		}
	}
}

// trouble is an error with what the page shows.
func (t *Tab) trouble(what string, err error) error {
	if t.ctx.Err() != nil {
		return errors.Join(err, context.Cause(t.ctx))
	}
	at, _ := chromedp.Run(t.ctx, chromedp.Location()) // for a message only
	return fmt.Errorf("%.500s: %w; %s shows:\n%s", what, err, at, t.Text())
}

// Text is what the page shows.
func (t *Tab) Text() string {
	text, _ := chromedp.Run(t.ctx, chromedp.Evaluate[string](`document.body.innerText`)) // a page without a body shows nothing
	return text
}
