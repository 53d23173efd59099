package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/chrome"
)

const (
	uiPages   = 10  // that are open at once
	mostRows  = 100 // in the document, which is a rule and no figure
	mostGrown = 10  // percent, from the second minute of change to the end
	// podsTable has the columns that do not change with time, and nodesTable is the other large table.
	podsTable, nodesTable = "/pods?cols=name,namespace,ready,status,restarts,node", "/nodes"
	isLive                = `document.querySelector(".live")?.textContent === "live"`
)

// webPage measures the web page in Chromium, beside 1,000 nodes and 5,000 pods: how soon it shows something, how soon it follows a key, and
// what it takes from the browser, from its server and from the API server, also while pods and nodes change. What is no figure but a
// rule is an error: rows in the document, memory that grows, and a list that is not the API server's.
func (b *bench) webPage(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp(memoryDir(), "k8sm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := &uiCluster{&k8smOnHollow{hollow: newHollow(dir, fleet{nodes: hollowNodes}), km: b.km}}
	defer func() { err = errors.Join(err, c.stop()) }()
	// The API server ends each watch after a minute or two, so that pages go on with others.
	if err := c.hollow.start(ctx, b.km, "--kube-apiserver-arg=min-request-timeout=60"); err != nil {
		return err
	}
	if err := c.startMesos(ctx); err != nil {
		return err
	}
	if err := c.fill(ctx); err != nil {
		return err
	}
	server, err := startPage(c.hollow, c.status)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.end(os.Interrupt)) }()
	tab, err := openPage(ctx, server.link)
	if err != nil {
		return err
	}
	defer tab.Close()
	u := &uiBench{bench: b, cluster: c, server: server, tab: tab, load: figure{name: "ui_load_average", unit: "processes"}}
	for _, measure := range []func(context.Context) error{u.overview, u.paints, u.reactions, u.rows, u.pages, u.change} {
		u.noteLoad()
		if err := measure(ctx); err != nil {
			return err
		}
	}
	u.load.print(os.Stdout)
	return nil
}

// openPage starts Chromium and returns its tab when the page has logged in there.
func openPage(ctx context.Context, link string) (*chrome.Meter, error) {
	tab, err := chrome.Start(ctx)
	if err != nil {
		return nil, err
	}
	meter, err := tab.Measure()
	if err == nil {
		err = meter.Open(link)
	}
	if err == nil {
		_, err = meter.When(`document.querySelector("nav.side") !== null`)
	}
	if err != nil {
		tab.Close()
		return nil, err
	}
	return meter, nil
}

// uiBench is the web page in the browser, with all that is behind it.
type uiBench struct {
	*bench
	cluster *uiCluster
	server  *pageServer
	tab     *chrome.Meter
	load    figure // of the machine: others make figures worse
}

func (u *uiBench) noteLoad() {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return
	}
	if load, err := strconv.ParseFloat(strings.Fields(string(data))[0], 64); err == nil {
		u.load.rounds = append(u.load.rounds, load)
	}
}

// shows is the condition that a table shows so many rows.
func shows(count int) string {
	text := strconv.Itoa(count)
	if count >= 1000 {
		text = text[:len(text)-3] + "," + text[len(text)-3:]
	}
	return fmt.Sprintf("probe.rows().length > 0 && probe.count() === %q", text)
}

// overview measures how soon the first page knows all pods and nodes.
func (u *uiBench) overview(context.Context) error {
	all, processor := figure{name: "ui_overview_all", unit: "ms"}, figure{name: "ui_overview_cpu", unit: "ms"}
	var used chrome.Usage
	for range u.rounds {
		if err := u.tab.Go("/"); err != nil {
			return err
		}
		whole, err := u.tab.When(`document.body.innerText.includes("5,000 pods") && document.body.innerText.includes("of 1,000 nodes")`)
		if err != nil {
			return err
		}
		all.add(whole)
		if used, err = u.tab.Usage(); err != nil {
			return err
		}
		processor.rounds = append(processor.rounds, 1000*used.Busy)
	}
	received := figure{name: "ui_overview_received", unit: "MB", rounds: []float64{used.Bytes / (1 << 20)}}
	for _, f := range []*figure{&all, &processor, &received} {
		f.print(os.Stdout)
	}
	return nil
}

// paints measures how soon pages show their first row and all.
func (u *uiBench) paints(context.Context) error {
	for _, page := range []struct {
		name, path string
		rows       int
	}{{"pods", podsTable, hollowPods}, {"nodes", nodesTable, hollowNodes}} {
		first := figure{name: "ui_" + page.name + "_first_row", unit: "ms"}
		whole := figure{name: "ui_" + page.name + "_all_rows", unit: "ms"}
		processor := figure{name: "ui_" + page.name + "_cpu", unit: "ms"}
		for range u.rounds {
			f, w, err := u.tab.Paint(page.path, shows(page.rows))
			if err != nil {
				return err
			}
			first.add(f)
			whole.add(w)
			used, err := u.tab.Usage()
			if err != nil {
				return err
			}
			processor.rounds = append(processor.rounds, 1000*used.Busy)
		}
		for _, f := range []*figure{&first, &whole, &processor} {
			f.print(os.Stdout)
		}
	}
	return nil
}

// reactions measures how soon a table follows its user.
func (u *uiBench) reactions(context.Context) error {
	figures := map[string]*figure{}
	took := func(name string, d time.Duration, err error) error {
		if figures[name] == nil {
			figures[name] = &figure{name: name, unit: "ms"}
		}
		figures[name].add(d)
		return err
	}
	sort := func(column string) (time.Duration, error) {
		return u.tab.Took(fmt.Sprintf(`[...document.querySelectorAll("th button")].find((b) => b.textContent === %q).click()`, column),
			fmt.Sprintf(`document.querySelector("th[aria-sort=ascending]")?.textContent === %q`, column))
	}
	for _, page := range []struct {
		name, path, filter, column string
		rows                       int
	}{{"pods", podsTable, "p-00123", "Restarts", hollowPods}, {"nodes", nodesTable, "hollow-", "Tasks", hollowNodes}} {
		if err := u.tab.Go(page.path); err != nil {
			return err
		}
		if _, err := u.tab.When(shows(page.rows)); err != nil {
			return err
		}
		for range u.rounds {
			worst, clear, err := u.filter(page.filter)
			if err := errors.Join(took("ui_"+page.name+"_filter_key", worst, err), took("ui_"+page.name+"_filter_cleared", clear, nil)); err != nil {
				return err
			}
			d, err := sort(page.column)
			if err := took("ui_"+page.name+"_sort", d, err); err != nil {
				return err
			}
			if d, err = sort(map[string]string{"pods": "Name", "nodes": "Node"}[page.name]); err == nil {
				err = took("ui_"+page.name+"_sort_by_name", d, nil)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := u.tab.Go(podsTable); err != nil {
		return err
	}
	if _, err := u.tab.When(shows(hollowPods)); err != nil {
		return err
	}
	for range u.rounds {
		for _, choice := range []struct {
			ns   string
			rows int
		}{{team(3), hollowPods / uiTeams}, {"", hollowPods}} {
			d, err := u.tab.Took(fmt.Sprintf(`const s = document.querySelector(".namespaces select"); s.value = %q; s.dispatchEvent(new Event("change", {bubbles: true}))`, choice.ns), shows(choice.rows))
			if err := took(map[bool]string{true: "ui_pods_all_namespaces", false: "ui_pods_namespace"}[choice.ns == ""], d, err); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"pods_filter_key", "pods_filter_cleared", "pods_sort", "pods_sort_by_name", "pods_namespace", "pods_all_namespaces", "nodes_filter_key", "nodes_filter_cleared", "nodes_sort", "nodes_sort_by_name"} {
		figures["ui_"+name].print(os.Stdout)
	}
	return nil
}

// filter types a text that rows in sight have, and takes it away. It returns how long the slowest key took, and the Escape.
func (u *uiBench) filter(text string) (worst, cleared time.Duration, err error) {
	if _, err := u.tab.Took(`document.querySelector("[data-filter]").focus()`, `true`); err != nil {
		return 0, 0, err
	}
	for i := range text {
		d, err := u.tab.Key(text[i:i+1], fmt.Sprintf(`location.search.includes(%q) && probe.rows().length > 0 && probe.rows().every((r) => r.innerText.includes(%q))`, "q="+text[:i+1], text[:i+1]))
		if err != nil {
			return 0, 0, err
		}
		worst = max(worst, d)
	}
	cleared, err = u.tab.Key("\u001b", `!probe.count().includes(" of ")`)
	return worst, cleared, err
}

// rows scrolls through the tables: the document must not have all rows, and the rows must be those that the API server lists.
func (u *uiBench) rows(ctx context.Context) error {
	f := figure{name: "ui_rows_in_document", unit: "rows"}
	for _, path := range []string{podsTable, nodesTable} {
		if err := u.tab.Go(path); err != nil {
			return err
		}
		if _, err := u.tab.When(`probe.rows().length > 0 && probe.count().includes(",")`); err != nil {
			return err
		}
		walked, err := u.tab.Walk()
		if err != nil {
			return err
		}
		f.rounds = append(f.rounds, float64(walked.Most))
		if walked.Most >= mostRows {
			return fmt.Errorf("%s has %d rows in the document", path, walked.Most)
		}
	}
	f.print(os.Stdout)
	return u.same(ctx)
}

// same compares the table of pods with the API server's.
func (u *uiBench) same(ctx context.Context) error {
	if err := u.tab.Go(podsTable); err != nil {
		return err
	}
	return u.sameNow(ctx)
}

// sameNow compares the table of pods that is open, until it is the same: what controllers still do comes between.
func (u *uiBench) sameNow(ctx context.Context) (err error) {
	for range 5 {
		if err = u.compare(ctx); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// compare compares the table of pods that is open with the API server's list.
func (u *uiBench) compare(ctx context.Context) error {
	if _, err := u.tab.When(isLive); err != nil {
		return err
	}
	var table metav1.Table
	err := u.cluster.kube.CoreV1().RESTClient().Get().AbsPath("/api/v1/pods").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Into(&table)
	if err != nil {
		return fmt.Errorf("cannot list the pods: %w", err)
	}
	if _, err := u.tab.When(shows(len(table.Rows))); err != nil {
		return err
	}
	walked, err := u.tab.Walk()
	if err != nil {
		return err
	}
	shown := map[string][]string{} // by the name: those of this benchmark differ in all namespaces
	for _, cells := range walked.Rows {
		shown[cells[1]] = cells // after the namespace
	}
	if len(walked.Rows) != len(table.Rows) || len(shown) != len(table.Rows) {
		return fmt.Errorf("the page shows %d pods of %d names, and the API server lists %d", len(walked.Rows), len(shown), len(table.Rows))
	}
	for _, row := range table.Rows {
		cells := shown[fmt.Sprint(row.Cells[0])]
		for i, cell := range []any{row.Cells[1], row.Cells[2], row.Cells[3]} {
			if !slices.Contains(cells, strings.TrimSpace(fmt.Sprint(cell))) {
				return fmt.Errorf("the page shows pod %v as %q; its cell %d is %v", row.Cells[0], cells, i+1, cell)
			}
		}
	}
	return nil
}

// pages measures what each of several open pages takes.
func (u *uiBench) pages(ctx context.Context) error {
	before, err := u.settled(ctx)
	if err != nil {
		return err
	}
	all := figure{name: "ui_tenth_page_all_rows", unit: "ms"}
	var more []*chrome.Meter
	for range uiPages - 1 {
		tab, err := u.tab.Another()
		if err != nil {
			return err
		}
		defer tab.Close()
		more = append(more, tab)
		_, whole, err := tab.Paint(podsTable, shows(hollowPods))
		if err != nil {
			return err
		}
		all.rounds = []float64{milliseconds(whole)}
	}
	all.print(os.Stdout)
	used, err := more[0].Usage()
	if err != nil {
		return err
	}
	after, err := u.settled(ctx)
	if err != nil {
		return err
	}
	for _, f := range []figure{
		{name: "ui_page_watches", unit: "watches", rounds: []float64{float64(after.Watches-before.Watches) / (uiPages - 1)}},
		{name: "ui_page_received", unit: "MB", rounds: []float64{used.Bytes / (1 << 20)}},
		{name: "ui_page_from_api_server", unit: "MB", rounds: []float64{float64(after.Bytes-before.Bytes) / (uiPages - 1) / (1 << 20)}},
		{name: "ui_page_heap", unit: "MB", rounds: []float64{used.Heap / (1 << 20)}},
		{name: "ui_page_server_memory", unit: "MB", rounds: []float64{(float64(after.Heap) - float64(before.Heap)) / (uiPages - 1) / (1 << 20)}},
		{name: "ui_page_server_goroutines", unit: "goroutines", rounds: []float64{float64(after.Goroutines-before.Goroutines) / (uiPages - 1)}},
	} {
		f.print(os.Stdout)
	}
	return nil
}

// settled is what the server uses after a moment.
func (u *uiBench) settled(ctx context.Context) (serving, error) {
	select {
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
	}
	return u.server.serving(ctx)
}
