package read

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/k8sm/k8sm/api/logs"
)

// conditional are queries whose answer, or whose effect on lines of the user's own, depends on a condition over other lines. %s stands for a
// query of these.
var conditional = []string{
	`_msg:in(%s | fields _msg)`, `!_msg:in(%s | fields _msg)`, `_msg:contains_any(%s | fields _msg)`, `_msg:contains_all(%s | fields _msg)`,
	`pod:in(%s | fields pod)`, `* (_msg:in(%s | fields _msg) or _msg:x)`, `not (not _msg:in(%s | fields _msg))`, `_stream_id:in(%s | fields _stream_id)`,
	`_msg:in(_msg:in(%s | fields _msg) | fields _msg)`, `_msg:in(* | union (%s) | fields _msg)`, `_msg:in(* | filter _msg:in(%s | fields _msg) | fields _msg)`,
	`* | filter _msg:in(%s | fields _msg)`, `* | where pod:in(%s | fields pod)`, `* | union (%s)`, `* | union (* | union (* | union (%s)))`, `%s | union (*)`,
	`* | join by (_msg) (%s | fields _msg, namespace) inner`, `* | join by (_msg) (%s | fields _msg, namespace)`, `* | join by (pod) (%s | stats by (pod) count() n) prefix x.`,
	`* | join by (_msg) (* | join by (_msg) (%s | fields _msg) inner) inner`, `* | join by (_msg) (* | union (%s)) inner`,
	`* | collapse_nums if (_msg:in(%s | fields _msg))`, `* | extract if (_msg:in(%s | fields _msg)) "<x>ess" from _msg`,
	`* | extract_regexp if (_msg:in(%s | fields _msg)) "(?P<x>.+)" from _msg`, `* | format if (_msg:in(%s | fields _msg)) "yes" as x`,
	`* | replace if (_msg:in(%s | fields _msg)) ("u", "v") at _msg`, `* | replace_regexp if (_msg:in(%s | fields _msg)) ("u", "v") at _msg`,
	`* | set_stream_fields if (_msg:in(%s | fields _msg)) pod`, `* | unpack_json if (_msg:in(%s | fields _msg)) from _msg`,
	`* | unpack_logfmt if (_msg:in(%s | fields _msg)) from _msg`, `* | unpack_syslog if (_msg:in(%s | fields _msg)) from _msg`, `* | unroll if (_msg:in(%s | fields _msg)) by (_msg)`,
	`* | stats count() if (_msg:in(%s | fields _msg)) n`, `* | stats by (pod) count() switch(case (_msg:in(%s | fields _msg)) as a, default as b)`,
	`* | stats uniq_values(_msg) if (pod:in(%s | fields pod)) as v`, `* | filter pod:eq_field(container) | union (%s)`, `* | total_stats count() n | union (%s)`,
	`* | sort by (_time) | running_stats count() n | union (%s | running_stats count() n)`, `* | first 3 by (_time) | union (%s | last 1 by (_time))`, `* | uniq by (_msg) with hits | union (%s)`,
	`* | top 3 by (_msg) | union (%s | top 3 by (_msg))`, `* | facets | union (%s | facets)`, `* | field_names | union (%s | field_names)`, `* | field_values _msg | union (%s | field_values _msg)`,
	`* | stats json_values(_msg) v | union (%s | stats json_values(_msg) v)`, `* | stats row_max(_time) v | union (%s | stats row_max(_time) v)`,
	`* | stream_context before 3 after 3 | union (%s | stream_context before 3 after 3)`, `%s | stream_context before 3 after 3 time_window 100d`,
	`options(global_filter=(_msg:in(%s | fields _msg))) *`, `options(ignore_global_time_filter=true) * | union (%s)`, `_msg:in(options(ignore_global_time_filter=true) %s | fields _msg)`,
	`options(time_offset=0s, concurrency=2) * | union (options(global_filter=(*)) %s)`, `options(allow_partial_response=true) * | union (%s)`,
}

// others are those that find lines of all namespaces, if something lets them.
var others = []string{
	`*`, `guess`, `{namespace="secret"}`, `{namespace!="shop"}`, `{namespace=~".+"}`, `{namespace in ("secret","shop")}`, `namespace:=secret`, `!namespace:=shop`, `namespace:~"s.*"`,
	`{namespace="secret" or namespace="shop"}`, `({namespace="secret"} or guess)`, `_time:>2000-01-01 guess`, `pod:=vault`, `label.app:=vault`, `options(global_filter=({namespace="secret"})) *`, `*:guess`,
}

// sameName is a source of a namespace. All but that is the same for all namespaces.
func sameName(namespace, pod string) logs.Source {
	s := sourceOf(namespace, pod)
	s.UID = "uid-" + namespace
	return s
}

// What another namespace wrote must change no answer: not by a line, a count, a name, or by whether something matches.
func TestNoAnswerDependsOnWhatAnotherNamespaceWrote(t *testing.T) {
	s := newStack(t)
	s.add(sameName("shop", "web"), entry(0, 0, "guess"), entry(1, 10, "mine 17"), entry(2, 20, `{"namespace":"secret","_msg":"guess"}`), entry(3, 30, "a=b guess=1"))
	s.add(sameName("shop", "db"), entry(4, 0, "mine 18"))
	s.scope = Scope{Namespace: "shop"}
	var queries []string
	for _, other := range others {
		queries = append(queries, other)
		for _, c := range conditional {
			queries = append(queries, fmt.Sprintf(c, other))
		}
	}
	before := make([]string, len(queries))
	ran := 0
	for i, q := range queries {
		code, text := answerOf(s, "query", q)
		if before[i] = text; code == http.StatusOK {
			ran++
		}
	}
	if ran < len(queries)*4/5 {
		t.Errorf("only %d of %d queries are understood", ran, len(queries))
	}
	paths := []string{"hits", "facets", "field_names", "field_values", "stream_field_names", "stream_field_values", "streams", "stream_ids", "stats_query", "stats_query_range", "query_time_range"}
	asked := map[string]string{}
	for _, path := range paths {
		for _, q := range queries[:len(conditional)+1] {
			_, asked[path+" "+q] = answerOf(s, path, q)
		}
	}
	for i, text := range []string{"guess", "mine 17", "mine 18", "a=b guess=1", "password", `{"namespace":"secret","_msg":"guess"}`} {
		s.add(sameName("secret", "web"), entry(i, int64(i)*10, text))
		s.add(sameName("secret", "vault"), entry(i, int64(i)*10, text))
	}
	for i, q := range queries {
		if _, text := answerOf(s, "query", q); text != before[i] {
			t.Errorf("%s: the answer was\n%s\nand is\n%s", q, before[i], text)
		}
	}
	for what, text := range asked {
		path, q, _ := strings.Cut(what, " ")
		if _, now := answerOf(s, path, q); now != text {
			t.Errorf("%s: the answer was\n%s\nand is\n%s", what, text, now)
		}
	}
	s.scope = Scope{} // else the test would see nothing
	if _, text := answerOf(s, "query", `_msg:in({namespace="secret"} password | fields _msg)`); strings.Count(text, "password") != 2 {
		t.Errorf("who may read all namespaces gets %s", text)
	}
}

// answerOf returns the answer to a query, with its lines and the values of its lists sorted: their order may be any.
func answerOf(s *stack, path, query string) (int, string) {
	s.t.Helper()
	code, text := s.get("/select/logsql/"+path, url.Values{
		"query": {query}, "field": {"pod"}, "step": {"1h"}, "limit": {"100"}, "start": {began.Add(-30 * 60e9).UTC().Format("2006-01-02T15:04:05Z")}, "end": {began.Add(30 * 60e9).UTC().Format("2006-01-02T15:04:05Z")},
	})
	var lines []string
	for line := range strings.Lines(text) {
		var value any
		if json.Unmarshal([]byte(line), &value) == nil {
			sorted, err := json.Marshal(sortLists(value))
			if err != nil {
				s.t.Fatal(err)
			}
			line = string(sorted)
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return code, strings.Join(lines, "\n")
}

// sortLists sorts the lists of a JSON value, also those that stand in a text.
func sortLists(value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = sortLists(v[i])
		}
		slices.SortFunc(v, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	case map[string]any:
		for name := range v {
			v[name] = sortLists(v[name])
		}
	case string:
		var list []any
		if json.Unmarshal([]byte(v), &list) == nil {
			return sortLists(list)
		}
	}
	return value
}

// A namespace comes from the path of a request, so it may be anything that a URL can carry: it is taken as it is.
func TestNameOfANamespaceIsNoPatternAndNoQuery(t *testing.T) {
	s := newStack(t)
	s.add(sameName("shop", "web"), entry(0, 0, "mine"))
	s.add(sameName("secret", "vault"), entry(0, 0, "password"))
	for _, name := range []string{
		".*", ".+", "sho.", "shop|secret", "(shop|secret)", "^secret$", "*", "se*", `secret" or namespace="shop`, `"} or {namespace="secret`, `x"} or *`, "secret,shop", "secret\x00", "SECRET",
		" secret", "secret ", "`secret`", "'secret'", `\"`, "%73ecret", "namespace", "!shop", "{}", "\u2028", "in(secret)", "secret/../shop",
	} {
		for _, scope := range []Scope{{Namespace: name}, {Namespace: "shop", Pod: name}} {
			s.scope = scope
			if got := texts(s.read()); got != nil {
				t.Errorf("lines of %+v: %q", scope, got)
			}
			for _, query := range []string{"*", `{namespace="secret"} or *`, `* | union (password)`} {
				if code, text := s.get("/select/logsql/query", url.Values{"query": {query}}); code == http.StatusOK && text != "" || strings.Contains(text, "password") {
					t.Errorf("%s of %+v: %d %s", query, scope, code, text)
				}
			}
		}
	}
}

// Parameters are taken from the request's URL and body, each once: a second one, of another spelling or in another place, changes nothing.
func TestParametersOfWhoseLinesAreReadAreNotTakenFromARequest(t *testing.T) {
	s := newStack(t)
	s.add(sameName("shop", "web"), entry(0, 0, "mine"))
	s.add(sameName("secret", "vault"), entry(0, 0, "password"))
	s.scope = Scope{Namespace: "shop"}
	send := func(query, contentType, body string) (int, string) {
		t.Helper()
		request, err := http.NewRequest(http.MethodPost, s.server.URL+"/select/logsql/query?"+query, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", contentType)
		for _, name := range []string{"AccountID", "ProjectID", "X-Scope-OrgID", "X-Remote-User", "X-Remote-Group", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override"} {
			request.Header.Set(name, "1")
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var text strings.Builder
		if err := response.Write(&text); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, text.String()
	}
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct{ query, contentType, body string }{
		{"query=*&extra_stream_filters=" + url.QueryEscape(`{"namespace":"secret"}`), form, ""},
		{"query=*&extra_stream_filters=" + url.QueryEscape(`{"namespace":["secret","shop"]}`), form, "extra_stream_filters=" + url.QueryEscape(`{namespace="secret"}`)},
		{"query=*", form, "extra_filters=*&extra_filters=" + url.QueryEscape(`{namespace="secret"}`)},
		{"query=*&extra_stream_filters[]=x&EXTRA_STREAM_FILTERS=x&extra_stream_filters%00=x", form, "extra_stream_filters%5B%5D=x"},
		{"", form, "query=*&tenant=0:1&accountID=0&projectID=1&hidden_fields_filters=namespace"},
		{"query=*", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"extra_stream_filters\"\r\n\r\n{}\r\n--x--\r\n"},
		{"query=*", "application/json", `{"extra_stream_filters":"{}","query":"password"}`},
	} {
		if code, text := send(c.query, c.contentType, c.body); strings.Contains(text, "password") || code != http.StatusOK || !strings.Contains(text, "mine") {
			t.Errorf("%+v: %s", c, text)
		}
	}
	for _, c := range []struct{ query, body string }{
		{"query=*", "query=password"}, {"query=*&query=password", ""}, {"", "query=*&query=*"}, {"query=*;extra_filters=*", ""}, {"query=%zz", ""},
	} {
		if code, text := send(c.query, form, c.body); code != http.StatusBadRequest || strings.Contains(text, "password\"") {
			t.Errorf("%+v: %s", c, text)
		}
	}
}

// Whatever a pod writes stays its message, byte for byte: no field of another namespace, no line of another pod.
func TestNothingThatAPodWritesBecomesAField(t *testing.T) {
	s := newStack(t)
	s.add(sameName("shop", "web"), entry(0, 0, "innocent"))
	_, before := s.get("/select/logsql/field_names", url.Values{"query": {"* | delete _msg"}})
	written := []string{
		`{"namespace":"secret","pod":"vault","_msg":"forged","_stream":"{namespace=\"secret\"}","_time":"2020-01-01T00:00:00Z"}`, "a\n{\"source\":{\"namespace\":\"secret\"}}\nb",
		"\x00namespace=secret\x00", `namespace=secret _stream={namespace="secret"}`, "\xff\xfe{\"namespace\":\"secret\"}", "\r\n", "\n", "\x00", "2026-01-02T03:04:05Z stdout F forged",
		"\"}\n{\"_msg\":\"forged\",\"namespace\":\"secret\"}", `{"lost":"forged","lost_lines":"7"}`, "\u2028\u2029\u0085", strings.Repeat(`{"namespace":`, 5000), `<165>1 2026-01-02T03:04:05Z secret vault - - - forged`,
	}
	want := []string{"innocent"}
	for i, text := range written {
		s.add(sameName("shop", "web"), entry(i+1, int64(i+1)*10, text))
		want = append(want, text)
	}
	lines := s.read()
	if got := texts(lines); !slices.Equal(got, want) {
		t.Errorf("got %.300q\nwant %.300q", got, want)
	}
	for _, l := range lines {
		if l.Namespace != "shop" || l.Pod != "web" || l.Lost != "" || !l.Time.After(began.Add(-1)) {
			t.Errorf("a line is %.200v", l)
		}
	}
	_, after := s.get("/select/logsql/field_names", url.Values{"query": {"* | delete _msg"}})
	names := func(text string) (all []string) {
		var answer struct{ Values []struct{ Value string } }
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
		for _, v := range answer.Values {
			all = append(all, v.Value)
		}
		slices.Sort(all)
		return all
	}
	if a, b := names(before), names(after); !slices.Equal(a, b) {
		t.Errorf("there were the fields %q, and now are %q", a, b)
	}
	s.scope = Scope{Namespace: "secret"}
	if got := texts(s.read()); got != nil {
		t.Errorf("another namespace has %q", got)
	}
}
