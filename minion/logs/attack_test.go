package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api/logs"
)

// calm returns a world in which nothing fails by itself, and the directory of a container.
func calm(t *testing.T) (*world, string) {
	w := newWorld(t, 1)
	w.calm, w.s.Multiline = true, nil
	dir := filepath.Join(w.logs(), "shop_web-0_uid-0", "app")
	w.must(os.MkdirAll(dir, 0o755))
	return w, dir
}

func (w *world) put(path, text string) {
	w.t.Helper()
	w.must(os.WriteFile(path, []byte(text), 0o640))
}

// ship lets the minion ship all there is.
func (w *world) ship() {
	w.t.Helper()
	for range 40 {
		w.now = w.now.Add(500 * time.Millisecond)
		w.scan()
		w.step()
		w.store.flush()
	}
}

// stored is what the store has of the container's streams.
func (w *world) stored() map[logs.Stream]string {
	w.t.Helper()
	return w.store.texts(w.t)[containerRun{"uid-0", "app", 0}]
}

func TestOnlyFilesOfTheRuntimeAreRead(t *testing.T) {
	w, dir := calm(t)
	secret := filepath.Join(w.dir, "secret")
	w.put(secret, logOf("out F secret"))
	w.must(os.Symlink(secret, filepath.Join(dir, "0.log")))
	w.must(os.Link(secret, filepath.Join(dir, "1.log")))
	w.must(unix.Mkfifo(filepath.Join(dir, "2.log"), 0o600))
	w.must(os.Mkdir(filepath.Join(dir, "3.log"), 0o755))
	other := filepath.Join(w.logs(), "kube-system_dns_uid-1")
	w.must(os.MkdirAll(filepath.Join(other, "dns"), 0o755))
	w.put(filepath.Join(other, "dns", "0.log"), logOf("out F of another namespace"))
	w.must(os.Symlink(other, filepath.Join(w.logs(), "shop_evil_uid-2")))
	w.must(os.Symlink(filepath.Join(other, "dns"), filepath.Join(w.logs(), "shop_web-0_uid-0", "link")))
	for _, name := range []string{"a_b", "shop_web-0_uid-0_more", "Shop_web_uid", "shop_..%2f_uid"} {
		w.must(os.MkdirAll(filepath.Join(w.logs(), name, "app"), 0o755))
		w.put(filepath.Join(w.logs(), name, "app", "0.log"), logOf("out F forged"))
	}
	for _, name := range []string{"0.log.gz", "0.log.20260102-030405.gz", "0.log.20260102-030405.tmp", "x.log", "-1.log", "0.log.", "99999999999.log"} {
		w.put(filepath.Join(dir, name), logOf("out F no log"))
	}
	w.ship()
	want := map[containerRun]map[logs.Stream]string{{"uid-1", "dns", 0}: {logs.Stdout: "of another namespace\n"}}
	if diff := cmp.Diff(want, w.store.texts(t)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(secret); err != nil {
		t.Error(err)
	}
}

func TestTruncatedFileIsAnotherOne(t *testing.T) {
	first, second := logOf("out F a", "out F b"), strings.ReplaceAll(logOf("out F c"), ":05.", ":06.")
	for _, c := range []struct {
		name, then string
		want       string
	}{
		{"and is shorter", second, "a\nb\nc\n"},
		{"and is longer than before", second + second + second + second, "a\nb\nc\nc\nc\nc\n"},
		{"and is empty", "", "a\nb\n"},
		{"and has the same line at the same time", logOf("out F a"), "a\nb\na\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, dir := calm(t)
			path := filepath.Join(dir, "0.log")
			w.put(path, first)
			w.ship()
			w.put(path, c.then) // truncates it
			w.ship()
			if got := w.stored()[logs.Stdout]; got != c.want {
				t.Errorf("the store has %q, want %q", got, c.want)
			}
			if lost := w.stored()[logs.NoStream]; lost != "" {
				t.Errorf("and %q", lost)
			}
			w.restart()
			w.ship()
			if got := w.stored()[logs.Stdout]; got != c.want {
				t.Errorf("after a restart the store has %q, want %q", got, c.want)
			}
		})
	}
}

func TestFileTruncatedBeforeItWasShippedIsSaid(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	w.put(path, logOf("out F a"))
	w.ship()
	w.put(path, logOf("out F a", "out F b", "out F c"))
	w.scan()
	w.put(path, "")
	w.scan()
	w.put(path, strings.ReplaceAll(logOf("out F d"), ":05.", ":07."))
	w.ship()
	want := map[logs.Stream]string{
		logs.Stdout:   "a\nd\n",
		logs.NoStream: "<lost 0 lines, 84 bytes: the file was truncated before it was shipped>\n",
	}
	if diff := cmp.Diff(want, w.stored()); diff != "" {
		t.Error(diff)
	}
}

// An inode that is used again, by a file that begins in the same way, does not hide it.
func TestFingerprintClashLosesNothing(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	w.put(path, logOf("out F a", "out F b", "out F c"))
	w.ship()
	// The minion forgets everything, as if the file was another one.
	w.must(os.RemoveAll(filepath.Join(w.dir, "logs")))
	w.must(os.Truncate(path, int64(len(logOf("out F a", "out F b")))))
	w.restart()
	w.ship()
	if got := w.stored()[logs.Stdout]; strings.Count(got, "a\n") != 2 || strings.Count(got, "b\n") != 2 || strings.Count(got, "c\n") != 1 {
		t.Errorf("the store has %q", got)
	}
}

func TestLostPositionsMakeNoDoubles(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"deleted":       os.Remove,
		"cut off":       func(path string) error { return os.Truncate(path, 20) },
		"of the future": func(path string) error { return os.WriteFile(path, []byte(`{"version":2,"logs":[]}`), 0o600) },
		"negative": func(path string) error {
			return os.WriteFile(path, []byte(`{"version":1,"logs":[{"pod":"shop_web-0_uid-0","container":"app","files":[{"commit":-1}]}]}`), 0o600)
		},
		"of no pod": func(path string) error {
			return os.WriteFile(path, []byte(`{"version":1,"logs":[{"pod":"../..","container":"app"}]}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := calm(t)
			w.put(filepath.Join(dir, "0.log"), logOf("out F a", "err F b"))
			w.ship()
			w.must(spoil(w.s.spool.positions()))
			w.restart()
			w.ship()
			if diff := cmp.Diff(map[logs.Stream]string{logs.Stdout: "a\n", logs.Stderr: "b\n"}, w.stored()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// With the store away, deleted files are kept within the limits, the newest ones, and the store learns what is missing.
func TestOldestFilesAreDroppedAndThatIsSaid(t *testing.T) {
	size := int64(len(logOf("out F line 0")))
	for _, c := range []struct {
		name  string
		limit func(*Config)
		kept  string
		lost  int64
		why   string
	}{
		{"too many bytes", func(c *Config) { c.SpoolBytes = 3 * size }, "line 5\nline 6\nline 7\n", 5, whys[droppedSpool]},
		{"too many files", func(c *Config) { c.SpoolFiles = 3 }, "line 5\nline 6\nline 7\n", 5, whys[droppedSpool]},
		{"a full disk", func(c *Config) { c.MinFreeBytes = 1 << 60 }, "", 8, whys[droppedDisk]},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, dir := calm(t)
			c.limit(&w.s.Config)
			w.down = true
			began := time.Now().Add(-time.Hour)
			for i := range 8 {
				path := filepath.Join(dir, fmt.Sprintf("0.log.20260102-%06d", i))
				w.put(path, logOf(fmt.Sprintf("out F line %d", i)))
				w.must(os.Chtimes(path, began, began.Add(time.Duration(i)*time.Second)))
				w.scan()
				w.must(os.Remove(path))
				w.ship()
			}
			w.alive(func() { w.must(w.s.save(w.now)) })
			w.restart() // dropped stays dropped
			c.limit(&w.s.Config)
			w.down = false
			w.now = w.now.Add(time.Minute)
			w.ship()
			want := map[logs.Stream]string{logs.NoStream: fmt.Sprintf("<lost %d lines, %d bytes: %s>\n", c.lost, c.lost*size, c.why)}
			if c.kept != "" {
				want[logs.Stdout] = c.kept
			}
			if diff := cmp.Diff(want, w.stored()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What was dropped is on the disk until positions are saved, which may take long on a busy machine. Nothing more is dropped in its place.
func TestNoMoreIsDroppedThanTheDiskNeedsHoweverLongSavingTakes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a file system needs root")
	}
	w, dir := calm(t)
	w.must(unix.Mount("k8sm-test", w.dir, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { w.must(unix.Unmount(w.dir, unix.MNT_DETACH)) })
	w.must(os.MkdirAll(dir, 0o755))
	w.restart()
	w.down = true
	for i := range 8 {
		path := filepath.Join(dir, fmt.Sprintf("0.log.20260102-%06d", i))
		w.put(path, logOf("out F "+strings.Repeat("x", 256<<10-40)))
		w.must(os.Chtimes(path, w.now, w.now.Add(time.Duration(i)*time.Second)))
		w.scan()
		w.must(os.Remove(path))
		w.scan()
	}
	free, err := w.s.spool.free()
	w.must(err)
	w.s.MinFreeBytes = free + 384<<10 // two files
	w.s.saveAt = w.now.Add(time.Minute)
	dropped := func() float64 { return testutil.ToFloat64(w.s.Metrics.droppedLines.WithLabelValues(droppedDisk)) }
	for range 5 {
		w.now = w.now.Add(2 * time.Second)
		w.step()
		if got := dropped(); got != 2 {
			t.Fatalf("%v lines were dropped, want 2", got)
		}
	}
	w.now = w.now.Add(time.Minute)
	w.step()
	if free, err := w.s.spool.free(); err != nil || free < w.s.MinFreeBytes {
		t.Errorf("%d bytes are free, want %d: %v", free, w.s.MinFreeBytes, err)
	}
	w.s.MinFreeBytes += 256 << 10 // one more
	for range 2 {
		w.now = w.now.Add(2 * time.Second)
		w.step()
	}
	if got := dropped(); got != 3 {
		t.Errorf("%v lines were dropped, want 3", got)
	}
}

// The store is away for an hour while a container writes, the kubelet keeps few files, and the minion is restarted now and then. Within the
// limit nothing is lost. Beyond it, each line is either in the store or among those of the entry in their place, the metric and the callback.
func TestAnHourWithoutTheStoreLosesOnlyWhatIsMoreThanTheLimitAndSaysHowMuch(t *testing.T) {
	const perFile, files = 50, 120 // two files a minute
	for _, c := range []struct {
		name  string
		limit int
		lost  int // files
	}{{"within the limit", files, 0}, {"beyond it", 20, files - 20}} {
		t.Run(c.name, func(t *testing.T) {
			w, dir := calm(t)
			told := map[string]int64{}
			counted := float64(0)
			prepare := func() {
				w.s.SpoolFiles = c.limit
				w.s.Dropped = func(why string, lines, _ int64) { told[why] += lines }
			}
			prepare()
			w.down = true
			var wrote []string
			for i := range files {
				path := filepath.Join(dir, fmt.Sprintf("0.log.20260102-%06d", i))
				var text strings.Builder
				for range perFile {
					line := fmt.Sprintf("line %d", len(wrote))
					wrote = append(wrote, line)
					fmt.Fprintf(&text, "%s stdout F %s\n", w.now.Add(time.Duration(len(wrote))).UTC().Format(time.RFC3339Nano), line)
				}
				w.put(path, text.String())
				w.must(os.Chtimes(path, w.now, w.now))
				w.scan()
				w.must(os.Remove(path))
				for range 3 { // half a minute
					w.now = w.now.Add(10 * time.Second)
					w.scan()
					w.step()
				}
				if i%30 == 29 {
					counted += testutil.ToFloat64(w.s.Metrics.droppedLines.WithLabelValues(droppedSpool))
					w.restart()
					prepare()
				}
			}
			counted += testutil.ToFloat64(w.s.Metrics.droppedLines.WithLabelValues(droppedSpool))
			w.down = false
			w.now = w.now.Add(time.Minute)
			w.settle()
			want := map[logs.Stream]string{logs.Stdout: strings.Join(wrote[c.lost*perFile:], "\n") + "\n"}
			got := w.stored()
			lost := int64(0)
			for entry := range strings.Lines(got[logs.NoStream]) {
				var lines, size int64
				if _, err := fmt.Sscanf(entry, "<lost %d lines, %d bytes: the log store was away", &lines, &size); err != nil || size == 0 {
					t.Errorf("an entry is %q", entry)
				}
				lost += lines
			}
			delete(got, logs.NoStream)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if n := int64(c.lost * perFile); lost != n || told[whys[droppedSpool]] != n || counted != float64(n) {
				t.Errorf("%d lines were dropped; entries say %d, the callback %v, the metric %v", n, lost, told, counted)
			}
		})
	}
}

func TestRefusedLinesAreCounted(t *testing.T) {
	w, dir := calm(t)
	w.store.judge = func(s logs.Source) (bool, bool) { return true, false }
	w.put(filepath.Join(dir, "0.log"), logOf("out F a", "out F b"))
	w.ship()
	if got := w.stored(); len(got) > 0 {
		t.Errorf("the store has %q", got)
	}
	if !w.idle() {
		t.Error("the minion waits for lines that the store does not take")
	}
}

func TestBadPatternIsSaidOnceAndJoinsNothing(t *testing.T) {
	var p pattern
	for i, c := range []struct {
		text      string
		bad, join bool
	}{{"", false, false}, {"^[", true, false}, {"^[", false, false}, {`^\S`, false, true}, {strings.Repeat("a", maxPattern+1), true, false}, {"", false, false}} {
		if err := p.set(c.text); (err != nil) != c.bad || (p.start != nil) != c.join {
			t.Errorf("%d: %q: error %v, joins %t", i, c.text, err, p.start != nil)
		}
	}
}
