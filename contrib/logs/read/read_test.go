package read

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// labelled are Places that know all pods. The label app is the pod's name without what follows the last "-".
type labelled struct{}

func (labelled) Place(_ context.Context, _, _, pod, _ string) receive.Place {
	app, _, _ := strings.Cut(pod, "-")
	return receive.Place{Labels: map[string]string{"app": app, "odd/label": `"`}, Owner: "ReplicaSet/" + app + "-7d9c"}
}

// stack is a log store that a test writes to and reads from.
type stack struct {
	t       *testing.T
	entries *store.Store
	receive *receive.Server
	session string
	batches int
	server  *httptest.Server
	scope   Scope // of requests
}

func newStack(t *testing.T) *stack {
	t.Helper()
	entries, err := store.Open(store.Config{Dir: t.TempDir(), Retention: 7 * 24 * time.Hour, MinFree: 1 << 20, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, entries: entries, receive: receive.New(entries, labelled{}, 0)}
	var opened logs.Session
	s.ship("", nil, &opened)
	s.session = opened.ID
	h := New(entries)
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.Serve(w, r, s.scope, r.URL.Path) }))
	t.Cleanup(func() {
		s.server.Close()
		if err := entries.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ship makes a request of node a.
func (s *stack) ship(path string, body []byte, answer any) {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.receive.Serve(w, httptest.NewRequest(http.MethodPost, logs.PathSessions+path, strings.NewReader(string(body))), "a")
	if w.Code != http.StatusOK {
		s.t.Fatal(w.Body.String())
	}
	if err := json.Unmarshal(w.Body.Bytes(), answer); err != nil {
		s.t.Fatal(err)
	}
}

// add ships entries of a source, so that they can be read.
func (s *stack) add(source logs.Source, entries ...logs.Entry) {
	s.t.Helper()
	w := logs.NewWriter()
	for i := range entries {
		w.Add(source, &entries[i])
	}
	s.batches++
	var r logs.Receipt
	s.ship(fmt.Sprintf("/%s/batches/%d", s.session, s.batches), w.Batch(), &r)
	if err := s.entries.Sync(); err != nil {
		s.t.Fatal(err)
	}
}

// get makes a request and returns the code and the body.
func (s *stack) get(path string, parameters url.Values) (int, string) {
	s.t.Helper()
	response, err := http.Get(s.server.URL + path + "?" + parameters.Encode())
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// follow makes a request that goes on until stop is called, and returns the lines of its answer.
func (s *stack) follow(path string) (lines *bufio.Scanner, stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	return bufio.NewScanner(response.Body), func() {
		cancel()
		_ = response.Body.Close() // its request has ended
	}
}

// read returns the lines that a request gets.
func (s *stack) read(parameters ...string) (lines []Line) {
	s.t.Helper()
	values := url.Values{}
	for i := 0; i < len(parameters); i += 2 {
		values.Add(parameters[i], parameters[i+1])
	}
	code, text := s.get("/", values)
	if code != http.StatusOK || strings.Contains(text, `"error"`) {
		s.t.Fatal(code, text)
	}
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var l Line
		err := decoder.Decode(&l)
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			s.t.Fatal(err)
		}
		lines = append(lines, l)
	}
}

func texts(lines []Line) (all []string) {
	for _, l := range lines {
		all = append(all, l.Message+string(l.Raw))
	}
	return all
}

var began = time.Now().Add(-time.Hour).Truncate(time.Second)

func sourceOf(namespace, pod string) logs.Source {
	return logs.Source{Namespace: namespace, Pod: pod, FileID: logs.FileID{UID: "uid-" + pod, Container: "app", File: "1-2"}, Number: 1}
}

func entry(seconds int, begin int64, text string) logs.Entry {
	return logs.Entry{
		Time: began.Add(time.Duration(seconds) * time.Second).UnixNano(), Stream: logs.Stdout, Offset: begin, End: begin + 10, Message: []byte(text),
	}
}

func TestLinesComeInTheOrderInWhichTheyWereWritten(t *testing.T) {
	s := newStack(t)
	web := sourceOf("shop", "web-1")
	second := web
	second.File, second.Number = "3-4", 2
	again := web
	again.Restart, again.File, again.Number = 1, "0-0", 3
	var want []string
	text := func(format string, values ...any) string {
		want = append(want, fmt.Sprintf(format, values...))
		return want[len(want)-1]
	}
	// Clocks jump, and offsets are far apart: several chunks.
	for i := range 30 {
		s.add(web, entry(i%7, int64(i)*maxChunk/3, text("first %d", i)))
	}
	s.add(second, entry(3, 0, text("\xffno UTF-8")), entry(2, 10, text("")), entry(1, 20, text("<html>&\u2028")))
	s.add(again, entry(0, 0, text("again")))
	got := s.read()
	if diff := cmp.Diff(want, texts(got)); diff != "" {
		t.Error(diff)
	}
	if string(got[30].Raw) != "\xffno UTF-8" || got[30].Message != "" {
		t.Errorf("%+v", got[30])
	}
	wantLine := Line{
		Time: began.UTC(), Namespace: "shop", Pod: "web-1", UID: "uid-web-1", Container: "app", Node: "a", Stream: "stdout", Restart: 1, Message: "again",
	}
	if diff := cmp.Diff(wantLine, got[33], cmp.AllowUnexported(Line{})); diff != "" {
		t.Error(diff)
	}
	for parameter, want := range map[[2]string][]string{
		{ParamTail, "2"}:                    want[len(want)-2:],
		{ParamTail, "0"}:                    nil,
		{ParamTail, "100"}:                  want,
		{ParamPrevious, "true"}:             want[:33],
		{ParamGrep, "first 2.$"}:            want[20:30],
		{ParamExclude, "first|UTF|html|^$"}: want[33:],
	} {
		if diff := cmp.Diff(want, texts(s.read(parameter[0], parameter[1]))); diff != "" {
			t.Errorf("%v: %s", parameter, diff)
		}
	}
}

func TestLineOfATimeThatIsNotKeptHasItNevertheless(t *testing.T) {
	s := newStack(t)
	old := entry(0, 0, "from the last century")
	old.Time = time.Date(1999, 12, 31, 23, 59, 59, 7, time.UTC).UnixNano()
	s.add(sourceOf("shop", "web-1"), old)
	if got := s.read(); len(got) != 1 || got[0].Time.UnixNano() != old.Time || got[0].Message != "from the last century" {
		t.Errorf("%+v", got)
	}
}

func TestLinesOfSeveralPodsAreMergedByTimeAndSelected(t *testing.T) {
	s := newStack(t)
	for i := range 6 {
		pod := []string{"web-1", "web-2", "db-1"}[i%3]
		sidecar := sourceOf("shop", pod)
		sidecar.Container = "sidecar"
		s.add(sourceOf("shop", pod), entry(i*10, int64(i)*10, fmt.Sprintf("%s %d", pod, i)))
		s.add(sidecar, entry(i*10+1, int64(i)*10, fmt.Sprintf("%s sidecar %d", pod, i)))
	}
	s.add(sourceOf("other", "web-9"), entry(5, 0, "other"))
	s.scope = Scope{Namespace: "shop"}
	at := func(seconds int) string {
		return began.Add(time.Duration(seconds) * time.Second).Format(time.RFC3339Nano)
	}
	for _, c := range []struct {
		parameters []string
		want       []string
	}{
		{[]string{ParamContainer, "app"}, []string{"web-1 0", "web-2 1", "db-1 2", "web-1 3", "web-2 4", "db-1 5"}},
		{[]string{ParamPod, "db-1"}, []string{"db-1 2", "db-1 sidecar 2", "db-1 5", "db-1 sidecar 5"}},
		{[]string{ParamPod, "db-1", ParamPod, "web-1", ParamContainer, "app"}, []string{"web-1 0", "db-1 2", "web-1 3", "db-1 5"}},
		{[]string{ParamSelector, "app=db", ParamContainer, "app"}, []string{"db-1 2", "db-1 5"}},
		{[]string{ParamSelector, "app!=web", ParamContainer, "app"}, []string{"db-1 2", "db-1 5"}},
		{[]string{ParamSelector, "app in (db,x),!gone,app", ParamContainer, "app"}, []string{"db-1 2", "db-1 5"}},
		{[]string{ParamSelector, "gone"}, nil},
		{[]string{ParamOwner, "ReplicaSet/d[a-z]-.*", ParamContainer, "app"}, []string{"db-1 2", "db-1 5"}},
		{[]string{ParamOwner, "ReplicaSet/d"}, nil},
		{[]string{ParamSince, at(40)}, []string{"web-2 4", "web-2 sidecar 4", "db-1 5", "db-1 sidecar 5"}},
		{[]string{ParamSince, at(30), ParamUntil, at(40), ParamContainer, "app"}, []string{"web-1 3"}},
		{[]string{ParamTail, "1", ParamContainer, "app"}, []string{"web-1 3", "web-2 4", "db-1 5"}},
		{[]string{ParamGrep, "web", ParamGrep, "sidecar", ParamExclude, "4"}, []string{"web-1 sidecar 0", "web-2 sidecar 1", "web-1 sidecar 3"}},
		{[]string{ParamNode, "b"}, nil},
	} {
		if diff := cmp.Diff(c.want, texts(s.read(c.parameters...))); diff != "" {
			t.Errorf("%v: %s", c.parameters, diff)
		}
	}
}

func TestWrongParametersAreErrors(t *testing.T) {
	s := newStack(t)
	for _, query := range []string{"grep=(", "exclude=(", "owner=(", "since=yesterday", "tail=-1", "tail=x", "labelSelector=a%20b", "container=a&container=b", "since=%zz",
		"labelSelector=" + strings.Repeat("a.", 100) + "b/c", "labelSelector=a>1"} {
		response, err := http.Get(s.server.URL + "/?" + query)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest || len(text) < 10 {
			t.Errorf("%s: %d %s", query, response.StatusCode, text)
		}
	}
}

func TestFollowedLinesArriveOnce(t *testing.T) {
	s := newStack(t)
	web := sourceOf("shop", "web-1")
	s.add(web, entry(0, 0, "0"))
	lines, stop := s.follow("/?follow=true")
	defer stop()
	late := sourceOf("shop", "web-2")
	for i := range 4 {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		var l Line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil || l.Message != fmt.Sprint(i) {
			t.Fatalf("line %d is %s, %v", i, lines.Bytes(), err)
		}
		next := entry(0, int64(i+1)*10, fmt.Sprint(i+1))
		next.Time = time.Now().UnixNano()
		if i == 2 {
			s.add(late, next) // another pod
		} else {
			s.add(web, next)
		}
	}
}

func TestUserOfANamespaceSeesNoLineOfAnother(t *testing.T) {
	s := newStack(t)
	s.add(sourceOf("shop", "web-1"), entry(0, 0, "mine"), entry(1, 10, `{"namespace":"secret","_msg":"mine"}`), entry(2, 20, "uid-vault-1"))
	s.add(sourceOf("secret", "vault-1"), entry(0, 0, "password"), entry(1, 10, "password"))
	s.add(sourceOf("shop", "vault-1"), entry(0, 0, "mine"))
	s.add(logs.Source{FileID: logs.FileID{Container: "kubelet", File: "1"}}, entry(0, 0, "password"))
	id := streamID(t, s)
	s.scope = Scope{Namespace: "shop"}
	queries := []string{
		`*`, `password`, `{namespace="secret"}`, `namespace:=secret`, `{namespace=~".*"}`, `{namespace="secret"} or *`, `* or {namespace="secret"}`, `!{namespace="shop"}`,
		`(*) or (password)`, `not namespace:=shop`, `{} `, `{namespace="secret" or namespace="shop"}`, `{namespace!="shop"}`, `_stream_id:` + id,
		`_stream_id:in(` + id + `)`, `_stream_id:in({namespace="secret"} | fields _stream_id)`, `* | join by (container) ({namespace="secret"} | fields container, _msg)`,
		`* | join by (container) (* | fields container, _msg) prefix "x."`, `* | union ({namespace="secret"})`, `* | union (password | union (password))`,
		`* | filter pod:in({namespace="secret"} | fields pod) | union ({namespace="secret"})`, `_msg:in(password | fields _msg)`, `_msg:contains_any(password | fields _msg)`,
		`_msg:contains_all(* | fields _msg)`, `* | stream_context before 100 after 100`, `_stream_id:` + id + ` | stream_context before 10`,
		`* | stats by (namespace) count() n`, `* | stats values(_msg)`, `* | stats uniq_values(namespace)`, `* | stats count() if (namespace:in({namespace="secret"} | fields namespace)) n, row_max(_time)`,
		`* | uniq by (namespace)`, `* | field_values namespace`, `* | field_names`, `* | facets`, `* | top 10 by (_msg)`, `* | blocks_count`, `* | block_stats`,
		`options(global_filter=({namespace="secret"})) *`, `options(ignore_global_time_filter=true) *`, `options(global_filter=(namespace:=secret or *)) * | union (password)`,
		`* | format "{namespace=\"secret\"}" as _stream | stream_context before 10`, `* | set_stream_fields namespace`, `* | unpack_json | filter namespace:=secret`,
		`* | extract "<x>" if (_msg:in({namespace="secret"} | fields _msg)) | union ({namespace="secret"} | limit 1)`,
		`* | running_stats by (namespace) count() n`, `* | sort by (_time) | union (password)`, `* | last 5 by (_time)`, `* | query_stats`,
		`_time:1d password`, `*"password"`, `~"pass.*"`, `password)`, `* ) or (password`, `# {namespace="shop"}` + "\n" + `password`,
	}
	checkAnswers(t, s, queries)
	forged := url.Values{
		"query": {"*"}, "extra_filters": {"*"}, "extra_stream_filters": {`{namespace="secret"}`}, "hidden_fields_filters": {"namespace"}, "AccountID": {"0"},
		"tenant": {"0:1"}, "allow_partial_response": {"1"},
	}
	for name, values := range forged {
		both := url.Values{"query": {"*"}}
		both[name] = append(values, values...)
		if code, text := s.get("/select/logsql/query", both); strings.Contains(text, "password") || strings.Contains(text, "secret\"") && name != "query" && !strings.Contains(text, "mine") {
			t.Errorf("%v: %d %s", both, code, text)
		}
	}
	for _, header := range []string{"AccountID", "ProjectID", "accountid", "VL-Tenant", "X-Forwarded-For"} {
		request, err := http.NewRequest(http.MethodGet, s.server.URL+"/select/logsql/query?query=*", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header[header] = []string{"1"}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if strings.Contains(string(text), "password") || !strings.Contains(string(text), "mine") || response.Header.Get("AccountID") != "" ||
			response.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("header %s: %s %v", header, text, response.Header)
		}
	}
}

// streamID returns the ID of a stream of another namespace.
func streamID(t *testing.T, s *stack) (id string) {
	t.Helper()
	err := s.entries.Query(t.Context(), store.Pods, nil, `{namespace="secret"} | fields _stream_id`, func(b store.Block) error {
		id = strings.Clone(b.Column("_stream_id")[0])
		return nil
	})
	if err != nil || id == "" {
		t.Fatal(id, err)
	}
	return id
}

// checkAnswers checks that no way to run the queries answers with something of another namespace, and that they run where they may.
func checkAnswers(t *testing.T, s *stack, queries []string) {
	t.Helper()
	foreign := func(text string) bool {
		return strings.Contains(text, "password") || strings.Contains(text, `"secret"`) || strings.Contains(text, `\"secret\"`) && !strings.Contains(text, `"error`)
	}
	ran := 0
	for _, query := range queries {
		for _, path := range []string{"query", "hits", "facets", "field_names", "field_values", "stream_field_names", "stream_field_values", "streams", "stream_ids", "stats_query", "stats_query_range", "query_time_range"} {
			code, text := s.get("/select/logsql/"+path, url.Values{"query": {query}, "field": {"namespace"}, "step": {"1h"}, "limit": {"100"}})
			// An error or a forged line of the user's own may quote what the user wrote.
			for _, own := range []string{query, strings.ReplaceAll(query, `"`, `\"`), `{\"namespace\":\"secret\",\"_msg\":\"mine\"}`} {
				text = strings.ReplaceAll(text, own, "")
			}
			if code == http.StatusOK && foreign(text) && !strings.Contains(query, "unpack_json") && !strings.Contains(query, "as _stream") {
				t.Errorf("%s %s: %s", path, query, text)
			}
			if code == http.StatusOK && path == "query" {
				ran++
			}
		}
	}
	if ran < len(queries)/2 {
		t.Errorf("only %d of %d queries ran", ran, len(queries))
	}
	s.scope = Scope{}
	defer func() { s.scope = Scope{Namespace: "shop"} }()
	if _, text := s.get("/select/logsql/query", url.Values{"query": {"password"}}); strings.Count(text, "password") != 2 {
		t.Errorf("who may read all namespaces gets %s", text)
	}
}

func TestNothingButQueriesIsReached(t *testing.T) {
	s := newStack(t)
	for _, path := range []string{
		"/internal/force_flush", "/internal/select/query", "/internal/partition/list", "/delete/run_task", "/internal/delete/run_task", "/insert/jsonline", "/select/tenant_ids",
		"/select/vmalert/api/v1/rules", "/select/logsql/../../delete/run_task", "/select//logsql/query", "//delete/run_task", "/select/logsql/query/", "/metrics", "/flags", "/debug/pprof/",
		"/select/vmui/../logsql/query", "/select/vmui/..;/logsql/query", "/..;/select/logsql/query", "/select/logsql/..;/query", "/select/logsql;a=b/query", "/select/logsql/query;a=b",
		"/select/logsql/%71uery", "/select%2flogsql%2fquery", "/select/logsql/query\x00", "/select/logsql/query ", "/Select/logsql/query", "/select/logsql/./query",
		"/select/logsql/delete_run_task", "/select/logsql/tail/../../delete", "/select/logsql/query_stats", "/select/logsql/", "/select/logsql", "/select/buildinfo", "/-/reload", "/health", "/internal/force_merge",
	} {
		request, err := http.NewRequest(http.MethodPost, s.server.URL, strings.NewReader("query=*"))
		if err != nil {
			t.Fatal(err)
		}
		request.URL.Path = path
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
	if code, text := s.get("/select/vmui/", nil); code != http.StatusOK || !strings.Contains(text, "html") {
		t.Errorf("the user interface: %d", code)
	}
	s.scope = Scope{Namespace: "shop"}
	if code, _ := s.get("/select/vmui/", nil); code != http.StatusForbidden {
		t.Errorf("the user interface for a namespace: %d", code)
	}
}

func TestRequestForOnePodGetsNoOther(t *testing.T) {
	s := newStack(t)
	s.add(sourceOf("shop", "web-1"), entry(0, 0, "mine"))
	s.add(sourceOf("shop", "web-2"), entry(0, 0, "other"))
	s.scope = Scope{Namespace: "shop", Pod: "web-1"}
	if got := texts(s.read(ParamPod, "web-2")); got != nil {
		t.Errorf("%q", got)
	}
	if got := texts(s.read()); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("%q", got)
	}
}

func TestLiveTailStaysInItsNamespace(t *testing.T) {
	s := newStack(t)
	s.scope = Scope{Namespace: "shop"}
	lines, stop := s.follow("/select/logsql/tail?query=*&offset=0s&refresh_interval=50ms")
	defer stop()
	now := entry(0, 0, "foreign")
	now.Time = time.Now().UnixNano()
	s.add(sourceOf("secret", "vault"), now)
	now.Message, now.Time = []byte("mine"), time.Now().UnixNano()
	s.add(sourceOf("shop", "web-1"), now)
	if !lines.Scan() || !strings.Contains(lines.Text(), "mine") {
		t.Errorf("%q %v", lines.Text(), lines.Err())
	}
}
