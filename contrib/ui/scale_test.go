package ui

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	webbrowser "github.com/k8sm/k8sm/contrib/test/browser"
	"github.com/k8sm/k8sm/contrib/test/chrome"
)

const (
	manyPods = 5_000
	perTeam  = 500 // pods of a namespace
)

// fleet is what an API server has of many pods.
type fleet struct {
	mu      sync.Mutex // guards the rest
	status  map[int]string
	uids    map[int]string
	version int
	oldest  int           // the version from which a watch can go on
	events  []change      // of the versions after oldest
	changed chan struct{} // closed with the next change
	lists   []string      // limits of lists of pods
}

// change is an event of a watch.
type change struct {
	kind string
	pod  int
	row  map[string]any
}

func newFleet() *fleet {
	f := &fleet{status: map[int]string{}, uids: map[int]string{}, version: 1000, oldest: 1000, changed: make(chan struct{})}
	for i := range manyPods {
		f.status[i], f.uids[i] = "Running", "uid-"+strconv.Itoa(i)
	}
	return f
}

func teamOf(i int) string { return fmt.Sprintf("team-%02d", i/perTeam) }
func nameOf(i int) string { return fmt.Sprintf("web-x4k2p-%05d", i) }

// rowOf is a pod's row. The caller holds mu.
func (f *fleet) rowOf(i int) map[string]any {
	return map[string]any{"cells": []any{nameOf(i), "1/1", f.status[i], 0, "5m"}, "object": map[string]any{"metadata": map[string]any{
		"uid": f.uids[i], "name": nameOf(i), "namespace": teamOf(i), "resourceVersion": strconv.Itoa(f.version),
		"creationTimestamp": "2026-01-01T00:00:00Z", "labels": map[string]string{"app": "web", "pod-template-hash": "x4k2p"},
	}}}
}

// set changes, makes or, with "", deletes pods.
func (f *fleet) set(status string, pods ...int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change(status, pods...)
	f.tell()
}

// change is set, which tells nobody. The caller holds mu.
func (f *fleet) change(status string, pods ...int) {
	for _, i := range pods {
		kind := "MODIFIED"
		if _, there := f.status[i]; !there {
			kind, f.uids[i] = "ADDED", fmt.Sprintf("uid-%d-%d", i, f.version)
		}
		f.version++
		if f.status[i] = status; status == "" {
			kind = "DELETED"
		}
		f.events = append(f.events, change{kind, i, f.rowOf(i)})
		if status == "" {
			delete(f.status, i)
		}
	}
}

// forget changes a pod and ends all watches, before they get the change: they cannot go on from where they are.
func (f *fleet) forget(status string, pod int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change(status, pod)
	f.version++
	f.oldest, f.events = f.version, nil
	f.tell()
}

// tell wakes watches. The caller holds mu.
func (f *fleet) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// rows are what the page should show, in its order.
func (f *fleet) rows() (rows [][]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range slices.Sorted(maps.Keys(f.status)) {
		rows = append(rows, []string{teamOf(i), nameOf(i), f.status[i]})
	}
	return rows
}

// ServeHTTP is the part of the API that the page uses.
func (f *fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	watch := r.URL.Query().Get("watch") != ""
	switch {
	case r.URL.Path == "/api/v1/pods" && watch:
		f.watch(w, r)
	case r.URL.Path == "/api/v1/pods":
		f.list(w, r)
	case r.URL.Path == "/api/v1/namespaces" && watch:
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case r.URL.Path == "/api/v1/namespaces":
		writeJSON(w, table("1", "", pod("ns", "team-00", "Active", "1")))
	default:
		writeJSON(w, map[string]any{"items": []any{}})
	}
}

var podColumns = []any{
	map[string]any{"name": "Name", "type": "string"}, map[string]any{"name": "Ready", "type": "string"}, map[string]any{"name": "Status", "type": "string"},
	map[string]any{"name": "Restarts", "type": "string"}, map[string]any{"name": "Age", "type": "string"},
}

func (f *fleet) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists = append(f.lists, r.URL.Query().Get("limit"))
	from, _ := strconv.Atoi(r.URL.Query().Get("continue")) // 0 for the first piece
	all := slices.Sorted(maps.Keys(f.status))
	rows, next := []any{}, ""
	for at, i := range all {
		if at >= from && at < from+listLimit {
			rows = append(rows, f.rowOf(i))
		}
	}
	if from+listLimit < len(all) {
		next = strconv.Itoa(from + listLimit)
	}
	writeJSON(w, map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(f.version), "continue": next}, "rows": rows, "columnDefinitions": podColumns})
}

func (f *fleet) watch(w http.ResponseWriter, r *http.Request) {
	at, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		http.Error(w, "which version?", http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusOK)
	http.NewResponseController(w).Flush()
	for r.Context().Err() == nil {
		f.mu.Lock()
		gone, changed := at < f.oldest, f.changed
		var news []change
		if !gone {
			news = f.events[at-f.oldest:]
		}
		f.mu.Unlock()
		if gone {
			writeJSON(w, map[string]any{"type": "ERROR", "object": map[string]any{"kind": "Status", "code": 410, "message": "too old resource version"}})
			return
		}
		for _, e := range news {
			writeJSON(w, map[string]any{"type": e.kind, "object": map[string]any{"rows": []any{e.row}}})
			at++
		}
		if len(news) == 0 {
			select {
			case <-changed:
			case <-r.Context().Done():
			}
		}
	}
}

// thousandsOfPods shows 5,000 pods, of which thousands change.
func thousandsOfPods(b *webbrowser.Tab, built *pages) {
	f := newFleet()
	b = openPage(b, built, f.ServeHTTP)
	meter, err := b.Chrome.Measure()
	if err != nil {
		b.Fatal(err)
	}
	s := scaled{T: b.T, fleet: f, tab: meter}
	b.Go("/pods?cols=name,namespace,status")
	s.when(`probe.count() === "5,000"`)
	s.changes()
	f.forget("Forgotten", 7)
	s.when(`probe.rows().some((r) => r.innerText.includes("Forgotten"))`)
	f.set("Relisted", 9) // not before: the pieces of this list are of no one time
	s.when(`probe.rows().some((r) => r.innerText.includes("Relisted"))`)
	s.shows("after the API server has forgotten")
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lists) < 2*manyPods/listLimit || slices.Contains(f.lists, "") {
		b.Errorf("the pods were listed by %q", f.lists)
	}
}

// scaled is the page that shows the fleet.
type scaled struct {
	*testing.T
	*fleet
	tab *chrome.Meter
}

func (s *scaled) when(condition string) {
	s.Helper()
	if _, err := s.tab.When(condition); err != nil {
		s.Fatal(err)
	}
}

// shows fails the test unless the page has the rows of the API server, and few of them in the document.
func (s *scaled) shows(when string) {
	s.Helper()
	want := s.rows()
	s.when(fmt.Sprintf(`probe.count().replace(",", "") === "%d" && document.querySelector(".live").textContent === "live"`, len(want)))
	walked, err := s.tab.Walk()
	if err != nil {
		s.Fatal(err)
	}
	if walked.Most >= 100 || walked.Most < 10 {
		s.Errorf("%s, the document has %d rows", when, walked.Most)
	}
	if diff := cmp.Diff(want, walked.Rows); diff != "" {
		s.Errorf("%s, the page does not show what there is (-want +got):\n%.2000s", when, diff)
	}
}

// changes changes each pod several times, replaces some, and watches the memory.
func (s *scaled) changes() {
	s.Helper()
	var used []chrome.Usage
	for round := range 4 {
		for from := 0; from < manyPods; from += 250 {
			var pods []int
			for i := from; i < from+250; i++ {
				pods = append(pods, i)
			}
			s.set("Round"+strconv.Itoa(round), pods...)
		}
		s.set("", round, manyPods+round-1)     // the first, and the one that was made before
		s.set("Made", round, manyPods+round)   // the first again, and one more
		s.set("Seen"+strconv.Itoa(round), 100) // in sight after a search
		s.search(round)
		u, err := s.tab.Usage()
		if err != nil {
			s.Fatal(err)
		}
		used = append(used, u)
	}
	first, last := used[0], used[len(used)-1]
	if last.Heap > 1.1*first.Heap || last.Nodes > 1.1*first.Nodes || last.Listeners > 2*first.Listeners || last.Following != first.Following {
		s.Errorf("the page grows: %+v", used)
	}
	s.shows("after changes")
}

// search finds the pod of the round, and goes back.
func (s *scaled) search(round int) {
	s.Helper()
	field := `const f = document.querySelector("[data-filter]"); f.value = %q; f.dispatchEvent(new Event("input", {bubbles: true}))`
	if _, err := s.tab.Took(fmt.Sprintf(field, "p-00100"), fmt.Sprintf(`probe.rows().length === 1 && probe.rows()[0].innerText.includes("Seen%d")`, round)); err != nil {
		s.Fatal(err)
	}
	if _, err := s.tab.Took(fmt.Sprintf(field, ""), `probe.rows().length > 10`); err != nil {
		s.Fatal(err)
	}
}
