package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

// pod is a row of a table as the API server sends it.
func pod(uid, name, status, version string) map[string]any {
	return map[string]any{"cells": []any{name, status}, "object": map[string]any{"kind": "PartialObjectMetadata", "metadata": map[string]any{
		"uid": uid, "name": name, "namespace": "a", "resourceVersion": version, "labels": map[string]string{"app": name}, "managedFields": []any{map[string]any{"manager": "x"}},
		"annotations":     map[string]string{"k8sm.io/task-id": "t-" + uid, "secret": "x"},
		"ownerReferences": []any{map[string]any{"kind": "ReplicaSet", "name": "rs", "controller": true}},
	}}}
}

func table(version, next string, rows ...any) map[string]any {
	return map[string]any{"kind": "Table", "metadata": map[string]any{"resourceVersion": version, "continue": next}, "rows": rows, "columnDefinitions": []any{
		map[string]any{"name": "Name", "type": "string", "description": "its name"}, map[string]any{"name": "Status", "type": "string"}}}
}

func TestTableIsListedInPiecesAndFollowed(t *testing.T) {
	var lists, watches atomic.Int32
	stop := make(chan struct{})
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Header.Get("Accept") != tableType || q.Get("includeObject") != "Metadata" || q.Get("labelSelector") != "app=x" {
			t.Errorf("the API server is asked for %s as %s", r.URL, r.Header.Get("Accept"))
		}
		if q.Get("watch") == "" {
			switch lists.Add(1) {
			case 1:
				writeJSON(w, table("10", "next", pod("1", "one", "Running", "5")))
			case 2:
				writeJSON(w, table("10", "", pod("2", "two", "Pending", "6")))
			default:
				writeJSON(w, table("50", "", pod("4", "four", "Running", "50")))
			}
			return
		}
		send := func(kind string, object any) { writeJSON(w, map[string]any{"type": kind, "object": object}) }
		switch watches.Add(1) {
		case 1:
			if q.Get("resourceVersion") != "10" {
				t.Errorf("it watches from %s", q.Get("resourceVersion"))
			}
			send("MODIFIED", table("", "", pod("2", "two", "Creating", "11")))
			send("MODIFIED", table("", "", pod("2", "two", "Running", "12")))
			send("ADDED", table("", "", pod("3", "three", "Pending", "13")))
			send("DELETED", table("", "", pod("1", "one", "Running", "14")))
			send("BOOKMARK", table("20", ""))
		case 2:
			if q.Get("resourceVersion") != "20" {
				t.Errorf("it goes on from %s", q.Get("resourceVersion"))
			}
			send("ERROR", map[string]any{"kind": "Status", "code": 410, "message": "too old resource version"})
		default:
			<-stop
		}
	})
	defer close(stop)
	b := loggedIn(t, a, Config{}, "ann")
	conn := b.follow(call{ID: 3, Mode: "table", Path: "/api/v1/namespaces/a/pods?labelSelector=app%3Dx&watch=true", Annotations: []string{"k8sm.io/task-id", "none"}})
	rowOf := func(uid, name, status string) row {
		return row{UID: "", Namespace: "a", Name: name, Cells: []any{name, status}, Labels: map[string]string{"app": name}, Annotations: map[string]string{"k8sm.io/task-id": "t-" + uid}, Owner: "ReplicaSet/rs"}
	}
	with := func(r row, uid string) row { r.UID = types.UID(uid); return r }
	want := []frame{
		{ID: 3, Reset: true, Columns: []column{{Name: "Name", Type: "string", Help: "its name"}, {Name: "Status", Type: "string"}}, Rows: []row{with(rowOf("1", "one", "Running"), "1")}},
		{ID: 3, State: "live", Rows: []row{with(rowOf("2", "two", "Pending"), "2")}},
		{ID: 3, Rows: []row{with(rowOf("2", "two", "Running"), "2"), with(rowOf("3", "three", "Pending"), "3")}, Gone: []string{"1"}},
		{ID: 3, State: "reconnecting", Message: "too old resource version"}, // it ended twice within a moment
		{ID: 3, State: "live", Reset: true, Rows: []row{with(rowOf("4", "four", "Running"), "4")}},
	}
	for i, w := range want {
		if diff := cmp.Diff(w, b.next(conn)); diff != "" {
			t.Errorf("frame %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestRefusalEndsASubscriptionAndAFailureDoesNot(t *testing.T) {
	var asked atomic.Int32
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/secrets" {
			w.WriteHeader(http.StatusForbidden)
			writeJSON(w, map[string]any{"kind": "Status", "message": "ann may not list secrets", "code": 403})
			return
		}
		if asked.Add(1) == 1 {
			http.Error(w, "etcd is away", http.StatusInternalServerError)
			return
		}
		if r.URL.Query().Get("watch") != "" {
			<-r.Context().Done()
			return
		}
		writeJSON(w, map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": []any{map[string]any{"metadata": map[string]any{"uid": "u", "managedFields": []any{}}, "spec": 1}}})
	})
	b := loggedIn(t, a, Config{}, "ann")
	refused := b.follow(call{ID: 1, Mode: "objects", Path: "/api/v1/secrets"})
	if f := b.next(refused); f.State != "ended" || f.Code != 403 || f.Message != "ann may not list secrets" {
		t.Errorf("a refusal is %+v", f)
	}
	failed := b.follow(call{ID: 2, Mode: "objects", Path: "/api/v1/nodes"})
	if f := b.next(failed); f.State != "reconnecting" || f.Message == "" {
		t.Errorf("a failure is %+v", f)
	}
	want := frame{ID: 2, State: "live", Reset: true, Objects: []any{map[string]any{"metadata": map[string]any{"uid": "u"}, "spec": 1.0}}}
	if diff := cmp.Diff(want, b.next(failed)); diff != "" {
		t.Errorf("then (-want +got):\n%s", diff)
	}
}

func TestLogIsStreamed(t *testing.T) {
	more := make(chan struct{})
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/a/pods/b/log" || r.URL.RawQuery != "follow=true&tailLines=5" {
			t.Errorf("the API server is asked for %s", r.URL)
		}
		fmt.Fprint(w, "one\n")
		http.NewResponseController(w).Flush()
		<-more
		fmt.Fprint(w, "two \xff\n")
	})
	b := loggedIn(t, a, Config{}, "ann")
	conn := b.follow(call{ID: 1, Mode: "lines", Path: "/api/v1/namespaces/a/pods/b/log?follow=true&tailLines=5"})
	for _, want := range []frame{{ID: 1, State: "live", Reset: true}, {ID: 1, Lines: "one\n"}} {
		if diff := cmp.Diff(want, b.next(conn)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	close(more)
	for _, want := range []frame{{ID: 1, Lines: "two \uFFFD\n"}, {ID: 1, State: "ended"}} {
		if diff := cmp.Diff(want, b.next(conn)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestClosedSubscriptionEndsItsRequest(t *testing.T) {
	begun, over := make(chan struct{}), make(chan struct{})
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
		close(over)
	})
	b := loggedIn(t, a, Config{}, "ann")
	conn := b.follow(call{ID: 1, Mode: "lines", Path: "/api/v1/namespaces/a/pods/b/log?follow=true"})
	<-begun
	if err := conn.WriteJSON(call{ID: 1, Op: "close"}); err != nil {
		t.Fatal(err)
	}
	<-over
}

func TestListThatBreaksOffBeginsAnew(t *testing.T) {
	var lists atomic.Int32
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			<-r.Context().Done()
			return
		}
		switch n := lists.Add(1); {
		case n == 2: // the second half
			http.Error(w, "etcd is away", http.StatusInternalServerError)
		case r.URL.Query().Get("continue") == "":
			writeJSON(w, table("10", "next", pod("1", "one", "Running", "5")))
		default:
			writeJSON(w, table("10", "", pod("2", "two", "Pending", "6")))
		}
	})
	b := loggedIn(t, a, Config{}, "ann")
	conn := b.follow(call{ID: 1, Mode: "table", Path: "/api/v1/pods"})
	for i, want := range []struct {
		state, name string
		reset       bool
	}{{"", "one", true}, {"reconnecting", "", false}, {"", "one", true}, {"live", "two", false}} {
		f := b.next(conn)
		name := ""
		if len(f.Rows) > 0 {
			name = f.Rows[0].Name
		}
		if f.State != want.state || name != want.name || f.Reset != want.reset {
			t.Errorf("frame %d is %+v, and not %+v", i, f, want)
		}
	}
}

func TestWatchThatEndsAtOnceIsNotLive(t *testing.T) {
	var watches atomic.Int32
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Get("watch") == "":
			writeJSON(w, table("10", "", pod("1", "one", "Running", "5")))
		case watches.Add(1) < 3: // such as a proxy between
			w.WriteHeader(http.StatusOK)
		default:
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	b := loggedIn(t, a, Config{}, "ann")
	conn := b.follow(call{ID: 1, Mode: "table", Path: "/api/v1/pods"})
	for i, want := range []string{"live", "reconnecting", "live"} {
		if f := b.next(conn); f.State != want {
			t.Errorf("frame %d is %+v, and not %s", i, f, want)
		}
	}
}

// A page that is in the background may stop to read. What it has not read must not pile up.
func TestPageThatDoesNotReadHoldsTheAPIServerBack(t *testing.T) {
	t.Parallel()
	const enough = 64 << 20 // bytes, more than all buffers between
	var written atomic.Int64
	stalled := make(chan struct{})
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "" {
			writeJSON(w, table("10", "", pod("1", "one", "Running", "5")))
			return
		}
		name := strings.Repeat("x", 64<<10)
		for i := 0; written.Load() < enough; i++ {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
				t.Error(err)
			}
			data, err := json.Marshal(map[string]any{"type": "MODIFIED", "object": table("", "", pod(fmt.Sprint(i), name, "Running", "11"))})
			if err != nil {
				t.Error(err)
			}
			n, err := w.Write(data)
			if written.Add(int64(n)); err != nil {
				break
			}
		}
		close(stalled)
	})
	b := loggedIn(t, a, Config{}, "ann")
	conn := b.follow(call{ID: 1, Mode: "table", Path: "/api/v1/pods"})
	b.next(conn)
	<-stalled
	if n := written.Load(); n >= enough {
		t.Errorf("the server took %d MB for a page that does not read", n>>20)
	}
}

func TestPageGetsTheFieldsThatItAskedFor(t *testing.T) {
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			<-r.Context().Done()
			return
		}
		writeJSON(w, map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": []any{map[string]any{
			"metadata": map[string]any{"uid": "u", "managedFields": []any{}}, "spec": 1, "status": map[string]any{"conditions": []any{"x"}, "images": []any{"y"}},
		}}})
	})
	b := loggedIn(t, a, Config{}, "ann")
	conn := b.follow(call{ID: 1, Mode: "objects", Path: "/api/v1/nodes", Fields: []string{"status.conditions", "status.none", "spec.none.of", ""}})
	want := frame{ID: 1, State: "live", Reset: true, Objects: []any{map[string]any{"metadata": map[string]any{"uid": "u"}, "status": map[string]any{"conditions": []any{"x"}}}}}
	if diff := cmp.Diff(want, b.next(conn)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
