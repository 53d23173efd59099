package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/docs"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	v1beta1Page       = "docs/v1beta1.md"
	v1beta1Recordings = root + "/api/v1beta1/testdata"
	v1beta1Examples   = root + "/contrib/examples/v1beta1"
	recordedMinion    = "127.0.0.1" // the node of the recordings
)

// exchange is a recorded request, and its answer.
type exchange struct {
	name         string // of the recording, such as "04-get-pod"
	method, path string
	body         string
	answer       v1beta1Answer
}

// number is how the page names the exchange.
func (e exchange) number() string { number, _, _ := strings.Cut(e.name, "-"); return number }

// v1beta1Answer is what was, or is, answered.
type v1beta1Answer struct {
	code   int
	header http.Header
	body   string
}

// recordedCall is the line of curl that a recording begins with.
var recordedCall = regexp.MustCompile(`^> curl (?:-X([A-Z]+) )?(?:--data-binary (.*) )?http://127\.0\.0\.1:18080(\S*)$`)

// readExchange reads a recording. The minion gets the name of the cluster's node.
func readExchange(t *testing.T, file, node string) exchange {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	e := exchange{name: strings.TrimSuffix(filepath.Base(file), ".txt"), method: http.MethodGet}
	if call, rest, _ := strings.Cut(text, "\n"); strings.HasPrefix(call, ">") {
		found := recordedCall.FindStringSubmatch(call)
		if found == nil {
			t.Fatalf("%s begins with %q", file, call)
		}
		if found[1] != "" {
			e.method = found[1]
		}
		e.body, e.path, text = found[2], found[3], rest
	}
	if example, ok := strings.CutPrefix(e.body, "@"); ok {
		body, err := os.ReadFile(filepath.Join(v1beta1Examples, example))
		if err != nil {
			t.Fatal(err)
		}
		e.body = string(body)
	}
	head, body, _ := strings.Cut(text, "\n\n")
	e.answer.body = strings.TrimSuffix(body, "\n")
	e.answer.header = http.Header{}
	for i, line := range strings.Split(head, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		if i > 0 {
			e.answer.header.Set(textproto.CanonicalMIMEHeaderKey(key), value)
		} else if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &e.answer.code); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	for _, text := range []*string{&e.path, &e.body, &e.answer.body} {
		*text = strings.ReplaceAll(*text, recordedMinion, node)
	}
	return e
}

// v1beta1Client calls the gateway as anybody on this machine.
type v1beta1Client struct {
	*scratch.Cluster
	url, node string
}

func (c v1beta1Client) send(ctx context.Context, method, path, body string) (a v1beta1Answer, err error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	response, err := http.DefaultTransport.RoundTrip(request) // which follows no redirect
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return v1beta1Answer{code: response.StatusCode, header: response.Header, body: strings.TrimSuffix(string(text), "\n")}, err
}

// differs says in what an answer differs from the recorded one: parts of HTTP, and paths of JSON. Values that no two runs have in
// common do not count: ids, times, versions, addresses and capacities.
func differs(recorded, got v1beta1Answer) (parts []string) {
	if recorded.code != got.code {
		parts = append(parts, "HTTP status")
	}
	for _, key := range []string{"Content-Type", "Location"} {
		if want := recorded.header.Get(key); want != "" && !sameHeader(want, got.header.Get(key)) {
			parts = append(parts, key)
		}
	}
	var was, is any
	if json.Unmarshal([]byte(recorded.body), &was) != nil || json.Unmarshal([]byte(got.body), &is) != nil {
		if recorded.body != got.body {
			parts = append(parts, "body")
		}
		return parts
	}
	return append(parts, differences("", was, is)...)
}

// sameHeader knows URLs of the same port of other addresses.
func sameHeader(a, b string) bool {
	at := regexp.MustCompile(`^(https?://)[^/]*(:\d+)`)
	return at.ReplaceAllString(a, "$1$2") == at.ReplaceAllString(b, "$1$2")
}

// differences are the paths at which two values of JSON differ. Items of lists are compared by their ids, or else in order.
func differences(path string, was, is any) (paths []string) {
	switch was := was.(type) {
	case map[string]any:
		is, ok := is.(map[string]any)
		if !ok {
			return []string{path}
		}
		for key := range was {
			if _, there := is[key]; !there {
				paths = append(paths, below1(path, key))
			} else {
				paths = append(paths, differences(below1(path, key), was[key], is[key])...)
			}
		}
		for key := range is {
			if _, there := was[key]; !there {
				paths = append(paths, below1(path, key))
			}
		}
		return paths
	case []any:
		is, ok := is.([]any)
		if !ok || len(is) != len(was) {
			paths = append(paths, path)
		}
		for i, one := range was {
			if other, there := counterpart(i, one, is); there {
				paths = append(paths, differences(path, one, other)...)
			}
		}
		return paths
	}
	if !alike(path, was, is) {
		return []string{path}
	}
	return nil
}

func below1(path, key string) string { return strings.TrimPrefix(path+"."+key, ".") }

// counterpart finds the item of a list that another list's item is compared with.
func counterpart(i int, one any, list []any) (other any, there bool) {
	object, ok := one.(map[string]any)
	if id := object["id"]; ok && id != nil {
		at := slices.IndexFunc(list, func(o any) bool { m, ok := o.(map[string]any); return ok && m["id"] == id })
		if at < 0 {
			return nil, false
		}
		return list[at], true
	}
	if i >= len(list) {
		return nil, false
	}
	return list[i], true
}

// alike tells whether two values are the same, or of a kind that no two runs have in common.
func alike(path string, was, is any) bool {
	if was == is {
		return true
	}
	switch was := was.(type) {
	case float64:
		_, ok := is.(float64)
		return ok && (strings.HasSuffix(path, "resourceVersion") || strings.Contains(path, "resources.capacity."))
	case string:
		is, ok := is.(string)
		for _, kind := range []func(string) error{
			func(s string) error { _, err := time.Parse(time.RFC3339, s); return err },
			uuid.Validate,
			func(s string) error { _, err := netip.ParseAddr(s); return err },
		} {
			if ok && kind(was) == nil && kind(is) == nil {
				return true
			}
		}
		a, errA := netip.ParseAddrPort(was)
		b, errB := netip.ParseAddrPort(is)
		return ok && errA == nil && errB == nil && a.Port() == b.Port()
	}
	return false
}

// intended are the differences that the page lists, by the names of exchanges. needed forgets those that a test has seen.
type intended map[string][]string

// readIntended reads the table of the page.
func readIntended(t *testing.T) intended {
	t.Helper()
	list, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	found := intended{}
	for _, p := range list {
		if p.Name != v1beta1Page {
			continue
		}
		for _, table := range p.Tables() {
			if table.Heading != "What is different from 2014" || table.Header[0] != "exchange" {
				continue
			}
			for _, row := range table.Rows {
				if len(row) != 4 || row[3] == "" {
					t.Fatalf("%s: a row without a reason: %q", v1beta1Page, row)
				}
				for exchange := range strings.SplitSeq(row[0], ", ") {
					for part := range strings.SplitSeq(row[2], ", ") {
						found[exchange] = append(found[exchange], strings.Trim(part, "`"))
					}
				}
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no table of differences", v1beta1Page)
	}
	return found
}

// unintended returns the differences of an exchange that the page does not list.
func (i intended) unintended(exchange string, parts []string) (left []string) {
	for _, part := range parts {
		if !slices.ContainsFunc(i[exchange], func(row string) bool { return covers(row, part) }) {
			left = append(left, part)
		}
	}
	return left
}

// needless returns what the page lists for an exchange that does not differ in it.
func (i intended) needless(exchange string, parts []string) (rows []string) {
	for _, row := range i[exchange] {
		if !slices.ContainsFunc(parts, func(part string) bool { return covers(row, part) }) {
			rows = append(rows, row)
		}
	}
	return rows
}

// covers tells whether a row's path is a path, or its end.
func covers(row, part string) bool { return part == row || strings.HasSuffix(part, "."+row) }

// replays sends what was recorded and compares the answers. Nothing may have called the gateway before.
func replays(t *testing.T, c v1beta1Client) {
	files, err := filepath.Glob(filepath.Join(v1beta1Recordings, "http/*.txt"))
	if err != nil || len(files) < 37 {
		t.Fatalf("there are %d recordings: %v", len(files), err)
	}
	listed := readIntended(t)
	seen := map[string]bool{}
	for _, file := range files {
		e := readExchange(t, file, c.node)
		t.Run(e.name, func(t *testing.T) {
			if e.number() == "30" {
				for part, difference := range watched(t, c, e) {
					check(t, listed, e.number()+" "+part, difference)
					seen[e.number()+" "+part] = true
				}
				return
			}
			prepare(t, c, &e)
			seen[e.number()] = true
			check(t, listed, e.number(), replay(t, c, e, listed))
		})
	}
	for exchange := range listed {
		if !seen[exchange] {
			t.Errorf("%s lists differences of %s, which is no exchange", v1beta1Page, exchange)
		}
	}
}

func check(t *testing.T, listed intended, exchange string, parts []string) {
	t.Helper()
	if left := listed.unintended(exchange, parts); len(left) > 0 {
		t.Errorf("it differs in %q, which %s does not list for %s", left, v1beta1Page, exchange)
	}
	if rows := listed.needless(exchange, parts); len(rows) > 0 {
		t.Errorf("%s lists differences of %s that there are not: %q", v1beta1Page, exchange, rows)
	}
}

// replay sends a request and returns in what the answer differs. What is only read is read until it is as it should be: then the
// cluster has done what was recorded.
func replay(t *testing.T, c v1beta1Client, e exchange, listed intended) (parts []string) {
	t.Helper()
	var last v1beta1Answer
	try := func(ctx context.Context) (err error) {
		if last, err = c.send(ctx, e.method, e.path, e.body); err != nil {
			return err
		}
		parts = differs(e.answer, last)
		if wrong := append(listed.unintended(e.number(), parts), listed.needless(e.number(), parts)...); len(wrong) > 0 {
			return fmt.Errorf("%q differ", wrong)
		}
		return nil
	}
	var err error
	if e.method == http.MethodGet {
		err = scratch.Until(t.Context(), 20*time.Second, try)
	} else {
		err = try(t.Context())
	}
	if err != nil {
		t.Errorf("%s %s: %v\nrecorded: %d %s\ngot: %d %s", e.method, e.path, err, e.answer.code, e.answer.body, last.code, last.body)
	}
	return parts
}

// prepare waits for what had happened before an exchange, and does what was not recorded.
func prepare(t *testing.T, c v1beta1Client, e *exchange) {
	t.Helper()
	switch e.number() {
	case "22": // the pod was gone at once, and the replication controller by the next recordings of it
		background := metav1.DeletePropagationBackground
		if err := c.Kube.CoreV1().ReplicationControllers("default").Delete(t.Context(), "rediscontroller", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			t.Error(err)
		}
		awaitNoPods(t, c.Cluster, "default")
	case "31", "32": // of a service that the recordings do not create
		if e.number() == "31" {
			a, err := c.send(t.Context(), http.MethodPost, "/api/v1beta1/services", `{"id":"svc","port":80,"selector":{"a":"b"}}`)
			if err != nil || a.code != http.StatusOK {
				t.Fatalf("%d %s %v", a.code, a.body, err)
			}
		}
		s, err := c.Kube.CoreV1().Services("default").Get(t.Context(), "svc", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		version := s.ResourceVersion
		if e.number() == "32" {
			version = "1"
		}
		e.body = strings.Replace(e.body, `"resourceVersion":26`, `"resourceVersion":`+version, 1)
	}
}

// awaitNoPods waits until a namespace has no pods.
func awaitNoPods(t *testing.T, c *scratch.Cluster, namespace string) {
	t.Helper()
	err := scratch.Until(t.Context(), 45*time.Second, func(ctx context.Context) error {
		pods, err := c.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("namespace %s has %d pods, such as %s", namespace, len(pods.Items), pods.Items[0].Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// watched creates and deletes a pod while it watches, and returns in what the events that were recorded differ, by their types.
func watched(t *testing.T, c v1beta1Client, e exchange) map[string][]string {
	t.Helper()
	ctx := within(t, time.Minute)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/api/v1beta1/watch/pods?labels=name%3Dredis", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != e.answer.code || !slices.Equal(response.TransferEncoding, []string{"chunked"}) {
		t.Errorf("the watch is answered by %s %q", response.Status, response.TransferEncoding)
	}
	body, err := os.ReadFile(filepath.Join(v1beta1Examples, "redis.json"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.send(ctx, http.MethodPost, "/api/v1beta1/pods", string(body))
	if err != nil || a.code != http.StatusOK {
		t.Fatalf("%d %s %v", a.code, a.body, err)
	}
	events := json.NewDecoder(response.Body)
	parts := map[string][]string{}
	for recorded := json.NewDecoder(bytes.NewReader([]byte(e.answer.body))); len(parts) < 3; {
		var was map[string]any
		if err := recorded.Decode(&was); err != nil {
			t.Fatal(err)
		}
		kind := was["type"].(string)
		if kind == "DELETED" {
			if a, err := c.send(ctx, http.MethodDelete, "/api/v1beta1/pods/redis", ""); err != nil || a.code != http.StatusOK {
				t.Fatalf("%d %s %v", a.code, a.body, err)
			}
		}
		parts[kind] = differences("", was["object"], nextEvent(t, events, kind))
	}
	return parts
}

// nextEvent returns the object of the next event of a type; of a modified pod the first that has a host.
func nextEvent(t *testing.T, events *json.Decoder, kind string) any {
	t.Helper()
	for {
		var is struct {
			Type   string
			Object map[string]any
		}
		if err := events.Decode(&is); err != nil {
			t.Fatalf("no event %s: %v", kind, err)
		}
		desired, _ := is.Object["desiredState"].(map[string]any)
		if is.Type == kind && (kind != "MODIFIED" || desired["host"] != nil) {
			return is.Object
		}
	}
}

func TestDifferencesAreFound(t *testing.T) {
	const was = `{"id":"a","at":"2014-10-22T12:00:00Z","uid":"a217b55b-ebc7-11f1-99b0-fa49ee168e65","ip":"10.1.1.1","to":["10.1.1.1:80"],"resourceVersion":1,
		"n":1,"items":[{"id":"x","v":1}],"list":[1,2],"none":null}`
	answer := func(body string) v1beta1Answer { return v1beta1Answer{code: http.StatusOK, body: body} }
	for name, test := range map[string]struct {
		is   string
		want []string
	}{
		"what no two runs have in common": {`{"id":"a","at":"2026-01-01T00:00:00Z","uid":"00000000-0000-0000-0000-000000000000","ip":"10.2.2.2","to":["10.2.2.2:80"],
			"resourceVersion":2,"n":1,"items":[{"id":"x","v":1}],"list":[1,2],"none":null}`, nil},
		"all else": {`{"id":"b","at":null,"uid":"x","ip":"y","to":["10.2.2.2:81"],"resourceVersion":"2","n":2,"items":[{"id":"y","v":1},{"id":"x","v":2,"w":3}],
			"list":[1],"none":0}`, []string{"at", "id", "ip", "items", "items.v", "items.w", "list", "n", "none", "resourceVersion", "to", "uid"}},
		"no JSON": {"text", []string{"body"}},
	} {
		got := differs(answer(was), answer(test.is))
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	listed := intended{"04": {"annotations", "code"}}
	if left := listed.unintended("04", []string{"items.annotations", "other", "xcode"}); !slices.Equal(left, []string{"other", "xcode"}) {
		t.Errorf("%q are taken for not listed", left)
	}
	if rows := listed.needless("04", []string{"items.annotations"}); !slices.Equal(rows, []string{"code"}) {
		t.Errorf("%q are taken for needless", rows)
	}
}
