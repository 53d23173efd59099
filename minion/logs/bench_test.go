package logs

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/logs"
)

// nullStore takes everything, and has it on disk at once.
type nullStore struct{ last, bytes int64 }

func (n *nullStore) Open(context.Context) (logs.Session, error) {
	return logs.Session{ID: "s", MaxMessage: 256 << 10, MaxBatch: 8 << 20}, nil
}

func (n *nullStore) Send(_ context.Context, _ string, number int64, batch []byte) (logs.Receipt, error) {
	n.last = number
	n.bytes += int64(len(batch))
	return logs.Receipt{Durable: number}, nil
}

func (n *nullStore) Durable(context.Context, string) (logs.Receipt, error) {
	return logs.Receipt{Durable: n.last}, nil
}

func (n *nullStore) Held(_ context.Context, _ string, q logs.Questions) (logs.Answers, error) {
	return logs.Answers{Files: make([]logs.Answer, len(q.Files))}, nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// writeLogs writes logs of so many pods, with so many lines of 200 bytes each.
func writeLogs(tb testing.TB, dir string, pods, lines int) {
	text := strings.Repeat("GET /shop/cart?item=4711 HTTP/1.1 200 ", 6)[:190]
	for pod := range pods {
		container := filepath.Join(dir, fmt.Sprintf("shop_web-%d_uid-%d", pod, pod), "app")
		if err := os.MkdirAll(container, 0o755); err != nil {
			tb.Fatal(err)
		}
		var b strings.Builder
		at := time.Date(2026, 1, 2, 3, 4, 5, pod, time.UTC)
		for i := range lines {
			at = at.Add(10 * time.Microsecond)
			fmt.Fprintf(&b, "%s stdout F %s %09d\n", at.Format(time.RFC3339Nano), text, i)
		}
		if err := os.WriteFile(filepath.Join(container, "0.log"), []byte(b.String()), 0o640); err != nil {
			tb.Fatal(err)
		}
	}
}

func newBenchShipping(tb testing.TB, dir string) *shipping {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	spool, err := newSpool(filepath.Join(dir, "logs"))
	if err != nil {
		tb.Fatal(err)
	}
	s, err := newShipping(Config{
		Logs: filepath.Join(dir, "pod-logs"), SpoolBytes: DefaultSpoolBytes, SpoolFiles: DefaultSpoolFiles, MinFreeBytes: 1,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: quiet,
	}, spool, 1, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// shipAll ships all there is, with a clock that does not wait.
func shipAll(tb testing.TB, s *shipping, store Store) {
	now := time.Now()
	if err := s.scan(now); err != nil {
		tb.Fatal(err)
	}
	for idle := 0; idle < 3; {
		s.keep(now)
		request, _ := s.next(now)
		if request == nil {
			now = now.Add(linger)
			idle++
			continue
		}
		idle = 0
		s.answer(request, request.send(tb.Context(), store), now)
	}
}

func BenchmarkLinesOf200Bytes(b *testing.B) {
	const pods, lines = 50, 4000
	for range b.N {
		b.StopTimer()
		dir := b.TempDir()
		writeLogs(b, filepath.Join(dir, "pod-logs"), pods, lines)
		s, store := newBenchShipping(b, dir), &nullStore{}
		b.StartTimer()
		before := cpuTime()
		shipAll(b, s, store)
		took := cpuTime() - before
		b.ReportMetric(pods*lines/took.Seconds(), "lines/cpu-s")
		b.ReportMetric(float64(store.bytes)/(pods*lines), "sent-B/line")
	}
}

// Memory depends neither on how much is to be sent nor on the store, and little on the number of files.
func TestMemoryIsBounded(t *testing.T) {
	const pods = 1000
	dir := t.TempDir()
	writeLogs(t, filepath.Join(dir, "pod-logs"), pods, 20)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newBenchShipping(t, dir)
	shipAll(t, s, &nullStore{})
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d files take %d KiB", pods, used>>10)
	if used > 8<<20 {
		t.Errorf("%d files take %d bytes", pods, used)
	}
	for c := range s.logs.all() {
		for _, f := range c.files {
			if !f.isSent() {
				t.Fatalf("%v is not sent: %d of %d", c.place, f.commit, f.size)
			}
		}
	}
}

// slowDisk is a store that takes everything and has nothing on disk.
type slowDisk struct{ nullStore }

func (slowDisk) Send(context.Context, string, int64, []byte) (logs.Receipt, error) {
	return logs.Receipt{}, nil
}

func (slowDisk) Durable(context.Context, string) (logs.Receipt, error) { return logs.Receipt{}, nil }

func TestWhatTheStoreHasTakenIsNotInMemory(t *testing.T) {
	dir := t.TempDir()
	writeLogs(t, filepath.Join(dir, "pod-logs"), 1, 30_000)
	s, store, now := newBenchShipping(t, dir), &slowDisk{}, time.Now()
	if err := s.scan(now); err != nil {
		t.Fatal(err)
	}
	for len(s.taken) < 5 {
		request, _ := s.next(now)
		if request == nil {
			now = now.Add(linger)
			continue
		}
		s.answer(request, request.send(t.Context(), store), now)
	}
	for _, b := range s.taken {
		if b.body != nil || len(b.marks) == 0 {
			t.Errorf("batch %d has %d bytes and %d marks", b.number, len(b.body), len(b.marks))
		}
	}
}

// A container that writes a lot does not keep the others waiting.
func TestQuietContainersDoNotWaitForALoudOne(t *testing.T) {
	dir := t.TempDir()
	writeLogs(t, filepath.Join(dir, "pod-logs"), 1, 30_000)
	s, store := newBenchShipping(t, dir), newFakeStore()
	now := time.Now()
	if err := s.scan(now); err != nil {
		t.Fatal(err)
	}
	for batches := 0; batches < 3; { // the loud one has had batches of its own
		request, _ := s.next(now)
		if request == nil {
			now = now.Add(linger)
			continue
		}
		if request.batch != nil {
			batches++
		}
		s.answer(request, request.send(t.Context(), store), now)
	}
	quiet := filepath.Join(dir, "pod-logs", "shop_quiet_uid-q", "app")
	if err := os.MkdirAll(quiet, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(quiet, "0.log"), []byte(logOf("out F hello")), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := s.scan(now); err != nil {
		t.Fatal(err)
	}
	for batches := 0; batches < 3; {
		request, _ := s.next(now)
		if request == nil {
			t.Fatal("there is nothing to send")
		}
		if request.batch != nil {
			batches++
		}
		s.answer(request, request.send(t.Context(), store), now)
	}
	for _, e := range store.all() {
		if e.source.UID == "uid-q" {
			return
		}
	}
	t.Error("after three batches nothing of the quiet container is there")
}
