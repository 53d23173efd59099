package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/k8sm/k8sm/api/heldport"
)

func testConfig(dir string) Config {
	return Config{Dir: dir, Retention: 7 * 24 * time.Hour, MinFree: 1 << 20, Memory: 64 << 20}
}

func openTest(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(testConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeTest(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// line is an entry of a pod.
func line(namespace, pod, text string, at time.Time) Entry {
	return Entry{Time: at.UnixNano(), Stream: 2, Fields: []Field{{Name: "namespace", Value: namespace}, {Name: "pod", Value: pod}, {Name: Message, Value: text}}}
}

func add(t *testing.T, s *Store, tenant Tenant, entries ...Entry) {
	t.Helper()
	for i := range entries {
		entries[i].Tenant = tenant
	}
	if err := s.Add(entries); err != nil {
		t.Fatal(err)
	}
}

// messages returns the messages of a query's answer.
func messages(t *testing.T, s *Store, tenant Tenant, labels map[string]string, query string) []string {
	t.Helper()
	var all []string
	err := s.Query(t.Context(), tenant, labels, query, func(b Block) error {
		values := b.Column(Message)
		for i := range b.Len() {
			if values == nil {
				all = append(all, "")
			} else {
				all = append(all, strings.Clone(values[i]))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEntriesAreKeptByteForByteAcrossARestart(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	want := []string{"hello", "", "\x00\x1f\t\r\\\"\xff\xfe", `{"namespace":"other","_msg":"forged"}`, strings.Repeat("long ", 50_000), "\x1b[31mred\x1b[0m", "two\nlines "}
	for i, text := range want {
		add(t, s, Pods, line("shop", "web", text, time.Now().Add(time.Duration(i)*time.Second)))
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, messages(t, s, Pods, nil, "* | sort by (_time)")); diff != "" {
		t.Error(diff)
	}
	closeTest(t, s)
	s = openTest(t, dir)
	defer closeTest(t, s)
	if diff := cmp.Diff(want, messages(t, s, Pods, nil, "* | sort by (_time)")); diff != "" {
		t.Errorf("after the restart: %s", diff)
	}
	if n := len(messages(t, s, Pods, map[string]string{"namespace": "other"}, "*")); n > 0 {
		t.Errorf("%d entries are in a namespace that nobody wrote", n)
	}
}

func TestSecondStoreOfADirectoryIsRefused(t *testing.T) {
	s := openTest(t, t.TempDir())
	defer closeTest(t, s)
	if _, err := open(s.cfg); err == nil || !strings.Contains(err.Error(), "another process has it") {
		t.Errorf("error is %v", err)
	}
	if _, err := Open(testConfig(t.TempDir())); err == nil {
		t.Error("a process has two stores")
	}
}

func TestEntryOfAnyTimeIsKept(t *testing.T) {
	s := openTest(t, t.TempDir())
	defer closeTest(t, s)
	for _, at := range []time.Time{time.Unix(0, 0), time.Now().Add(-30 * 24 * time.Hour), time.Now(), time.Now().Add(1000 * time.Hour)} {
		add(t, s, Pods, line("shop", "web", "x", at))
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := len(messages(t, s, Pods, nil, "*")); n != 4 {
		t.Errorf("%d of 4 entries are there", n)
	}
}

func TestDamagedDayIsMovedAsideAndTheOthersAreRead(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	yesterday := time.Now().Add(-24 * time.Hour)
	add(t, s, Pods, line("shop", "web", "yesterday", yesterday), line("shop", "web", "today", time.Now()))
	closeTest(t, s)
	day := filepath.Join(dir, "data", "partitions", yesterday.UTC().Format("20060102"), "datadb")
	for _, damage := range []string{"metadata.json", "metaindex.bin"} {
		files, err := filepath.Glob(filepath.Join(day, "*", damage))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s in %s: %v", damage, day, err)
		}
		if err := os.Truncate(files[0], 3); err != nil {
			t.Fatal(err)
		}
		s = openTest(t, dir)
		if diff := cmp.Diff([]string{"today"}, messages(t, s, Pods, nil, "*")); diff != "" {
			t.Error(diff)
		}
		aside, err := filepath.Glob(filepath.Join(dir, "damaged", "*"))
		if err != nil || len(aside) != 1 {
			t.Errorf("moved aside are %v, %v", aside, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "damaged")); err != nil {
			t.Fatal(err)
		}
		add(t, s, Pods, line("shop", "web", "yesterday", yesterday)) // the day is written anew
		closeTest(t, s)
	}
}

func TestDayThatEndsTheProcessTwiceIsMovedAside(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	add(t, s, Pods, line("shop", "web", "today", time.Now()))
	closeTest(t, s)
	name := time.Now().UTC().Format("20060102")
	for i, want := range []int{1, 1, 0} { // as a full disk, the first time, the second time
		text := "FATAL: cannot read block from /x/partitions/" + name + "/datadb/1/values.bin: checksum"
		if i == 0 {
			text = "FATAL: cannot write /x/partitions/" + name + "/datadb/1/values.bin: no space left on device"
		}
		s.noteDamage(text)
		s = openTest(t, dir)
		if n := len(messages(t, s, Pods, nil, "*")); n != want {
			t.Errorf("after %d notes, there are %d entries", i, n)
		}
		closeTest(t, s)
	}
}

func TestFullDiskIsAnErrorAndNothingIsLost(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MinFree = 1 << 60
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, s)
	if err := s.Add([]Entry{line("a", "b", "c", time.Now())}); !errors.Is(err, ErrFull) {
		t.Errorf("error is %v", err)
	}
	if err := s.Writable(); !errors.Is(err, ErrFull) {
		t.Errorf("it is writable: %v", err)
	}
}

func TestTenantsAreApart(t *testing.T) {
	s := openTest(t, t.TempDir())
	defer closeTest(t, s)
	for _, tenant := range []Tenant{Pods, Components, Frameworks} {
		add(t, s, tenant, line("a", "b", fmt.Sprint(tenant), time.Now()))
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []Tenant{Pods, Components, Frameworks} {
		if diff := cmp.Diff([]string{fmt.Sprint(tenant)}, messages(t, s, tenant, nil, "*")); diff != "" {
			t.Error(diff)
		}
	}
}

// TestMain makes this test binary a store when a test starts it as one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("K8SM_TEST_STORE"); dir != "" {
		if err := playStore(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// playStore adds entries until it is killed. It prints the number of the last one that is on disk, and marks each in between.
func playStore(dir string) error {
	s, err := Open(testConfig(dir))
	if err != nil {
		return err
	}
	next := 0
	err = s.Query(context.Background(), Pods, nil, "*", func(b Block) error { next += b.Len(); return nil })
	if err != nil {
		return err
	}
	go func() {
		for {
			begin := next
			batch := make([]Entry, 0, 100)
			for i := range cap(batch) {
				pod := strconv.Itoa((next + i) / 1000) // new streams now and then
				batch = append(batch, line("shop", pod, strconv.Itoa(next+i), time.Now()))
			}
			if err := s.Add(batch); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			next = begin + len(batch)
			fmt.Println("added", next)
		}
	}()
	for {
		time.Sleep(50 * time.Millisecond)
		fmt.Println("sync")
		if err := s.Sync(); err != nil {
			return err
		}
		fmt.Println("synced")
	}
}

func TestWhatSyncHasWrittenSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	for range 4 {
		safe := killStore(t, dir)
		s := openTest(t, dir)
		found := map[string]int{}
		for _, text := range messages(t, s, Pods, map[string]string{"namespace": "shop"}, "*") {
			found[text]++
		}
		for i := range safe {
			if n := found[strconv.Itoa(i)]; n != 1 {
				t.Fatalf("entry %d of %d is there %d times", i, safe, n)
			}
		}
		closeTest(t, s)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// killStore runs a store, kills it after some syncs, and returns how many entries were added before the last sync began.
func killStore(t *testing.T, dir string) int {
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
	added, before, safe, syncs := 0, 0, 0, 0
	for lines := bufio.NewScanner(out); lines.Scan() && syncs < 5; {
		switch text := lines.Text(); text {
		case "sync":
			before = added
		case "synced":
			safe = before
			syncs++
		default:
			if _, err := fmt.Sscanf(text, "added %d", &added); err != nil {
				t.Fatal(text)
			}
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	if safe == 0 {
		t.Fatal("nothing was written")
	}
	return safe
}

func TestOthersSendToTheirOwnPart(t *testing.T) {
	s := openTest(t, t.TempDir())
	defer closeTest(t, s)
	busy, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", heldport.OfTest(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StartIngest(busy.Addr().String()); err == nil || !strings.Contains(err.Error(), "cannot take syslog messages at") {
		t.Errorf("a busy port: %v", err)
	}
	busy.Close()
	if err := s.StartIngest(busy.Addr().String()); err != nil {
		t.Fatal(err)
	}
	send := func(path, contentType, body string) int {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("AccountID", "0")
		r.Header.Set("ProjectID", "0")
		w := httptest.NewRecorder()
		s.Ingest(w, r)
		return w.Code
	}
	now := time.Now()
	for path, body := range map[string]string{
		"/insert/jsonline?_stream_fields=app&_msg_field=m&_time_field=t&AccountID=0": fmt.Sprintf(`{"t":%q,"m":"by lines","app":"spark","namespace":"shop"}`+"\n", now.Format(time.RFC3339Nano)),
		"/insert/elasticsearch/_bulk?_msg_field=m&_time_field=t":                     fmt.Sprintf("{\"create\":{}}\n"+`{"t":%q,"m":"by bulk"}`+"\n", now.Format(time.RFC3339Nano)),
		"/insert/loki/api/v1/push": fmt.Sprintf(`{"streams":[{"stream":{"app":"spark"},"values":[["%d","by loki"]]}]}`, now.UnixNano()),
	} {
		if code := send(path, "application/json", body); code >= 300 {
			t.Errorf("%s: %d", path, code)
		}
	}
	otlp, err := proto.Marshal(&collectorpb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{{
		TimeUnixNano: uint64(now.UnixNano()), Body: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: "by otlp"}},
	}}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if code := send("/insert/opentelemetry/v1/logs", "application/x-protobuf", string(otlp)); code >= 300 {
		t.Errorf("OTLP: %d", code)
	}
	for _, path := range []string{"/insert/native", "/insert/multitenant/native", "/internal/insert", "/insert/journald/upload", "/delete/run_task", "/select/logsql/query"} {
		if code := send(path, "application/json", "{}"); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
	conn, err := net.Dial("tcp", busy.Addr().String())
	for deadline := time.Now().Add(30 * time.Second); err != nil; conn, err = net.Dial("tcp", busy.Addr().String()) { // it begins to listen
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := fmt.Fprintf(conn, "<165>1 %s host app - - - by syslog\n", now.Format(time.RFC3339)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	want := map[string]bool{"by lines": true, "by bulk": true, "by loki": true, "by otlp": true, "by syslog": true}
	for deadline := time.Now().Add(30 * time.Second); len(want) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the store lacks %v", want)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		for _, text := range messages(t, s, Frameworks, nil, "*") {
			delete(want, text)
		}
	}
	if got := messages(t, s, Pods, nil, "*"); len(got) > 0 {
		t.Errorf("among the pods' entries are %q", got)
	}
}

func TestQueryThatTakesTooMuchMemoryIsEnded(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, s)
	text := strings.Repeat("x", 2000)
	for i := range 40 {
		entries := make([]Entry, 1000)
		for j := range entries {
			entries[j] = line("shop", "web", fmt.Sprint(i, " ", j, text), time.Now())
		}
		if err := s.Add(entries); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	debug.FreeOSMemory()
	s.running.limit = heap() + 40<<20 // all messages are 80 MB
	const greedy = "_msg:in(* | fields _msg) | stats count() as n"
	err = s.Query(t.Context(), Pods, nil, greedy, func(Block) error { return nil })
	if !errors.Is(err, ErrMemory) {
		t.Errorf("error is %v", err)
	}
	w := httptest.NewRecorder()
	s.Select(w, httptest.NewRequest(http.MethodGet, "/?"+url.Values{"query": {greedy}}.Encode(), nil), "/select/logsql/query", Pods, nil)
	if !strings.Contains(w.Body.String(), ErrMemory.Error()) {
		t.Errorf("by HTTP: %d %.300s", w.Code, w.Body)
	}
	debug.FreeOSMemory()
	if got := messages(t, s, Pods, nil, "* | limit 3"); len(got) != 3 {
		t.Errorf("afterwards, a query finds %d lines", len(got))
	}
}
