package logs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/logs"
)

// shippedTo is a node that ships to several stores.
type shippedTo struct {
	*testing.T
	dir      string
	stores   map[string]*fakeStore
	registry *prometheus.Registry
	names    chan []string
	stop     func()
}

func shipTo(t *testing.T, dir string, stores map[string]*fakeStore) *shippedTo {
	quiet := logrus.New()
	quiet.SetOutput(t.Output())
	n := &shippedTo{T: t, dir: dir, stores: stores, registry: prometheus.NewRegistry(), names: make(chan []string)}
	s := Stores{
		Config: Config{
			Logs: filepath.Join(dir, "pod-logs"), Components: filepath.Join(dir, "node-logs"), Dir: filepath.Join(dir, "logs"), MinFreeBytes: 1, Log: quiet,
		},
		Connect: func(name string) Store { return stores[name] }, Registry: n.registry,
	}
	for _, d := range []string{s.Config.Logs, s.Config.Components} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, n.names) }()
	n.stop = func() { cancel(); <-done }
	t.Cleanup(cancel)
	return n
}

// has reports whether all these stores have the text of a container's run.
func (n *shippedTo) has(run containerRun, text string, stores ...string) func() bool {
	return func() bool {
		for _, name := range stores {
			n.stores[name].flush()
			texts := n.stores[name].texts(n.T)[run]
			if texts[logs.Stdout]+texts[logs.Stderr] != text {
				return false
			}
		}
		return true
	}
}

func (n *shippedTo) put(path, text string) {
	n.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		n.Fatal(err)
	}
}

func TestEachStoreGetsEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := shipTo(t, dir, map[string]*fakeStore{"one-10261": newFakeStore(), "two-10261": newFakeStore()})
	path := filepath.Join(dir, "pod-logs", "shop_web-0_uid-0", "app", "0.log")
	run := containerRun{"uid-0", "app", 0}
	n.names <- []string{"one-10261"}
	n.put(path, at("05", "out F a"))
	eventually(t, "a at one store", n.has(run, "a\n", "one-10261"))
	n.names <- []string{"one-10261", "two-10261"}
	eventually(t, "a at both", n.has(run, "a\n", "one-10261", "two-10261"))
	if err := os.Rename(path, path+".20260102-000001"); err != nil {
		t.Fatal(err)
	}
	n.put(path, at("06", "out F b"))
	eventually(t, "b at both", n.has(run, "a\nb\n", "one-10261", "two-10261"))
	if err := os.RemoveAll(filepath.Join(dir, "pod-logs", "shop_web-0_uid-0")); err != nil {
		t.Fatal(err)
	}
	for name, store := range n.stores {
		eventually(t, "the removal of what "+name+" has", func() bool {
			store.flush()
			left, err := os.ReadDir(filepath.Join(dir, "logs", name, "links"))
			return err == nil && len(left) == 0
		})
	}
	n.stop()
	if families, err := n.registry.Gather(); err != nil || len(families) > 0 {
		t.Errorf("metrics of what has stopped: %v, error %v", families, err)
	}
}

// A file with other names than those of the spools is not shipped, although there are several.
func TestOtherNamesAreFoundAmongThoseOfSeveralSpools(t *testing.T) {
	w, dir := calm(t)
	if most := w.s.spool.mostNames(); most != 2 {
		t.Errorf("a file may have %d names, want 2", most)
	}
	other, err := newSpool(filepath.Join(w.dir, "another"))
	w.must(err)
	if most := other.mostNames(); most != 3 {
		t.Errorf("with two spools a file may have %d names, want 3", most)
	}
	w.put(filepath.Join(w.dir, "secret"), at("05", "out F secret"))
	for _, name := range []string{"0.log", "1.log"} {
		w.must(os.Link(filepath.Join(w.dir, "secret"), filepath.Join(dir, name)))
	}
	w.ship()
	if got := w.store.texts(t); len(got) > 0 {
		t.Errorf("the store has %v", got)
	}
}

func TestStoreThatLeftForGoodIsForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stores := map[string]*fakeStore{"one-10261": newFakeStore(), "two-10261": newFakeStore()}
	n := shipTo(t, dir, stores)
	n.names <- []string{"one-10261", "two-10261"}
	n.names <- []string{"two-10261"} // not yet
	n.stop()
	gone := filepath.Join(dir, "logs", "one-10261")
	long := time.Now().Add(-2 * logs.ForgetAfter)
	if err := os.Chtimes(filepath.Join(gone, presentFile), long, long); err != nil {
		t.Fatal(err)
	}
	n = shipTo(t, dir, stores)
	n.names <- []string{} // no store is there: they may come back
	n.names <- []string{"two-10261"}
	eventually(t, "the removal of what is kept for it", func() bool {
		_, err := os.Stat(gone)
		return os.IsNotExist(err)
	})
	n.names <- []string{"two-10261"}
	n.stop()
}

// The log of a component is shipped, too, also after a crash within a line and a rotation.
func TestComponentIsShipped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := shipTo(t, dir, map[string]*fakeStore{"one-10261": newFakeStore()})
	n.names <- []string{"one-10261"}
	run := containerRun{"", "kubelet", 0}
	c := NewComponent(filepath.Join(dir, "node-logs"), "kubelet")
	write := func(text string) {
		t.Helper()
		if count, err := c.Write([]byte(text)); count != len(text) || err != nil {
			t.Fatalf("wrote %d bytes, error %v", count, err)
		}
	}
	long := strings.Repeat("x", 3*componentLine)
	write("a\nb")
	write("c\n\n" + long + "\nhalf")
	want := "a\nbc\n\n" + long + "\n"
	eventually(t, "what it wrote", n.has(run, want, "one-10261"))

	file, err := os.OpenFile(c.path(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(time.Now().UTC().Format(time.RFC3339Nano) + " stderr F cut"); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	c = NewComponent(filepath.Join(dir, "node-logs"), "kubelet")
	write("d\n")
	eventually(t, "what it wrote after a crash", n.has(run, want+"d\n", "one-10261"))
	c.size = componentSize + 1
	write("e\n")
	c.size = componentSize + 1
	write("f\n")
	eventually(t, "what it wrote after rotations", n.has(run, want+"d\ne\nf\n", "one-10261"))
	n.stop()
	names, err := os.ReadDir(c.Dir)
	if err != nil || len(names) != 2 {
		t.Errorf("the component has the files %v, error %v", names, err)
	}
	for _, s := range n.stores["one-10261"].all() {
		if !s.source.IsComponent() {
			t.Errorf("%+v is from no component", s.source)
		}
	}
}
