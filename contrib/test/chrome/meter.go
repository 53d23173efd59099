package chrome

import (
	_ "embed"
	"fmt"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

//go:embed probe.js
var probe string

// Meter is a tab that measures. Scripts find the probe of probe.js there, in documents that are opened after it was made.
type Meter struct{ *Tab }

// Measure makes the tab measure.
func (t *Tab) Measure() (*Meter, error) {
	if err := t.First(probe); err != nil {
		return nil, err
	}
	_, err := Call(t, performance.Enable, performance.EnableParams{TimeDomain: performance.EnableTimeDomainThreadTicks})
	return &Meter{t}, err
}

// Another is another tab of the same person, which measures, too.
func (m *Meter) Another() (*Meter, error) {
	t, err := m.Beside()
	if err != nil {
		return nil, err
	}
	t.Base = m.Base
	return t.Measure()
}

// took is Eval of a time in milliseconds.
func (m *Meter) took(script string) (time.Duration, error) {
	ms, err := Eval[float64](m.Tab, script)
	return time.Duration(ms * float64(time.Millisecond)), err
}

// When waits until a condition is true on the screen, and returns the time since the page was opened.
func (m *Meter) When(condition string) (time.Duration, error) {
	return m.took(fmt.Sprintf(`probe.when(() => %s)`, condition))
}

// Paint opens a path with a table, and returns after how long its first row was on the screen, and after how long the condition held.
func (m *Meter) Paint(path, condition string) (first, whole time.Duration, err error) {
	if err = m.Go(path); err != nil {
		return 0, 0, err
	}
	if whole, err = m.When(condition); err != nil {
		return 0, 0, err
	}
	first, err = m.took(`probe.first`)
	return first, whole, err
}

// Took returns how long it took from a statement to a condition on the screen.
func (m *Meter) Took(statement, condition string) (time.Duration, error) {
	return m.took(fmt.Sprintf(`probe.took(() => { %s }, () => %s)`, statement, condition))
}

// Key presses keys, and returns how long it took from the first to a condition on the screen.
func (m *Meter) Key(keys, condition string) (time.Duration, error) {
	if _, err := Eval[bool](m.Tab, fmt.Sprintf(`(probe.key(() => %s), true)`, condition)); err != nil {
		return 0, err
	}
	if err := m.Do(chromedp.KeyEvent(keys)); err != nil {
		return 0, err
	}
	return m.took(`probe.typed`)
}

// Walked is what scrolling through a table showed.
type Walked struct {
	// Rows are the texts of the cells of all rows.
	Rows [][]string `json:"rows"`
	// Most is how many rows were in the document at a time.
	Most int `json:"most"`
}

// Walk scrolls through the table.
func (m *Meter) Walk() (Walked, error) { return Eval[Walked](m.Tab, `probe.walk()`) }

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
func (m *Meter) Usage() (u Usage, err error) {
	if _, err = Call(m.Tab, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
		return u, err
	}
	heap, err := Call(m.Tab, runtime.GetHeapUsage, cdp.Empty{})
	if err != nil {
		return u, err
	}
	u.Heap = heap.UsedSize
	all, err := Call(m.Tab, performance.GetMetrics, cdp.Empty{})
	if err != nil {
		return u, err
	}
	for _, one := range all.Metrics {
		switch one.Name {
		case "Nodes":
			u.Nodes = one.Value
		case "JSEventListeners":
			u.Listeners = one.Value
		case "TaskDuration":
			u.Busy = one.Value
		}
	}
	if u.Bytes, err = Eval[float64](m.Tab, `probe.bytes`); err != nil {
		return u, err
	}
	u.Following, err = Eval[float64](m.Tab, `probe.following.size`)
	return u, err
}
