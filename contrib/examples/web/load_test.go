package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLoadCountsAnswersAndFailures(t *testing.T) {
	var number atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.Close {
			t.Error("a client keeps its connection")
		}
		switch n := number.Add(1); {
		case n%10 == 0:
			http.Error(w, "no", http.StatusServiceUnavailable)
		case n%2 == 0:
			fmt.Fprintln(w, "v2\nand more")
		default:
			fmt.Fprintln(w, "v1")
		}
	}))
	defer server.Close()
	answers, failures := load{url: server.URL, clients: 4, count: 100}.run(t.Context())
	if diff := cmp.Diff(map[string]int{"v1": 50, "v2": 40}, answers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"503 Service Unavailable": 10}, failures); diff != "" {
		t.Error(diff)
	}
	var out strings.Builder
	show(&out, "", answers)
	show(&out, "failed: ", failures)
	if want := "    50  v1\n    40  v2\n    10  failed: 503 Service Unavailable\n"; out.String() != want {
		t.Errorf("it prints\n%s", out.String())
	}
}

func TestLoadWithoutCountEndsWhenAskedTo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var number atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if number.Add(1) == 50 {
			cancel()
		}
	}))
	defer server.Close()
	answers, failures := load{url: server.URL, clients: 3}.run(ctx)
	if answers[""] < 40 || len(failures) > 0 {
		t.Errorf("answers %v, failures %v", answers, failures)
	}
}

func TestLoadRefusesWhatItCannotSend(t *testing.T) {
	for _, line := range []string{"", "shop", "https://shop/", "http://a http://b", "--clients=0 http://shop/", "--count=-1 http://shop/", "--often http://shop/"} {
		if l, err := parseLoad(strings.Fields(line)); err == nil {
			t.Errorf("load %q: taken as %+v", line, l)
		}
	}
	l, err := parseLoad(strings.Fields("--clients=4 --count=10 http://shop/work"))
	if want := (load{url: "http://shop/work", clients: 4, count: 10}); err != nil || l != want {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestPages(t *testing.T) {
	t.Setenv("RELEASE", "v2")
	server := httptest.NewServer(pages())
	defer server.Close()
	for path, want := range map[string]string{"/": "Hello from pod ", "/release": "v2", "/work": "done", "/else": "Hello from pod "} {
		got, err := get(t.Context(), server.Client(), server.URL+path)
		if err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s says %q, %v", path, got, err)
		}
	}
}
