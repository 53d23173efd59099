package receive

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

// onNode are Places with one node. Pods with a name that begins with "late" are deferred, and those of another namespace than shop are
// refused.
type onNode struct{}

func (onNode) Place(_ context.Context, node, namespace, pod, _ string) Place {
	switch {
	case node != "a" || namespace != "shop":
		return Place{Verdict: Refused, Why: "pod " + namespace + "/" + pod + " is not on node " + node}
	case strings.HasPrefix(pod, "late"):
		return Place{Verdict: Deferred}
	}
	return Place{Labels: map[string]string{"app": "web", strings.Repeat("x", 200) + "/y": "too long"}, Owner: "ReplicaSet/web-1"}
}

// client is a node.
type client struct {
	url, session string
}

func (c *client) call(method, path string, body []byte, answer any) (int, error) {
	request, err := http.NewRequest(method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, errors.New(string(text))
	}
	return http.StatusOK, json.Unmarshal(text, answer)
}

func (c *client) open() error {
	var s logs.Session
	_, err := c.call(http.MethodPost, "", nil, &s)
	c.session = s.ID
	return err
}

func (c *client) send(number int64, batch []byte) (r logs.Receipt, code int, err error) {
	code, err = c.call(http.MethodPost, fmt.Sprintf("/%s/batches/%d", c.session, number), batch, &r)
	return r, code, err
}

func (c *client) held(questions ...logs.Question) (logs.Answers, error) {
	var a logs.Answers
	body, err := json.Marshal(logs.Questions{Files: questions})
	if err != nil {
		return a, err
	}
	_, err = c.call(http.MethodPost, "/"+c.session+"/held", body, &a)
	return a, err
}

// serveTest serves a store for node a, and returns a client with a session.
func serveTest(t *testing.T, rate int) (*client, *store.Store) {
	t.Helper()
	entries, err := store.Open(store.Config{Dir: t.TempDir(), Retention: 7 * 24 * time.Hour, MinFree: 1 << 20, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s := New(entries, onNode{}, rate)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.Serve(w, r, "a") }))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := errors.Join(<-ended, entries.Close()); err != nil {
			t.Error(err)
		}
	})
	c := &client{url: server.URL + logs.PathSessions}
	if err := c.open(); err != nil {
		t.Fatal(err)
	}
	return c, entries
}

func source(pod string) logs.Source {
	return logs.Source{Namespace: "shop", Pod: pod, FileID: logs.FileID{UID: "uid-" + pod, Container: "app", File: "1-2"}, Number: 1}
}

func batchOf(s logs.Source, entries ...logs.Entry) []byte {
	w := logs.NewWriter()
	for i := range entries {
		w.Add(s, &entries[i])
	}
	return w.Batch()
}

func entry(begin, end int64, text string) logs.Entry {
	return logs.Entry{Time: time.Now().UnixNano(), Stream: logs.Stdout, Offset: begin, End: end, Message: []byte(text)}
}

func TestBatchIsTakenOnceInOrderAndToldAgain(t *testing.T) {
	c, entries := serveTest(t, 0)
	first, second := batchOf(source("web"), entry(0, 10, "one")), batchOf(source("web"), entry(10, 20, "two"))
	for _, step := range []struct {
		number int64
		batch  []byte
		code   int
	}{{1, first, 200}, {1, first, 200}, {3, second, 409}, {2, second, 200}, {1, first, 409}, {2, second, 200}} {
		if _, code, _ := c.send(step.number, step.batch); code != step.code {
			t.Errorf("batch %d: code %d, want %d", step.number, code, step.code)
		}
	}
	old := *c
	if err := c.open(); err != nil {
		t.Fatal(err)
	}
	if _, code, _ := old.send(3, second); code != http.StatusConflict {
		t.Errorf("a batch of an ended session: code %d", code)
	}
	a, err := c.held(logs.Question{Source: source("web")}, logs.Question{Source: source("other")}, logs.Question{Source: source("web"), From: 20})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(logs.Answers{Files: []logs.Answer{{Held: []logs.Range{{End: 20}}}, {}, {}}}, a); diff != "" {
		t.Error(diff)
	}
	if n := count(t, entries, "*"); n != 2 {
		t.Errorf("%d entries are there", n)
	}
}

// count counts the entries of a query's answer.
func count(t *testing.T, entries *store.Store, query string) (n int) {
	t.Helper()
	if err := entries.Query(t.Context(), store.Pods, nil, query, func(b store.Block) error { n += b.Len(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBatchBecomesDurable(t *testing.T) {
	c, _ := serveTest(t, 0)
	if _, _, err := c.send(1, batchOf(source("web"), entry(0, 10, "one"))); err != nil {
		t.Fatal(err)
	}
	for r := (logs.Receipt{}); r.Durable < 1; time.Sleep(10 * time.Millisecond) {
		if _, err := c.call(http.MethodGet, "/"+c.session, nil, &r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEntriesOfOtherNodesPodsAreNotTaken(t *testing.T) {
	c, entries := serveTest(t, 0)
	w := logs.NewWriter()
	e := entry(0, 10, "x")
	foreign := source("web")
	foreign.Namespace = "kube-system"
	for _, s := range []logs.Source{foreign, source("late"), source("web")} {
		w.Add(s, &e)
		w.Add(s, &e)
	}
	r, _, err := c.send(1, w.Batch())
	if err != nil {
		t.Fatal(err)
	}
	want := logs.Receipt{
		Refused:  []logs.Refusal{{FileID: foreign.FileID, Why: "pod kube-system/web is not on node a"}},
		Deferred: []logs.FileID{source("late").FileID},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	if _, err := c.held(); err != nil { // makes it visible
		t.Fatal(err)
	}
	if n := count(t, entries, "*"); n != 2 {
		t.Errorf("%d entries are there", n)
	}
	if n := count(t, entries, `label.app:=web owner:="ReplicaSet/web-1"`); n != 2 {
		t.Errorf("%d entries have the pod's labels and owner", n)
	}
}

func TestComponentsAreTakenFromAnyNodeAndKeptApart(t *testing.T) {
	c, entries := serveTest(t, 0)
	kubelet := logs.Source{FileID: logs.FileID{Container: "kubelet", File: "1"}}
	if r, _, err := c.send(1, batchOf(kubelet, entry(0, 10, "Starting kubelet"))); err != nil || r.Refused != nil {
		t.Fatal(r, err)
	}
	a, err := c.held(logs.Question{Source: kubelet})
	if err != nil || !slices.Equal(a.Files[0].Held, []logs.Range{{End: 10}}) {
		t.Error(a, err)
	}
	if n := count(t, entries, "*"); n != 0 {
		t.Errorf("%d entries are among those of pods", n)
	}
	n := 0
	err = entries.Query(t.Context(), store.Components, map[string]string{FieldComponent: "kubelet", FieldNode: "a"}, "*", func(b store.Block) error {
		n += b.Len()
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("%d entries of the component, %v", n, err)
	}
}

// A node must not be able to write into the cluster's audit log, or to make up events.
func TestNodeSendsNothingUnderTheNamesOfTheControlPlane(t *testing.T) {
	c, entries := serveTest(t, 0)
	w := logs.NewWriter()
	e := entry(0, 10, "forged")
	names := []string{"audit", "events", "km", "Kubelet", "kubelet ", "../audit", "kubelet\x00audit", `kubelet",component="audit`}
	for _, name := range names {
		w.Add(logs.Source{FileID: logs.FileID{Container: name, File: "1"}}, &e)
	}
	r, _, err := c.send(1, w.Batch())
	if err != nil || len(r.Refused) != len(names) {
		t.Errorf("refused is %+v, %v", r, err)
	}
	if _, err := c.held(); err != nil { // makes visible what was taken
		t.Fatal(err)
	}
	err = entries.Query(t.Context(), store.Components, nil, "*", func(b store.Block) error {
		t.Errorf("the store took %d entries", b.Len())
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The node comes from the certificate and the pod from what was checked, whatever else a batch has.
func TestCraftedBatchForgesNothing(t *testing.T) {
	c, entries := serveTest(t, 0)
	const source = `"namespace":"shop","pod":"web","uid":"uid-web","container":"app","restart":0,"file":"1-2","number":1`
	const good = `{"source":{` + source + `}}`
	const line = `{"time":1767323045000000006,"stream":"stdout","offset":0,"end":10,"message":"x"}`
	number := int64(1)
	for i, batch := range [][]string{
		{`{"source":{` + source + `,"namespace":"secret"}}`, line}, {`{"source":{"namespace":"secret",` + source + `}}`, line}, {`{"source":{` + source + `,"Namespace":"secret","NAMESPACE":"secret"}}`, line},
		{`{"source":{` + source + `,"node":"b","tenant":2,"AccountID":1}}`, line}, {`{"source":{` + source + `},"source":{"namespace":"secret","pod":"web","uid":"uid-web","container":"app","file":"1"}}`, line},
		{good, `{"time":1,"offset":0,"end":10,"message":"x","namespace":"secret","node":"b","pod":"vault","_stream":"{namespace=\"secret\"}","fields":{"namespace":"secret"},"label.app":"forged"}`},
		{good, `{"source":{"namespace":"secret"},"time":1,"offset":0,"end":10,"message":"x"}`}, {good, `{"time":1,"offset":0,"end":10,"message":"x\n{\"source\":{\"namespace\":\"secret\"}}\n"}`},
		{good, `{"time":1,"offset":0,"end":10,"message":"x","message":"y","base64":"eg=="}`}, {good, `{"time":1,"offset":0,"end":10,"message":{"namespace":"secret"}}`}, {good, `{"time":1,"stream":"stdout\",namespace=\"secret","offset":0,"end":10,"message":"x"}`},
		{good, `{"time":1,"offset":0,"end":10,"lost":{"lines":1,"bytes":10,"why":"x\nnamespace=secret","namespace":"secret"}}`}, {`{"source":{"namespace":"secret\u0000shop","pod":"web","uid":"uid-web","container":"app","file":"1"}}`, line},
		{`{"source":{"namespace":"","pod":"web","uid":"uid-web","container":"app","file":"1"}}`, line}, {`{"source":null}`, line}, {`{"source":[]}`, line}, {line}, {good, good + line}, {good, line + line}, {"[" + good + "," + line + "]"},
	} {
		if r, code, err := c.send(number, gzipped(t, strings.Join(batch, "\n")+"\n")); err == nil {
			number++
			t.Logf("batch %d is taken, %+v", i, r)
		} else if code != http.StatusBadRequest {
			t.Errorf("batch %d: %d %v", i, code, err)
		}
	}
	if number == 1 {
		t.Error("nothing was taken: the test sees nothing")
	}
	if _, err := c.held(); err != nil { // makes visible what was taken
		t.Fatal(err)
	}
	for _, tenant := range []store.Tenant{store.Pods, store.Components, store.Frameworks} {
		err := entries.Query(t.Context(), tenant, nil, `!(namespace:=shop node:=a pod:=web uid:=uid-web container:=app label.app:=web)`, func(b store.Block) error {
			b.Columns(func(name string, values []string) bool { t.Errorf("%s is %q", name, values); return true })
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func gzipped(t *testing.T, text string) []byte {
	t.Helper()
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return body.Bytes()
}

func TestHolesAreNotHeld(t *testing.T) {
	c, _ := serveTest(t, 0)
	e := entry(100, 200, "joined")
	e.Holes = []logs.Range{{Begin: 120, End: 130}, {Begin: 140, End: 150}}
	if _, _, err := c.send(1, batchOf(source("web"), e)); err != nil {
		t.Fatal(err)
	}
	a, err := c.held(logs.Question{Source: source("web"), From: 125})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]logs.Range{{Begin: 130, End: 140}, {Begin: 150, End: 200}}, a.Files[0].Held); diff != "" {
		t.Error(diff)
	}
}

func TestManyRangesAreToldInParts(t *testing.T) {
	c, _ := serveTest(t, 0)
	var all []logs.Entry
	for i := range int64(logs.MaxRanges + 5) {
		all = append(all, entry(i*10, i*10+5, "x"))
	}
	if _, _, err := c.send(1, batchOf(source("web"), all...)); err != nil {
		t.Fatal(err)
	}
	a, err := c.held(logs.Question{Source: source("web")})
	if err != nil {
		t.Fatal(err)
	}
	f := a.Files[0]
	if len(f.Held) != logs.MaxRanges || f.Until != f.Held[logs.MaxRanges-1].End {
		t.Fatalf("%d ranges until %d", len(f.Held), f.Until)
	}
	if a, err = c.held(logs.Question{Source: source("web"), From: f.Until}); err != nil || len(a.Files[0].Held) != 5 || a.Files[0].Until != 0 {
		t.Errorf("the rest is %+v, %v", a, err)
	}
}

func TestNamespaceThatWritesTooMuchIsToldSo(t *testing.T) {
	c, entries := serveTest(t, 1)
	var all []logs.Entry
	for i := range int64(burst + 40) {
		all = append(all, entry(i*10, i*10+10, "x"))
	}
	if _, _, err := c.send(1, batchOf(source("web"), all...)); err != nil {
		t.Fatal(err)
	}
	a, err := c.held(logs.Question{Source: source("web")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]logs.Range{{End: (burst + 40) * 10}}, a.Files[0].Held); diff != "" {
		t.Errorf("dropped lines would be sent again: %s", diff)
	}
	if n := count(t, entries, "lost_lines:=40"); n != 1 || count(t, entries, "*") != burst+1 {
		t.Errorf("%d entries say that 40 lines are lost, of %d", n, count(t, entries, "*"))
	}
}

func TestWrongRequestsAreAnsweredAsTheProtocolSays(t *testing.T) {
	c, _ := serveTest(t, 0)
	s := "/" + c.session
	large := entry(0, 10, "")
	large.Message = bytes.Repeat([]byte("x"), maxMessage+1)
	many := make([]logs.Entry, 20)
	for i := range many {
		many[i] = entry(int64(i), int64(i)+1, strings.Repeat("y", maxMessage))
	}
	for _, r := range []struct {
		method, path string
		body         []byte
		code         int
	}{
		{"GET", "", nil, 400},
		{"DELETE", s, nil, 400},
		{"POST", s + "/batches/0", nil, 400},
		{"POST", s + "/batches/x", nil, 400},
		{"POST", s + "/batches/1", []byte("x"), 400},
		{"POST", s + "/batches/1", batchOf(source("web"), large), 400},
		{"POST", s + "/batches/1", batchOf(source("web"), many...), 413},
		{"POST", s + "/batches/1", bytes.Repeat([]byte("x"), maxCompressed+1), 400}, // no gzip
		{"POST", s + "/held", []byte("{"), 400},
		{"POST", "/x/held", []byte("{}"), 409},
		{"GET", "/x", nil, 409},
		{"POST", "/x/batches/1", nil, 409},
	} {
		var ignored any
		if code, err := c.call(r.method, r.path, r.body, &ignored); code != r.code || err == nil || len(err.Error()) < 5 {
			t.Errorf("%s %q: %d %v, want %d", r.method, r.path, code, err, r.code)
		}
	}
}

// TestMain makes this test binary a log store or a minion when a test starts it as one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("K8SM_TEST_MINION"); dir != "" {
		fmt.Fprintln(os.Stderr, playMinion(dir))
		os.Exit(1)
	}
	if dir := os.Getenv("K8SM_TEST_STORE"); dir != "" {
		fmt.Fprintln(os.Stderr, playServer(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func playServer(dir string) error {
	entries, err := store.Open(store.Config{Dir: dir, Retention: 7 * 24 * time.Hour, MinFree: 1 << 20, Memory: 64 << 20})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	s := New(entries, onNode{}, 0)
	go func() { _ = s.Run(context.Background()) }() // until the process is killed
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.Serve(w, r, "a") }))
}

// startServer starts a log store as a process.
func startServer(t *testing.T, dir string) (c *client, kill func()) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "K8SM_TEST_STORE="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() { // whoever calls it again waits until the process is gone, and its lock with it
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		kill()
		t.Fatal("the store does not start")
	}
	return &client{url: "http://" + lines.Text() + logs.PathSessions}, kill
}

// shipment is a node that ships files of numbered lines of 10 bytes.
type shipment struct {
	commit   map[string]int64 // by pod: what is on the store's disk
	sent     map[string]int64 // since the last start of the store
	furthest map[string]int64 // ever: the store may hold lines up to here that it has not acknowledged
}

// ship sends batches until it is enough, or the store does not answer any more.
func (s *shipment) ship(ctx context.Context, c *client, enough func() bool) error {
	if err := c.open(); err != nil {
		return err
	}
	holes := map[string][]logs.Range{}
	for pod, commit := range s.commit {
		a, err := c.held(logs.Question{Source: source(pod), From: commit})
		if err != nil {
			return err
		}
		if a.Files[0].Until != 0 {
			return errors.New("too many ranges for this test")
		}
		holes[pod] = a.Files[0].Held
		s.sent[pod] = commit
	}
	ends := map[int64]map[string]int64{}
	for number := int64(1); ctx.Err() == nil && !enough(); number++ {
		w := logs.NewWriter()
		for pod := range s.commit {
			for range rand.IntN(300) {
				begin := s.sent[pod]
				s.sent[pod] += 10
				if slices.ContainsFunc(holes[pod], func(r logs.Range) bool { return r.Begin <= begin && begin < r.End }) {
					continue
				}
				e := entry(begin, begin+10, strconv.FormatInt(begin, 10))
				w.Add(source(pod), &e)
			}
		}
		ends[number] = maps.Clone(s.sent)
		for pod, sent := range s.sent {
			s.furthest[pod] = max(s.furthest[pod], sent)
		}
		r, _, err := c.send(number, w.Batch())
		if err != nil {
			return err
		}
		if durable := ends[r.Durable]; durable != nil {
			maps.Copy(s.commit, durable)
		}
	}
	return nil
}

// goesOn reports whether something of each pod was committed since, and all that an earlier store may hold was sent again.
func (s *shipment) goesOn(before map[string]int64) bool {
	for pod, commit := range s.commit {
		if commit <= before[pod] || s.sent[pod] < s.furthest[pod] {
			return false
		}
	}
	return true
}

func TestLinesAreThereExactlyOnceAfterKills(t *testing.T) {
	dir := t.TempDir()
	s := &shipment{commit: map[string]int64{"one": 0, "two": 0, "three": 0}, sent: map[string]int64{}, furthest: map[string]int64{}}
	for range 5 {
		c, kill := startServer(t, dir)
		time.AfterFunc(300*time.Millisecond+rand.N(1500*time.Millisecond), kill)
		_ = s.ship(t.Context(), c, func() bool { return false }) // ends when the store is gone
		kill()
	}
	c, kill := startServer(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before := maps.Clone(s.commit)
	if err := s.ship(ctx, c, func() bool { return s.goesOn(before) }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.held(); err != nil {
		t.Fatal(err)
	}
	kill()
	entries, err := store.Open(store.Config{Dir: dir, Retention: 7 * 24 * time.Hour, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer entries.Close()
	for pod, end := range s.sent {
		found := map[string]int{}
		err := entries.Query(t.Context(), store.Pods, map[string]string{FieldPod: pod}, "*", func(b store.Block) error {
			for _, text := range b.Column(store.Message) {
				found[strings.Clone(text)]++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wrong := 0
		for at := int64(0); at < end; at += 10 {
			if found[strconv.FormatInt(at, 10)] != 1 {
				wrong++
			}
		}
		if wrong > 0 || len(found) != int(end/10) || s.commit[pod] <= before[pod] {
			t.Errorf("pod %s: %d of %d lines are not there exactly once, %d are there, %d bytes were committed, %d before the last start", pod, wrong, end/10, len(found),
				s.commit[pod], before[pod])
		}
	}
}
