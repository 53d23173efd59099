// Package chrome opens the web page in Chromium, and measures what it takes there: time, memory, and rows in the document. Start
// reading at Open. Chromium is Debian's (contrib/install-deps tests).
package chrome

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is for how long a page may take for anything.
const patience = 2 * time.Minute

//go:embed probe.js
var probe string

// Tab is a tab of Chromium that shows the web page. One goroutine may use it at a time.
type Tab struct {
	ctx  context.Context //nolint:containedctx // the browser is in it
	base string          // the page's URL, without a path
	// Close closes the tab, and for the first one the browser.
	Close func()
}

// Open starts Chromium and opens the page's link in a tab.
func Open(ctx context.Context, link string) (*Tab, error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.IgnoreCertErrors, chromedp.WindowSize(1440, 900))
	ctx, ended := chromedp.NewExecAllocator(ctx, options...)
	base, _, _ := strings.Cut(link, "/#")
	t, err := newTab(ctx, base)
	if err != nil {
		ended()
		return nil, fmt.Errorf("cannot start chromium: %w; run make test-deps", err)
	}
	t.Close = ended
	if err := chromedp.Do(t.ctx, chromedp.Navigate(link)); err != nil {
		ended()
		return nil, fmt.Errorf("cannot open the page: %w", err)
	}
	if _, err := t.When(`document.querySelector("nav.side") !== null`); err != nil { // it has logged in
		ended()
		return nil, err
	}
	return t, nil
}

// Another opens one more tab. The browser has logged in.
func (t *Tab) Another() (*Tab, error) { return newTab(t.ctx, t.base) }

// newTab opens a tab.
func newTab(ctx context.Context, base string) (*Tab, error) {
	ctx, cancel := chromedp.NewContext(ctx)
	t := &Tab{ctx: ctx, base: base, Close: cancel}
	_, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: probe})
	if err == nil {
		_, err = chromedp.Call(ctx, performance.Enable, performance.EnableParams{TimeDomain: performance.EnableTimeDomainThreadTicks})
	}
	return t, err
}

// Eval evaluates JavaScript in the page, and waits for a promise. The probe of probe.js is there.
func Eval[T any](t *Tab, script string) (T, error) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		text, _ := chromedp.Run(t.ctx, chromedp.Evaluate[string](`document.body.innerText.slice(0, 600)`)) // for a message only
		err = fmt.Errorf("the page never had %s: %w; it shows %q", script, err, text)
	}
	return value, err
}

// took is Eval of a time in milliseconds.
func (t *Tab) took(script string) (time.Duration, error) {
	ms, err := Eval[float64](t, script)
	return time.Duration(ms * float64(time.Millisecond)), err
}

// When waits until a condition is true on the screen, and returns the time since the page was opened.
func (t *Tab) When(condition string) (time.Duration, error) {
	return t.took(fmt.Sprintf(`probe.when(() => %s)`, condition))
}

// Go opens a path of the page.
func (t *Tab) Go(path string) error { return chromedp.Do(t.ctx, chromedp.Navigate(t.base+path)) }

// Paint opens a path with a table, and returns after how long its first row was on the screen, and after how long the condition held.
func (t *Tab) Paint(path, condition string) (first, whole time.Duration, err error) {
	if err = t.Go(path); err != nil {
		return 0, 0, err
	}
	if whole, err = t.When(condition); err != nil {
		return 0, 0, err
	}
	first, err = t.took(`probe.first`)
	return first, whole, err
}

// Took returns how long it took from a statement to a condition on the screen.
func (t *Tab) Took(statement, condition string) (time.Duration, error) {
	return t.took(fmt.Sprintf(`probe.took(() => { %s }, () => %s)`, statement, condition))
}

// Key presses keys, and returns how long it took from the first to a condition on the screen.
func (t *Tab) Key(keys, condition string) (time.Duration, error) {
	if _, err := Eval[bool](t, fmt.Sprintf(`(probe.key(() => %s), true)`, condition)); err != nil {
		return 0, err
	}
	if err := chromedp.Do(t.ctx, chromedp.KeyEvent(keys)); err != nil {
		return 0, err
	}
	return t.took(`probe.typed`)
}

// Walked is what scrolling through a table showed.
type Walked struct {
	// Rows are the texts of the cells of all rows.
	Rows [][]string `json:"rows"`
	// Most is how many rows were in the document at a time.
	Most int `json:"most"`
}

// Walk scrolls through the table.
func (t *Tab) Walk() (Walked, error) { return Eval[Walked](t, `probe.walk()`) }

// Usage is what a page uses, without garbage.
type Usage struct {
	Heap      float64 // bytes that JavaScript has
	Nodes     float64 // of the document, and those that scripts hold
	Listeners float64
	Bytes     float64 // that WebSockets have brought
	Following float64 // paths
	Busy      float64 // seconds of processor time of the page's thread, since it was opened
}

// Usage collects the garbage and measures.
func (t *Tab) Usage() (u Usage, err error) {
	if _, err = chromedp.Call(t.ctx, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
		return u, err
	}
	heap, err := chromedp.Call(t.ctx, runtime.GetHeapUsage, cdp.Empty{})
	if err != nil {
		return u, err
	}
	u.Heap = heap.UsedSize
	all, err := chromedp.Call(t.ctx, performance.GetMetrics, cdp.Empty{})
	if err != nil {
		return u, err
	}
	for _, m := range all.Metrics {
		switch m.Name {
		case "Nodes":
			u.Nodes = m.Value
		case "JSEventListeners":
			u.Listeners = m.Value
		case "TaskDuration":
			u.Busy = m.Value
		}
	}
	if u.Bytes, err = Eval[float64](t, `probe.bytes`); err != nil {
		return u, err
	}
	u.Following, err = Eval[float64](t, `probe.following.size`)
	return u, err
}
