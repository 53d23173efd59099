package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
)

// openStore opens a store in a directory, which the caller closes.
func openStore(t *testing.T, cfg Config) (*store, *rig) {
	t.Helper()
	logger, logs := logrustest.NewNullLogger()
	if testing.Verbose() {
		logger.SetOutput(os.Stderr)
	}
	cfg.Log = logrus.NewEntry(logger)
	if cfg.MinFree == 0 {
		cfg.MinFree = 1 << 20
	}
	cfg = cfg.withDefaults()
	s := newStore(cfg, newLogger(cfg.Log), newClock(), quickPace)
	if _, err := s.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s, &rig{t: t, logs: logs}
}

// closeStore closes a store.
func closeStore(t *testing.T, s *store) {
	t.Helper()
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// put appends a sample of each of the named metrics.
func put(t *testing.T, s *store, at time.Time, value float64, names ...string) {
	t.Helper()
	if err := tryPut(s, at, value, names...); err != nil {
		t.Fatal(err)
	}
}

// tryPut appends a sample of each of the named metrics.
func tryPut(s *store, at time.Time, value float64, names ...string) error {
	appender := s.AppenderV2(context.Background())
	for _, name := range names {
		if _, err := appender.Append(0, labels.FromStrings(model.MetricNameLabel, name), 0, at.UnixMilli(), value, nil, nil, storage.AOptions{}); err != nil {
			return errors.Join(err, appender.Rollback())
		}
	}
	return appender.Commit()
}

// samples are the samples of a metric, as seconds since a time, and values.
func samples(t *testing.T, s *store, since time.Time, name string) string {
	t.Helper()
	return samplesOf(t, s.db, since, name)
}

// samplesOf are the samples of a metric, as seconds since a time, and values.
func samplesOf(t *testing.T, db *tsdb.DB, since time.Time, name string) string {
	t.Helper()
	querier, err := db.Querier(0, 1<<50)
	if err != nil {
		t.Fatal(err)
	}
	defer querier.Close()
	var found []string
	set := querier.Select(context.Background(), false, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, name))
	for set.Next() {
		iterator := set.At().Iterator(nil)
		for iterator.Next() != chunkenc.ValNone {
			at, value := iterator.At()
			found = append(found, fmt.Sprintf("%d:%v", (at-since.UnixMilli())/1000, value))
		}
		if err := iterator.Err(); err != nil {
			return "error: " + err.Error()
		}
	}
	if err := set.Err(); err != nil {
		return "error: " + err.Error()
	}
	return strings.Join(found, " ")
}

// perBlock is how many series makeBlock writes: several, so that there is something to damage.
const perBlock = 40

// makeBlock writes a block with a sample of a metric each minute from one time to another. It returns its path.
func makeBlock(t *testing.T, dir, name string, from, to time.Time) string {
	t.Helper()
	writer, err := tsdb.NewBlockWriter(newLogger(logrus.NewEntry(logrus.New())), dir, quickPace.block.Milliseconds())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for at := from; at.Before(to); at = at.Add(time.Minute) {
		appender := writer.Appender(context.Background())
		for i := range perBlock {
			if _, err := appender.Append(0, labels.FromStrings(model.MetricNameLabel, name, "i", strconv.Itoa(i)), at.UnixMilli(), 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := appender.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	id, err := writer.Flush(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, id.String())
}

// files are the names of the files in a directory, or none if it is not there.
func files(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// blockStart is the start of a block that ended hours ago.
func blockStart(ago time.Duration) time.Time {
	return time.Now().Add(-ago).Truncate(quickPace.block)
}

// overwrite changes a byte of a file.
func overwrite(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var was [1]byte
	if _, err := file.ReadAt(was[:], at); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte{was[0] ^ 0xff}, at); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedBlocksAreMovedAside(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, block string){
		"no meta":      func(t *testing.T, b string) { remove(t, filepath.Join(b, "meta.json")) },
		"empty meta":   func(t *testing.T, b string) { write(t, filepath.Join(b, "meta.json"), "") },
		"garbage meta": func(t *testing.T, b string) { write(t, filepath.Join(b, "meta.json"), "{\"ulid\":") },
		"meta of another": func(t *testing.T, b string) {
			write(t, filepath.Join(b, "meta.json"), `{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","version":1}`)
		},
		"no index":           func(t *testing.T, b string) { remove(t, filepath.Join(b, "index")) },
		"empty index":        func(t *testing.T, b string) { write(t, filepath.Join(b, "index"), "") },
		"short index":        func(t *testing.T, b string) { truncate(t, filepath.Join(b, "index"), 100) },
		"no chunks":          func(t *testing.T, b string) { remove(t, filepath.Join(b, "chunks")) },
		"empty chunks":       func(t *testing.T, b string) { write(t, filepath.Join(b, "chunks", "000001"), "") },
		"garbage tombstones": func(t *testing.T, b string) { write(t, filepath.Join(b, "tombstones"), "garbage garbage") },
		"nothing": func(t *testing.T, b string) {
			remove(t, b)
			if err := os.Mkdir(b, 0o750); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, from := t.TempDir(), blockStart(48*time.Hour)
			bad := makeBlock(t, dir, "apples", from, from.Add(time.Hour))
			makeBlock(t, dir, "peas", from.Add(24*time.Hour), from.Add(25*time.Hour))
			damage(t, bad)
			s, r := openStore(t, Config{Dir: dir})
			defer closeStore(t, s)
			r.tells("a block of the metrics' history is damaged")
			if n := strings.Count(samples(t, s, from, "peas"), ":1"); n != 60*perBlock {
				t.Errorf("there are %d samples of the other block", n)
			}
			if found := files(filepath.Join(dir, damagedDir)); len(found) != 1 || !strings.HasSuffix(found[0], filepath.Base(bad)) {
				t.Errorf("moved aside are %q", found)
			}
			if told := r.told(logrus.WarnLevel); len(told) != 1 {
				t.Errorf("it logs:\n%s", strings.Join(told, "\n"))
			}
		})
	}
}

// remove removes a file or a directory.
func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// truncate cuts a file.
func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func TestDamageWithinABlockIsFoundByAQuery(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"chunks/000001", "index"} {
		t.Run(what, func(t *testing.T) {
			dir, from := t.TempDir(), blockStart(48*time.Hour)
			bad := makeBlock(t, dir, "apples", from, from.Add(time.Hour))
			makeBlock(t, dir, "peas", from.Add(24*time.Hour), from.Add(25*time.Hour))
			path := filepath.Join(bad, filepath.FromSlash(what))
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := range int64(100) { // more than what separates entries
				overwrite(t, path, info.Size()/2+i)
			}
			r := start(t, Config{Dir: dir})
			r.quiet()
			r.eventually(func() error { // it fails once, until the block is gone
				value, err := r.Query(context.Background(), `count(last_over_time({__name__=~"apples|peas"}[3d]))`, time.Now())
				if err != nil {
					return err
				}
				if vector := value.(promql.Vector); len(vector) != 1 || vector[0].F != perBlock {
					return fmt.Errorf("it is %v", vector)
				}
				return nil
			})
			r.tells("a block of the metrics' history is damaged")
			if found := files(filepath.Join(dir, damagedDir)); len(found) != 1 || len(files(filepath.Join(dir, damagedDir, found[0]))) == 0 {
				t.Errorf("moved aside are %q", found)
			}
			r.quiet("is damaged")
		})
	}
}

// segments writes samples into three segments of the log: i at second i, each with many series of its own. It returns the start.
func segments(t *testing.T, dir string) time.Time {
	t.Helper()
	began := time.Now().Add(-time.Minute).Truncate(time.Second)
	for i := range 3 {
		s, r := openStore(t, Config{Dir: dir})
		for j := range 3 {
			at := 10*i + 3*j
			put(t, s, began.Add(time.Duration(at)*time.Second), float64(at), "apples")
			var many []string
			for k := range 1000 {
				many = append(many, fmt.Sprintf("m%d_%d_%d", i, j, k))
			}
			put(t, s, began.Add(time.Duration(at)*time.Second), 1, many...)
		}
		closeStore(t, s)
		r.quiet()
	}
	return began
}

func TestTheDamagedPartOfTheLogIsMovedAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	began := segments(t, dir)
	found, err := segmentsIn(filepath.Join(dir, "wal"))
	if err != nil || len(found) != 3 {
		t.Fatal(found, err)
	}
	overwrite(t, found[1], 40<<10) // in its second page, between the second and the third sample
	s, r := openStore(t, Config{Dir: dir})
	if got := samples(t, s, began, "apples"); !strings.HasPrefix(got, "0:0 3:3 6:6 10:10") || !strings.HasSuffix(got, "20:20 23:23 26:26") {
		t.Errorf("there are %s", got)
	}
	if got := samples(t, s, began, "m2_2_999"); got != "26:1" {
		t.Errorf("of the last segment is %q", got)
	}
	r.tells("write-ahead log is damaged")
	r.quiet("write-ahead log is damaged", "unknown series references", "Unknown series references")
	if aside := files(filepath.Join(dir, damagedDir)); len(aside) != 1 || !strings.HasSuffix(aside[0], "wal-00000001") {
		t.Errorf("moved aside are %q", aside)
	}
	put(t, s, time.Now(), 7, "apples", "new") // a number of a lost series must not become another's
	closeStore(t, s)
	s, r = openStore(t, Config{Dir: dir})
	defer closeStore(t, s)
	if got := samples(t, s, began, "new"); strings.Count(got, ":") != 1 {
		t.Errorf("a new series has %q", got)
	}
	if got := samples(t, s, began, "apples"); !strings.HasSuffix(got, ":7") {
		t.Errorf("there are %s", got)
	}
	r.quiet()
}

func TestATornEndOfTheLogIsCutOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	began := segments(t, dir)
	found, err := segmentsIn(filepath.Join(dir, "wal"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(found[2])
	if err != nil {
		t.Fatal(err)
	}
	truncate(t, found[2], info.Size()-10)
	s, r := openStore(t, Config{Dir: dir})
	defer closeStore(t, s)
	if got := samples(t, s, began, "apples"); got != "0:0 3:3 6:6 10:10 13:13 16:16 20:20 23:23 26:26" {
		t.Errorf("there are %s", got)
	}
	r.quiet()
	if aside := files(filepath.Join(dir, damagedDir)); len(aside) != 0 {
		t.Errorf("moved aside are %q", aside)
	}
}

func TestADamagedCheckpointCostsNoStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	began := segments(t, dir)
	checkpoint := filepath.Join(dir, "wal", "checkpoint.00000000")
	if err := os.Mkdir(checkpoint, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "wal", "00000000"), filepath.Join(checkpoint, "00000000")); err != nil {
		t.Fatal(err)
	}
	overwrite(t, filepath.Join(checkpoint, "00000000"), 40<<10)
	s, r := openStore(t, Config{Dir: dir})
	defer closeStore(t, s)
	if got := samples(t, s, began, "apples"); !strings.HasSuffix(got, "10:10 13:13 16:16 20:20 23:23 26:26") {
		t.Errorf("there are %s", got)
	}
	r.tells("write-ahead log is damaged")
}

func TestDamagedChunksOfTheHeadCostNoSamples(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	began := time.Now().Add(-time.Hour).Truncate(time.Second)
	s, _ := openStore(t, Config{Dir: dir})
	for i := range 1000 {
		put(t, s, began.Add(time.Duration(i)*time.Second), float64(i), "apples")
	}
	want := samples(t, s, began, "apples")
	closeStore(t, s)
	found, err := segmentsIn(filepath.Join(dir, "chunks_head"))
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	overwrite(t, found[0], 200)
	s, r := openStore(t, Config{Dir: dir})
	defer closeStore(t, s)
	if got := samples(t, s, began, "apples"); got != want {
		t.Errorf("there are %s", got)
	}
	if told := r.told(logrus.WarnLevel); len(told) != 1 {
		t.Errorf("it logs %d lines:\n%s", len(told), strings.Join(told, "\n"))
	}
}

func TestWhatCannotBeRepairedIsMovedAside(t *testing.T) {
	t.Parallel()
	dir, from := t.TempDir(), blockStart(48*time.Hour)
	makeBlock(t, dir, "peas", from, from.Add(time.Hour))
	segments(t, dir)
	found, err := segmentsIn(filepath.Join(dir, "wal")) // Prometheus may have removed the first ones
	if err != nil || len(found) < 3 {
		t.Fatal(found, err)
	}
	remove(t, found[1]) // a gap
	s, r := openStore(t, Config{Dir: dir})
	defer closeStore(t, s)
	if got := samples(t, s, from, "peas"); strings.Count(got, ":") < 60 {
		t.Errorf("of the block are %s", got)
	}
	r.tells("moved aside")
	put(t, s, time.Now(), 1, "apples")
}

func TestADirectoryThatAnotherUsesIsNotTouched(t *testing.T) {
	t.Parallel()
	first := start(t, Config{})
	torn := filepath.Join(first.cfg.Dir, "wal", "00000000") // as within a write
	overwrite(t, write(t, torn, strings.Repeat("\x03\x00\x01xxxxx", 10)), 5)
	second := newRig(t, Config{Dir: first.cfg.Dir}).run()
	second.tells("another process uses it")
	time.Sleep(5 * quickPace.retry)
	second.tells("another process uses it")
	if info, err := os.Stat(torn); err != nil || info.Size() != 80 {
		t.Errorf("the other's log is changed: %v", err)
	}
	if err := second.Ready(); !errors.Is(err, ErrNotReady) {
		t.Errorf("it is %v", err)
	}
	first.cancel()
	if err := <-first.done; err != nil {
		t.Error(err)
	}
	first.cancel = nil
	second.eventually(second.Ready)
	second.quiet("another process uses it")
}

func TestADirectoryThatCannotBeMadeIsTold(t *testing.T) {
	t.Parallel()
	file := write(t, filepath.Join(t.TempDir(), "file"), "")
	r := newRig(t, Config{Dir: filepath.Join(file, "history")}).run()
	r.tells("cannot create the directory")
	remove(t, file)
	r.eventually(r.Ready)
}

func TestRetentionAndSizeTakeEffect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, ago := range []time.Duration{6, 48, 96, 240} {
		from := blockStart(ago * time.Hour)
		makeBlock(t, dir, "peas", from, from.Add(2*time.Hour))
	}
	ages := func(t *testing.T, cfg Config, want int) {
		cfg.Dir = dir
		r := start(t, cfg)
		r.eventually(func() error {
			if blocks, err := blocksIn(dir); err != nil || len(blocks) != want {
				return fmt.Errorf("there are %d blocks, want %d: %v", len(blocks), want, err)
			}
			return nil
		})
		r.stop()
		r.quiet()
	}
	ages(t, Config{}, 4)
	ages(t, Config{Retention: 7 * 24 * time.Hour}, 3)
	ages(t, Config{Retention: 50 * time.Hour}, 2)
	if err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error { // one block is larger than may be kept
		if err == nil && strings.HasSuffix(path, "chunks/000001") {
			err = os.Truncate(path, 20<<20)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ages(t, Config{MaxSize: minSize}, 1)
	ages(t, Config{MaxSize: -1}, 1)
}

func TestTheAsideIsTidied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	aside := filepath.Join(dir, damagedDir)
	if err := os.Mkdir(aside, 0o750); err != nil {
		t.Fatal(err)
	}
	for i := range maxAside + 5 {
		write(t, filepath.Join(aside, fmt.Sprintf("2024%04d-x", i)), "")
	}
	old := write(t, filepath.Join(aside, "2025-old"), "")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-DefaultRetention)); err != nil {
		t.Fatal(err)
	}
	s, _ := openStore(t, Config{Dir: dir})
	closeStore(t, s)
	if left := files(aside); len(left) != maxAside-1 || slices.Contains(left, "2025-old") || !slices.Contains(left, "20240104-x") {
		t.Errorf("%d are left: %q", len(left), left)
	}
}

func TestNothingIsDeletedByItsAgeAfterTheClockWentForward(t *testing.T) {
	t.Parallel()
	dir, old, young := t.TempDir(), blockStart(240*time.Hour), blockStart(6*time.Hour)
	makeBlock(t, dir, "peas", old, old.Add(time.Hour))
	r := newRig(t, Config{Dir: dir, Retention: 48 * time.Hour})
	r.clock.wall = r.clock.wall.Add(-300 * time.Hour) // it goes forward when it is looked at first
	r.run().tells("the machine's clock went forward")
	makeBlock(t, dir, "peas", young, young.Add(time.Hour)) // the old one's age is the time between them
	r.eventually(func() error {
		return r.use(t.Context(), func(_ context.Context, s *session) error {
			if n := len(s.store.db.Blocks()); n != 2 {
				return fmt.Errorf("there are %d blocks", n)
			}
			return nil
		})
	})
	r.clock.held.Store(0)
	r.eventually(func() error {
		if blocks, err := blocksIn(dir); err != nil || len(blocks) != 1 {
			return fmt.Errorf("there are %d blocks: %w", len(blocks), err)
		}
		return nil
	})
}

func TestDamageWithinABlockIsFoundByACompaction(t *testing.T) {
	t.Parallel()
	dir, from := t.TempDir(), time.Now().Add(-72*time.Hour).Truncate(6*time.Hour)
	var blocks []string
	for i := range 5 {
		begin := from.Add(time.Duration(i) * 2 * time.Hour)
		blocks = append(blocks, makeBlock(t, dir, "peas", begin, begin.Add(2*time.Hour)))
	}
	overwrite(t, filepath.Join(blocks[1], "chunks", "000001"), 1000)
	s, r := openStore(t, Config{Dir: dir})
	defer closeStore(t, s)
	if err := s.db.Compact(context.Background()); err == nil {
		t.Fatal("the damaged block is compacted")
	}
	<-s.suspect
	s.inspect(context.Background())
	r.tells("a block of the metrics' history is damaged")
	r.eventually(func() error {
		if left, err := blocksIn(dir); err != nil || len(left) != 4 || slices.Contains(left, blocks[1]) {
			return fmt.Errorf("there are %q: %w", left, err)
		}
		return nil
	})
}
