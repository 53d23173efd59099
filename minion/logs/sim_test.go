package logs

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api/logs"
)

// world is a node with containers that write, a kubelet that rotates and deletes, a minion and a store, any of which breaks down. It
// has one goroutine, and a clock of its own.
type world struct {
	t      *testing.T
	random *rand.Rand
	dir    string
	store  *fakeStore
	s      *shipping
	now    time.Time
	clock  time.Time // the container runtime's
	pods   []*simPod
	made   int
	wrote  map[containerRun]map[logs.Stream]string
	// crashIn counts the changes of the disk until the minion dies; negative if it does not.
	crashIn  int
	diskFull bool
	down     bool // the store
	calm     bool // no request fails
	log      logrus.FieldLogger
}

type simPod struct {
	name, uid string
	restart   int
	file      *os.File // the log that is being written
	path      string
	rotations int
	half      int64 // where an incomplete line begins; negative if there is none
}

func newWorld(t *testing.T, seed uint64) *world {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 7)), dir: t.TempDir(), store: newFakeStore(), now: time.Now(), crashIn: -1,
		clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), wrote: map[containerRun]map[logs.Stream]string{}, log: quiet,
	}
	if err := os.MkdirAll(w.logs(), 0o755); err != nil {
		t.Fatal(err)
	}
	w.start()
	return w
}

func (w *world) logs() string { return filepath.Join(w.dir, "pod-logs") }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// died is what the minion panics with when it is killed.
type died struct{}

// alive runs a part of the minion. If it is killed meanwhile, another one starts.
func (w *world) alive(run func()) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(died); !ok {
				panic(r)
			}
			w.restart()
		}
	}()
	run()
}

// restart kills the minion, and starts another one, which may be killed while it starts.
func (w *world) restart() {
	w.crashIn = -1
	w.start()
}

func (w *world) start() {
	spool, err := newSpool(filepath.Join(w.dir, "logs"))
	w.must(err)
	spool.before = func(change string) error {
		if w.crashIn == 0 {
			panic(died{})
		}
		w.crashIn--
		if w.diskFull && change != "remove" && change != "empty" {
			return unix.ENOSPC
		}
		return nil
	}
	cfg := Config{
		Logs: w.logs(), SpoolBytes: DefaultSpoolBytes, SpoolFiles: DefaultSpoolFiles, MinFreeBytes: 1,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: w.log,
	}
	if w.random.IntN(2) == 0 {
		cfg.Multiline = func(_, pod, _ string) (string, bool) {
			return map[bool]string{true: "^[ab]"}[strings.HasSuffix(pod, "1")], true
		}
	}
	w.s, err = newShipping(cfg, spool, 1, w.now)
	w.must(err)
	w.scan()
}

func (w *world) scan() {
	w.alive(func() {
		if err := w.s.scan(w.now); !w.diskFull || !errors.Is(err, unix.ENOSPC) {
			w.must(err)
		}
	})
}

// step lets the minion do one thing.
func (w *world) step() {
	w.alive(func() {
		w.s.keep(w.now)
		request, _ := w.s.next(w.now)
		if request == nil {
			return
		}
		if w.random.IntN(2) == 0 {
			w.s.prepare(w.now)
		}
		lost := errors.New("connection reset by peer")
		fate := w.random.IntN(10)
		if w.calm {
			fate = 9
		}
		if w.down || fate == 0 {
			w.s.answer(request, reply{err: lost}, w.now)
			return
		}
		a := request.send(w.t.Context(), w.store)
		switch fate {
		case 1:
			w.restart() // between the store's taking it and the answer
			return
		case 2:
			a = reply{err: lost}
		case 3:
			w.store.crash(w.random)
		}
		w.s.answer(request, a, w.now)
	})
}

func (w *world) newPod() {
	w.made++
	p := &simPod{name: fmt.Sprintf("web-%d", w.made%3), uid: fmt.Sprintf("uid-%d", w.made), half: -1}
	w.pods = append(w.pods, p)
	w.begin(p)
}

// begin begins a run of the pod's container.
func (w *world) begin(p *simPod) {
	p.path = filepath.Join(w.logs(), "shop_"+p.name+"_"+p.uid, "app", fmt.Sprintf("%d.log", p.restart))
	w.must(os.MkdirAll(filepath.Dir(p.path), 0o755))
	w.create(p)
}

func (w *world) create(p *simPod) {
	file, err := os.OpenFile(p.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	w.must(err)
	p.file = file
}

// write writes some lines, and perhaps the beginning of another one.
func (w *world) write(p *simPod) {
	w.uncut(p)
	w.writeLines(p, p.file)
	if w.random.IntN(3) == 0 {
		var err error
		p.half, err = p.file.Seek(0, io.SeekEnd)
		w.must(err)
		_, err = p.file.WriteString(w.clock.Format(time.RFC3339Nano) + " stdout F hal")
		w.must(err)
	}
}

func (w *world) writeLines(p *simPod, file *os.File) {
	run := containerRun{p.uid, "app", p.restart}
	if w.wrote[run] == nil {
		w.wrote[run] = map[logs.Stream]string{}
	}
	for range 1 + w.random.IntN(30) {
		w.clock = w.clock.Add(time.Duration(1 + w.random.IntN(1e6)))
		if w.random.IntN(50) == 0 {
			w.clock = w.clock.Add(-time.Hour)
		}
		stream, tag := []logs.Stream{logs.Stdout, logs.Stderr}[w.random.IntN(2)], []string{"F", "F", "F", "P"}[w.random.IntN(4)]
		text := make([]byte, w.random.IntN(40))
		for i := range text {
			text[i] = alphabet[w.random.IntN(len(alphabet))]
		}
		_, err := fmt.Fprintf(file, "%s %s %s %s\n", w.clock.Format(time.RFC3339Nano), stream, tag, text)
		w.must(err)
		if w.wrote[run][stream] += string(text); tag == "F" {
			w.wrote[run][stream] += "\n"
		}
	}
}

// uncut removes an incomplete line, as the runtime does after it was killed.
func (w *world) uncut(p *simPod) {
	if p.half >= 0 {
		w.must(p.file.Truncate(p.half))
		p.half = -1
	}
}

// rotate is what the kubelet does to a log that is long.
func (w *world) rotate(p *simPod) {
	w.uncut(p)
	p.rotations++
	w.must(os.Rename(p.path, fmt.Sprintf("%s.20260102-%06d", p.path, p.rotations)))
	w.maybe(w.scan) // before the runtime opens a new file
	old := p.file
	w.create(p)
	w.maybe(w.scan)
	w.maybe(w.step)
	w.maybe(func() { w.writeLines(p, old) }) // by a runtime that opens the new file before it has written all to the old one
	w.must(old.Close())
	w.scan()
}

func (w *world) maybe(do func()) {
	if w.random.IntN(2) == 0 {
		do()
	}
}

// deleteFile deletes a file that the minion has linked. A minion that does not run, or whose disk is full, cannot know of others.
func (w *world) deleteFile(path string) {
	if isLinked(path) {
		w.must(os.Remove(path))
	}
}

func isLinked(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Nlink > 1
}

func (w *world) deleteRotated(p *simPod) {
	rotated, err := filepath.Glob(p.path + ".*")
	w.must(err)
	if len(rotated) > 0 {
		w.deleteFile(rotated[0])
	}
}

// restartContainer ends a run of a container and begins the next one. The kubelet deletes older ones.
func (w *world) restartContainer(p *simPod) {
	w.uncut(p)
	w.must(p.file.Close())
	old, err := filepath.Glob(filepath.Join(filepath.Dir(p.path), fmt.Sprintf("%d.log*", p.restart-1)))
	w.must(err)
	for _, path := range old {
		w.deleteFile(path)
	}
	p.restart++
	p.rotations = 0
	w.begin(p)
	w.scan()
}

func (w *world) deletePod(i int) {
	p := w.pods[i]
	w.uncut(p)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(p.path), "*.log*"))
	w.must(err)
	for _, path := range files {
		if !isLinked(path) {
			return
		}
	}
	w.must(os.RemoveAll(filepath.Dir(filepath.Dir(p.path))))
	w.maybe(w.scan)
	w.maybe(w.step)
	w.maybe(func() { w.writeLines(p, p.file) }) // what the runtime had not written yet
	w.must(p.file.Close())
	w.pods = slices.Delete(w.pods, i, i+1)
}

// happen lets something happen.
func (w *world) happen() {
	w.now = w.now.Add(time.Duration(w.random.IntN(400)) * time.Millisecond)
	if len(w.pods) == 0 || len(w.pods) < 4 && w.random.IntN(20) == 0 {
		w.newPod()
		w.scan()
	}
	i := w.random.IntN(len(w.pods))
	p := w.pods[i]
	switch n := w.random.IntN(100); {
	case n < 20:
		w.write(p)
	case n < 24:
		w.rotate(p)
	case n < 27:
		w.deleteRotated(p)
	case n < 29:
		w.restartContainer(p)
	case n < 30:
		w.deletePod(i)
	case n < 40:
		w.scan()
	case n < 42:
		w.store.crash(w.random)
	case n < 50:
		w.store.flush()
	case n < 52:
		w.crashIn = w.random.IntN(6)
	case n < 53:
		w.restart()
	case n < 54:
		w.down = !w.down
	case n < 55:
		w.diskFull = !w.diskFull
	case n < 56:
		uid := p.uid
		w.store.judge = func(s logs.Source) (refused, deferred bool) { return false, s.UID == uid }
	case n < 57:
		w.store.judge = nil
	default:
		w.step()
	}
}

// settle lets everything work until nothing is left to do.
func (w *world) settle() {
	w.down, w.diskFull, w.crashIn, w.calm = false, false, -1, true
	w.store.judge = nil
	for range 2000 {
		w.now = w.now.Add(300 * time.Millisecond)
		w.scan()
		w.step()
		w.store.flush()
		if w.idle() {
			return
		}
	}
	for c := range w.s.logs.all() {
		for _, f := range c.files {
			if !f.isSent() || !f.isSettled() || !f.gone.IsZero() {
				w.t.Logf("%v: %+v", c.place, f)
			}
		}
	}
	w.t.Fatalf("the minion is not done: dirty %t, trash %v, to save in %s", w.s.dirty, w.s.trash, w.s.saveAt.Sub(w.now))
}

func (w *world) idle() bool {
	for c := range w.s.logs.all() {
		for _, f := range c.files {
			if f.commit != f.size || !f.isSettled() || !f.gone.IsZero() {
				return false
			}
		}
	}
	return !w.s.dirty
}

func (w *world) check() {
	got := w.store.texts(w.t)
	if diff := cmp.Diff(w.wrote, got); diff != "" {
		w.t.Errorf("what was written (-) is not what is in the store (+):\n%s", diff)
	}
}

// left are the files that the minion has.
func (w *world) left() (names []string) {
	w.must(filepath.WalkDir(filepath.Join(w.dir, "logs"), func(path string, _ fs.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, w.dir))
		return err
	}))
	return names
}

var seeds = flag.Uint64("seeds", 10, "how many random lives of a node to try")

// Each line is in the store once, whatever dies when.
func TestEachLineIsInTheStoreOnceWhateverDies(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting for the disk
			w := newWorld(t, seed)
			for range 600 {
				w.happen()
			}
			for _, p := range w.pods {
				w.uncut(p)
			}
			w.settle()
			w.check()
			for len(w.pods) > 0 {
				w.deletePod(0)
			}
			w.settle()
			want := []string{"/logs", "/logs/links", "/logs/positions.json"}
			if diff := cmp.Diff(want, w.left()); diff != "" {
				t.Errorf("something is left behind: %s", diff)
			}
		})
	}
}
