package webpage

import (
	"fmt"
	"strings"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/browser"
)

// focused describes what has the focus.
const focused = `((e) => (e.tagName + " " + (e.getAttribute("aria-label") ?? e.textContent ?? "")).trim().slice(0, 80))(document.activeElement)`

// tabTo presses Tab until a condition of the focused element holds, and fails if the focus cannot be seen on the way.
func tabTo(b *browser.Tab, condition string) {
	b.Helper()
	for range 120 {
		if browser.Eval[bool](b, `((e) => !!(`+condition+`))(document.activeElement)`) {
			return
		}
		b.Keys(kb.Tab)
		// A ring, or what stands for one: the field's or the row's.
		b.Until(`((e) => e === document.body || [e, e.closest("label, .cm-editor") ?? e].some((x) => { const s = getComputedStyle(x); return s.outlineStyle !== "none" && s.outlineWidth !== "0px" || s.boxShadow !== "none"; }))(document.activeElement)`)
	}
	b.Fatalf("Tab never comes to %s; it is at %s", condition, browser.Eval[string](b, focused))
}

// focusReturns waits until the focus is on an element.
func focusReturns(b *browser.Tab, condition string) {
	b.Helper()
	b.Until(`((e) => ` + condition + `)(document.activeElement)`)
}

// keysSuffice uses the page without a mouse.
func keysSuffice(b *browser.Tab, c *cluster) {
	made(b.T, c.kube.CoreV1().Namespaces().Create, namespace("keys"))
	token := c.token(b.T, "typist", map[string]string{"": "cluster-admin"})
	b = b.Another(b.T, c.page.URL())
	b.Await("Log in to the cluster")
	tabTo(b, `e.type === "password"`)
	b.Insert(token)
	b.Keys(kb.Enter)
	b.Await("What Kubernetes runs")

	b.Keys("g", "p")
	b.Await("Each pod is a Mesos task")
	b.Until(`document.querySelectorAll("tbody tr").length > 1`)
	b.Keys("/")
	focusReturns(b, `e.matches("[data-filter]")`)
	b.Keys("h", "o", "s", "t", "i", "l", "e")
	b.Until(`location.search.includes("q=hostile") && [...document.querySelectorAll("tbody tr[data-index]")].some((r) => r.innerText.includes("hostile"))`)
	b.Keys(kb.Enter) // from the filter to the rows
	focusReturns(b, `e.tagName === "TR"`)
	focusStays(b, c)
	dialogs(b)
	palettes(b)
}

// focusStays looks at a row while rows before it come and go.
func focusStays(b *browser.Tab, c *cluster) {
	b.Helper()
	b.Keys("k", "k", "k")
	focusReturns(b, `e.dataset.index === "0"`)
	b.Keys("j")
	focusReturns(b, `e.dataset.index === "1"`)
	const row = "hostile"
	if name := `document.activeElement.querySelector("a").textContent`; browser.Eval[string](b, name) != row {
		b.Keys("k")
		b.Until(name + ` === "` + row + `"`)
	}
	c.makePod(b.T, "a-first-hostile", nil)
	b.Until(`document.querySelector("tbody tr[data-index='0']").innerText.includes("a-first-hostile")`)
	if now := browser.Eval[string](b, `document.activeElement.querySelector?.("a")?.textContent ?? document.activeElement.tagName`); now != row {
		b.Errorf("the focus was on %s, and is on %s when a row comes", row, now)
	}
	if err := c.kube.CoreV1().Pods("default").Delete(b.Context(), "a-first-hostile", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Until(`!document.querySelector("tbody").innerText.includes("a-first-hostile")`)
	if now := browser.Eval[string](b, `document.activeElement.querySelector?.("a")?.textContent ?? document.activeElement.tagName`); now != row {
		b.Errorf("the focus was on %s, and is on %s when a row goes", row, now)
	}
	b.Keys(kb.Enter)
	b.Until(fmt.Sprintf(`location.pathname.endsWith(%q)`, "/"+row))
	b.Await("Where it runs")
}

// dialogs opens the pod's views by keys, and a dialog.
func dialogs(b *browser.Tab) {
	b.Helper()
	b.Until(`["Logs", "Terminal"].every((name) => [...document.querySelectorAll(".tabs a")].some((a) => a.textContent === name))`) // the user's rights are known
	for _, view := range [][2]string{{"l", "logs"}, {"s", "terminal"}, {"e", "yaml"}} {
		b.Keys(view[0])
		b.Until(fmt.Sprintf(`location.search.includes("tab=%s")`, view[1]))
		browser.Eval[any](b, `document.activeElement.blur()`) // a terminal takes keys
	}
	b.Until(`document.querySelector(".yaml") !== null`)
	tabTo(b, `e.tagName === "BUTTON" && e.textContent.trim() === "Edit"`)
	b.Keys(kb.Enter)
	b.Until(`document.querySelector(".editor .cm-content") !== null`)
	// Tab leaves the editor after Escape, and Cancel is reached backwards.
	tabTo(b, `e.classList.contains("cm-content")`)
	b.Keys(kb.Escape)
	for range 40 {
		if browser.Eval[bool](b, `document.activeElement.textContent.trim() === "Cancel"`) {
			break
		}
		b.Do(chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift)))
	}
	b.Keys(kb.Enter)
	b.Until(`document.querySelector(".editor") === null && document.querySelector(".yaml") !== null`)

	browser.Eval[any](b, `document.activeElement.blur()`)
	tabTo(b, `e.closest(".actions") && e.textContent.trim() === "Delete"`)
	b.Keys(kb.Enter)
	b.Until(`document.querySelector("dialog[open]") !== null`)
	for range 8 {
		if !browser.Eval[bool](b, `document.activeElement === document.body || document.activeElement.closest("dialog") !== null`) {
			b.Errorf("the focus leaves the dialog, to %s", browser.Eval[string](b, focused))
		}
		b.Keys(kb.Tab)
	}
	b.Keys("j", "?", "g", "p") // do nothing while a dialog asks
	if browser.Eval[int](b, `document.querySelectorAll("dialog[open]").length`) != 1 || !strings.Contains(b.Location(), "/pods/") {
		b.Errorf("keys work behind the dialog: %s", b.Location())
	}
	b.Keys(kb.Escape)
	b.Until(`document.querySelector("dialog[open]") === null`)
	focusReturns(b, `e.closest(".actions") && e.textContent.trim() === "Delete"`)
	// By keys alone it is deleted, and the list has the focus where it was.
	b.Keys(kb.Enter)
	b.Until(`document.querySelector("dialog[open]") !== null`)
	tabTo(b, `e.closest("dialog") && e.textContent.trim() === "Cancel"`)
	b.Keys(kb.Enter)
	b.Until(`document.querySelector("dialog[open]") === null`)
}

// palettes opens the palette and the help.
func palettes(b *browser.Tab) {
	b.Helper()
	for range 2 { // it closes by the same key
		b.Do(chromedp.KeyEvent("k", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
	}
	b.Until(`document.querySelector("dialog[open]") === null`)
	b.Do(chromedp.KeyEvent("k", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
	focusReturns(b, `e.getAttribute("role") === "combobox"`)
	b.Check("palette")
	b.Keys("c", "r", "o", "n", "j", "o", "b", "s")
	b.Until(`document.querySelector("[role=option][aria-selected=true]")?.innerText.includes("cronjobs")`)
	b.Keys(kb.ArrowDown, kb.ArrowUp, kb.Enter)
	b.Until(`location.pathname === "/resources/batch/v1/cronjobs" && document.querySelector("dialog[open]") === null`)
	b.Await("nightly")
	b.Keys("?")
	b.Await("Next or previous row")
	b.Check("help")
	b.Keys(kb.Escape)
	b.Until(`document.querySelector("dialog[open]") === null`)
	for key, path := range map[string]string{"n": "/nodes", "w": "/workloads", "o": "/"} {
		b.Keys("g", key)
		b.Until(fmt.Sprintf("location.pathname === %q", path))
	}
}
