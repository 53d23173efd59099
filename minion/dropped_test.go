package minion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	protocol "github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/minion/logs"
)

// messagesOf are those of the events on node a, in any order.
func messagesOf(t *testing.T, client *fake.Clientset) (messages []string) {
	t.Helper()
	list, err := client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Reason != "LogsDropped" || e.Type != corev1.EventTypeWarning || e.InvolvedObject.Kind != "Node" || e.InvolvedObject.Name != "a" || e.InvolvedObject.UID != "a" {
			t.Errorf("an event is %+v", e)
		}
		messages = append(messages, e.Message)
	}
	slices.Sort(messages)
	return messages
}

func TestDroppedLogsAreToldByFewEventsThatLeaveNothingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var down atomic.Bool
		down.Store(true)
		client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			return down.Load(), nil, errors.New("connection refused")
		})
		ctx, cancel := context.WithCancel(t.Context())
		d := newDroppedLogs("a", logrus.New())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx, client) }()
		const full = "the log store was away, and the node keeps no more of them"
		first := "Dropped 60 lines (600 bytes) of containers' logs, which the log store one will not have: " + full
		other := "Dropped lines (7 bytes) of containers' logs, which the log store two will not have: truncated"
		later := "Dropped 600 lines (6000 bytes) of containers' logs, which the log store one will not have: " + full
		for _, step := range []struct {
			what string
			add  int64 // lines a second, for a minute
			two  bool  // one loss of another store
			want []string
		}{
			{"the API server is away", 1, false, nil},
			{"it is back", 0, true, []string{first, other}},
			{"more is dropped soon afterwards", 10, false, []string{first, other}},
			{"five minutes have passed", 0, false, []string{first, other, later}},
		} {
			down.Store(step.what == "the API server is away")
			if step.two {
				d.Add("two", "truncated", 0, 7)
			}
			for range 60 {
				if step.add > 0 {
					d.Add("one", full, step.add, 10*step.add)
				}
				time.Sleep(time.Second)
			}
			if step.what == "five minutes have passed" {
				time.Sleep(droppedInterval)
			}
			synctest.Wait()
			want := slices.Sorted(slices.Values(step.want))
			if diff := cmp.Diff(want, messagesOf(t, client)); diff != "" {
				t.Errorf("%s: %s", step.what, diff)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// awayStore is a log store that can be away.
type awayStore struct {
	mu    sync.Mutex // guards all below
	away  bool
	texts []string
}

func (s *awayStore) answers() error {
	if s.away {
		return errors.New("connection refused")
	}
	return nil
}

func (s *awayStore) Open(context.Context) (protocol.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return protocol.Session{ID: "1", MaxMessage: 1 << 18, MaxBatch: 1 << 22}, s.answers()
}

func (s *awayStore) Send(_ context.Context, _ string, number int64, batch []byte) (protocol.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.answers(); err != nil {
		return protocol.Receipt{}, err
	}
	return protocol.Receipt{Durable: number}, protocol.Read(strings.NewReader(string(batch)), 1<<22, func(_ protocol.Source, e *protocol.Entry) error {
		text := string(e.Message)
		if e.Lost != nil {
			text = fmt.Sprintf("lost %d: %s", e.Lost.Lines, e.Lost.Why)
		}
		s.texts = append(s.texts, text)
		return nil
	})
}

func (s *awayStore) Durable(context.Context, string) (protocol.Receipt, error) {
	return protocol.Receipt{Durable: 1 << 40}, nil
}

func (s *awayStore) Held(_ context.Context, _ string, q protocol.Questions) (protocol.Answers, error) {
	return protocol.Answers{Files: make([]protocol.Answer, len(q.Files))}, nil
}

// has returns what the store has.
func (s *awayStore) has() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.texts)
}

// smallDisk returns a directory on a file system of its own, of 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("a file system needs root")
	}
	if err := unix.Mount("k8sm-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // pauses between attempts are up to half a minute
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// The store is away while the kubelet rotates and deletes, until the node's limit is reached. What had to be dropped is in the metric, in the
// log, in an event on the node, and as an entry in the store when it is back, in front of what was kept.
func TestWhatIsDroppedWhileTheStoreIsAwayIsSaidEverywhere(t *testing.T) {
	for _, c := range []struct {
		name, reason, why string
		limit             func(*logs.Config)
	}{
		{"too many files", "spool", "the log store was away, and the node keeps no more of them", func(cfg *logs.Config) { cfg.SpoolFiles = 3 }},
		{"a nearly full disk", "disk", "the log store was away, and the disk of the node is full", func(cfg *logs.Config) { cfg.MinFreeBytes = 512 << 10 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := smallDisk(t)
			log, hook := logtest.NewNullLogger()
			client, store, registry := fake.NewClientset(), &awayStore{away: true}, prometheus.NewRegistry()
			dropped := newDroppedLogs("a", log)
			dropped.delay = time.Second
			stores := logs.Stores{
				Config:  logs.Config{Logs: filepath.Join(dir, "pod-logs"), Dir: filepath.Join(dir, "logs"), Log: log},
				Connect: func(string) logs.Store { return store }, Registry: registry, Dropped: dropped.Add,
			}
			c.limit(&stores.Config)
			if stores.Config.MinFreeBytes == 0 {
				stores.Config.MinFreeBytes = 1
			}
			container := filepath.Join(stores.Config.Logs, "shop_web-0_uid-0", "app")
			if err := os.MkdirAll(container, 0o755); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			names, ended := make(chan []string), make(chan error, 2)
			go func() { ended <- stores.Run(ctx, names) }()
			go func() { ended <- dropped.Run(ctx, client) }()
			defer func() { cancel(); <-ended; <-ended }()
			names <- []string{"one"}
			for i := range 8 { // of 100 KB each
				writeAndDelete(t, filepath.Join(container, "0.log"), i)
			}
			lines := func() float64 { return droppedLines(t, registry, c.reason) }
			eventually(t, "the end of dropping", func() bool {
				var disk unix.Statfs_t
				if err := unix.Statfs(dir, &disk); err != nil {
					t.Fatal(err)
				}
				return lines() == 5 || c.reason == "disk" && lines() > 1 && int64(disk.Bavail)*disk.Bsize >= stores.Config.MinFreeBytes
			})
			told := 0
			eventually(t, "the event", func() bool {
				told = 0
				for _, m := range messagesOf(t, client) {
					n := 0
					if _, err := fmt.Sscanf(m, "Dropped %d lines", &n); err != nil || !strings.HasSuffix(m, "which the log store one will not have: "+c.why) {
						t.Fatalf("an event says: %s", m)
					}
					told += n
				}
				return told > 0
			})
			if float64(told) > lines() {
				t.Errorf("an event tells of %d lines, and %v were dropped", told, lines())
			}
			if !slices.ContainsFunc(hook.AllEntries(), func(e *logrus.Entry) bool {
				return e.Message == "dropped lines of containers' logs" && e.Data["reason"] == c.why && e.Data["store"] == "one"
			}) {
				t.Errorf("the log does not say so: %v", hook.AllEntries())
			}
			store.mu.Lock()
			store.away = false
			store.mu.Unlock()
			eventually(t, "the arrival of what was kept", func() bool { return slices.ContainsFunc(store.has(), isLine(7)) })
			got := store.has()
			if want := fmt.Sprintf("lost %d: %s", int(lines()), c.why); got[0] != want {
				t.Errorf("the first entry is %.80q, want %q", got[0], want)
			}
			for i, text := range got[1:] {
				if !isLine(int(lines()) + i)(text) {
					t.Errorf("entry %d is %.20q", i+1, text)
				}
			}
			if len(got)-1+int(lines()) != 8 {
				t.Errorf("%d lines came, and %v were dropped, of 8", len(got)-1, lines())
			}
		})
	}
}

func isLine(i int) func(string) bool {
	return func(text string) bool { return strings.HasPrefix(text, fmt.Sprintf("line %d x", i)) }
}

// writeAndDelete writes a log with a line of 100 KB, and deletes it when the node has seen it, as the kubelet does in its time.
func writeAndDelete(t *testing.T, path string, i int) {
	t.Helper()
	text := fmt.Sprintf("%s stdout F line %d %s\n", time.Now().UTC().Format(time.RFC3339Nano), i, strings.Repeat("x", 100_000))
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a second name for the file", func() bool {
		var st unix.Stat_t
		return unix.Lstat(path, &st) == nil && st.Nlink == 2
	})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func droppedLines(t *testing.T, registry *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if labels := fmt.Sprint(m.Label); f.GetName() == "k8sm_minion_logs_dropped_lines_total" && strings.Contains(labels, fmt.Sprintf("%q", reason)) {
				return m.Counter.GetValue()
			}
		}
	}
	return 0
}
