package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/compression"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Settings of the database for few series. They are a trade of memory for speed at hundreds of thousands.
const (
	segmentSize      = 16 << 20 // of the write-ahead log, and of blocks: a compaction takes as much disk at once
	writeBuffer      = 256 << 10
	stripes          = 2048
	replayers        = 2
	longestBlock     = 31 * 24 * time.Hour
	blocksPerHistory = 10 // a block is no longer than a part of the retention, because it is deleted as a whole
)

// store is the database of one session: from open to close.
type store struct {
	cfg   Config
	log   *logrus.Entry
	slog  *slog.Logger
	clock *clock
	pace  pace
	room  *room
	limit *seriesLimit

	db     *tsdb.DB
	opened atomic.Pointer[tsdb.DB] // db, for its own goroutine
	stats  *tsdb.DBStats

	closing chan struct{} // closed when the database shall close
	suspect chan struct{} // has an entry if a block may be damaged

	// making is held while series are made. Prometheus sorts its index under its readers if two are made at once, and the later is first
	// (https://github.com/prometheus/prometheus/issues/15317).
	making sync.Mutex

	mu     sync.Mutex // guards doomed
	doomed map[ulid.ULID]struct{}
}

// newStore returns a store that is not open.
func newStore(cfg Config, slog *slog.Logger, clock *clock, pace pace) *store {
	return &store{
		cfg: cfg, log: cfg.Log, slog: slog, clock: clock, pace: pace,
		room:  &room{dir: cfg.Dir, min: cfg.MinFree, log: cfg.Log},
		limit: &seriesLimit{max: int64(cfg.MaxSeries)},
		stats: tsdb.NewDBStats(), closing: make(chan struct{}), suspect: make(chan struct{}, 1), doomed: map[ulid.ULID]struct{}{},
	}
}

// lock makes the directory and takes it for this store alone, until the function it returns is called. The database has a lock as well,
// but it takes that when we have cleared up already.
func (s *store) lock() (func(), error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("cannot create the directory of the metrics' history: %w", err)
	}
	dir, err := os.Open(s.cfg.Dir)
	if err != nil {
		return nil, describe(s.cfg.Dir, err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(describe(s.cfg.Dir, err), dir.Close())
	}
	return func() { _ = dir.Close() }, nil // it was only locked
}

// wait waits until the disk has room for what is written when the database is opened.
func (s *store) wait(ctx context.Context) error {
	log, err := s.headSize()
	if err != nil {
		return err
	}
	return s.room.wait(ctx, log, s.pace.room)
}

// open opens the database. What is damaged is moved aside. It returns the registry with the database's metrics.
func (s *store) open(ctx context.Context) (*prometheus.Registry, error) {
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("cannot prepare the directory of the metrics' history: %w", err)
	}
	lost := false
	for _, name := range []string{"wal", "wbl"} {
		damaged, err := s.salvage(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the metrics' write-ahead log: %w", err)
		}
		lost = lost || damaged
	}
	registry, err := s.openOnce()
	if size, _ := s.headSize(); err != nil && hopeless(err) && size > 0 {
		s.log.WithError(err).Warn("cannot open the metrics' history: the samples that are not in blocks are moved aside")
		if err := s.dropHead(true); err != nil {
			return nil, err
		}
		registry, err = s.openOnce()
	}
	if err != nil {
		return nil, describe(s.cfg.Dir, err)
	}
	if !lost && !s.ahead() {
		return registry, nil
	}
	if err := s.shed(ctx); err != nil {
		return nil, err
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("cannot prepare the directory of the metrics' history: %w", err)
	}
	if registry, err = s.openOnce(); err != nil {
		return nil, describe(s.cfg.Dir, err)
	}
	return registry, nil
}

// describe says what to do about a directory that cannot be opened.
func describe(dir string, err error) error {
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("cannot use the metrics' history in %s: another process uses it; stop that: %w", dir, err)
	}
	return fmt.Errorf("cannot open the metrics' history in %s: %w", dir, err)
}

// passing are errors of the system that may pass by themselves, or that an operator must end.
var passing = []error{
	unix.EWOULDBLOCK, unix.ENOSPC, unix.EDQUOT, unix.EACCES, unix.EPERM, unix.EROFS, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EIO,
}

// hopeless reports whether trying again helps nothing.
func hopeless(err error) bool {
	return !slices.ContainsFunc(passing, func(other error) bool { return errors.Is(err, other) })
}

// openOnce opens the database.
func (s *store) openOnce() (registry *prometheus.Registry, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("cannot read it: %v", cause)
		}
	}()
	registry = prometheus.NewRegistry()
	s.limit.armed.Store(false)
	s.limit.count.Store(0)
	s.opened.Store(nil)
	s.db, err = tsdb.Open(s.cfg.Dir, s.slog.With("component", "tsdb"), registry, s.options(), s.stats)
	if err != nil {
		return nil, err
	}
	s.limit.armed.Store(true)
	s.opened.Store(s.db)
	return registry, nil
}

// options are the database's.
func (s *store) options() *tsdb.Options {
	o := tsdb.DefaultOptions()
	o.RetentionDuration, o.MaxBytes = s.cfg.Retention.Milliseconds(), max(0, s.cfg.MaxSize)
	o.MinBlockDuration = s.pace.block.Milliseconds()
	o.MaxBlockDuration = max(s.pace.block, min(longestBlock, s.cfg.Retention/blocksPerHistory)).Milliseconds()
	o.BlockReloadInterval = s.pace.blocks
	o.OutOfOrderTimeWindow = lateness.Milliseconds()
	o.WALCompression, o.WALSegmentSize, o.WALReplayConcurrency = compression.Snappy, segmentSize, replayers
	o.MaxBlockChunkSegmentSize = segmentSize
	o.StripeSize, o.HeadChunksWriteBufferSize, o.HeadChunksWriteQueueSize = stripes, writeBuffer, 0
	o.SeriesLifecycleCallback = s.limit
	o.BlocksToDelete = s.blocksToDelete
	o.NewCompactorFunc = s.compactor
	return o
}

// blocksToDelete are the blocks that are too old or too many, or damaged. Prometheus asks before it writes to disk at intervals, in the
// goroutine that does: here it waits as long as the disk is full, because it would panic.
func (s *store) blocksToDelete(blocks []*tsdb.Block) map[ulid.ULID]struct{} {
	db := s.opened.Load()
	if db == nil {
		return nil // it is being opened, and asks again
	}
	var gone map[ulid.ULID]struct{}
	if !s.clock.holds() {
		gone = tsdb.DefaultBlocksToDelete(db)(blocks)
	} else if gone = tsdb.BeyondSizeRetention(db, blocks); gone == nil {
		gone = map[ulid.ULID]struct{}{}
	}
	s.mu.Lock()
	for _, block := range blocks {
		if _, ok := s.doomed[block.Meta().ULID]; ok {
			gone[block.Meta().ULID] = struct{}{}
		}
	}
	s.mu.Unlock()
	for len(gone) == 0 && s.room.tight() {
		select {
		case <-s.closing:
			return nil
		case <-time.After(s.pace.room):
		}
	}
	return gone
}

// compactor is Prometheus' own, but an error makes us look for damaged blocks.
func (s *store) compactor(ctx context.Context, r prometheus.Registerer, l *slog.Logger, ranges []int64, pool chunkenc.Pool, o *tsdb.Options) (tsdb.Compactor, error) {
	made, err := tsdb.NewLeveledCompactorWithOptions(ctx, r, l, ranges, pool, tsdb.LeveledCompactorOptions{
		MaxBlockChunkSegmentSize: o.MaxBlockChunkSegmentSize, EnableOverlappingCompaction: true, PD: o.PostingsDecoderFactory,
	})
	return suspicious{made, s}, err
}

// suspicious is a compactor whose errors make us look for damaged blocks.
type suspicious struct {
	tsdb.Compactor
	store *store
}

// Compact implements tsdb.Compactor.
func (c suspicious) Compact(dest string, dirs []string, open []*tsdb.Block) ([]ulid.ULID, error) {
	made, err := c.Compactor.Compact(dest, dirs, open)
	if err != nil {
		c.store.suspectDamage()
	}
	return made, err
}

// ahead reports whether the samples in memory are so far ahead of the clock that samples of now would be refused.
func (s *store) ahead() bool {
	head := s.db.Head()
	return head.NumSeries() > 0 && head.MaxTime() > s.clock.now().Add(maxAhead).UnixMilli()
}

// shed writes all samples to blocks, closes the database and removes the write-ahead log.
func (s *store) shed(ctx context.Context) error {
	if err := s.flush(); err != nil {
		return errors.Join(fmt.Errorf("cannot write the metrics in memory to disk: %w", err), s.closeSafely(ctx))
	}
	if err := s.closeSafely(ctx); err != nil {
		return err
	}
	return s.dropHead(false)
}

// closeSafely closes the database once the disk has room.
func (s *store) closeSafely(ctx context.Context) error {
	for s.room.tight() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.pace.room):
		}
	}
	return s.close()
}

// flush writes all samples to blocks. Nothing may be appended meanwhile. What is older than now is not in one block with what is not.
func (s *store) flush() error {
	head, now := s.db.Head(), s.clock.now().UnixMilli()
	length := s.pace.block.Milliseconds()
	for head.NumSeries() > 0 && head.MinTime() <= head.MaxTime() {
		first := head.MinTime()
		last := first - first%length + length - 1
		if first <= now && now < last {
			last = now
		}
		if err := s.db.CompactHead(tsdb.NewRangeHead(head, first, min(last, head.MaxTime()))); err != nil {
			return err
		}
		if head.MinTime() <= first {
			break // there is nothing left
		}
	}
	return s.db.CompactOOOHead(context.Background())
}

// close closes the database. The disk must have room: Prometheus writes, and panics if it cannot.
func (s *store) close() (err error) {
	close(s.closing)
	defer func() {
		s.closing = make(chan struct{})
		if cause := recover(); cause != nil {
			err = fmt.Errorf("cannot close the metrics' history: %v", cause)
		}
	}()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("cannot close the metrics' history: %w", err)
	}
	return nil
}

// headDirs are where samples are that are not in blocks.
var headDirs = []string{"wal", "wbl", "chunks_head"}

// headSize is how many bytes are not in blocks.
func (s *store) headSize() (total int64, err error) {
	for _, name := range headDirs {
		err := filepath.WalkDir(filepath.Join(s.cfg.Dir, name), func(_ string, entry os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				total += info.Size()
			}
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("cannot read the metrics' history: %w", err)
		}
	}
	return total, nil
}

// dropHead removes what is not in blocks, or moves it aside.
func (s *store) dropHead(aside bool) error {
	for _, name := range headDirs {
		path := filepath.Join(s.cfg.Dir, name)
		var err error
		if aside {
			_, err = s.moveAside(path)
		} else {
			err = os.RemoveAll(path)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// AppenderV2 implements storage.AppendableV2, for scraped samples.
func (s *store) AppenderV2(ctx context.Context) storage.AppenderV2 {
	if err := s.room.admit(); err != nil {
		return refusingV2{err}
	}
	return appenderV2{s.db.AppenderV2(ctx), s}
}

// Appender implements storage.Appendable, for the results of rules.
func (s *store) Appender(ctx context.Context) storage.Appender {
	if err := s.room.admit(); err != nil {
		return refusing{err: err}
	}
	return appender{s.db.Appender(ctx), s}
}

// appenderV2 notes when samples cannot be written, and makes one series at a time.
type appenderV2 struct {
	storage.AppenderV2
	store *store
}

// Append implements storage.AppenderV2.
func (a appenderV2) Append(ref storage.SeriesRef, series labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	defer a.store.mayMake(ref)()
	return a.AppenderV2.Append(ref, series, st, t, v, h, fh, o)
}

// Commit implements storage.AppenderV2.
func (a appenderV2) Commit() error { return a.store.room.committed(a.AppenderV2.Commit()) }

// appender is an appenderV2 of the older interface, as far as rules use it.
type appender struct {
	storage.Appender
	store *store
}

// Append implements storage.Appender.
func (a appender) Append(ref storage.SeriesRef, series labels.Labels, t int64, v float64) (storage.SeriesRef, error) {
	defer a.store.mayMake(ref)()
	return a.Appender.Append(ref, series, t, v)
}

// AppendHistogram implements storage.Appender.
func (a appender) AppendHistogram(ref storage.SeriesRef, series labels.Labels, t int64, h *histogram.Histogram, fh *histogram.FloatHistogram) (storage.SeriesRef, error) {
	defer a.store.mayMake(ref)()
	return a.Appender.AppendHistogram(ref, series, t, h, fh)
}

// Commit implements storage.Appender.
func (a appender) Commit() error { return a.store.room.committed(a.Appender.Commit()) }

// mayMake begins to append to a series, which is made if it has no number yet. The function it returns ends it.
func (s *store) mayMake(ref storage.SeriesRef) func() {
	if ref != 0 {
		return func() {}
	}
	s.making.Lock()
	return s.making.Unlock
}

// committed notes an error of writing.
func (r *room) committed(err error) error {
	if err == nil {
		return nil
	}
	r.fail(err)
	return errors.Join(errPaused, err)
}

// seriesLimit refuses series above a number, and those that say how a scrape went or what is wrong above a tenth more.
type seriesLimit struct {
	max   int64
	armed atomic.Bool // not while the log is read
	count atomic.Int64
}

// errTooMany is why a series is refused.
var errTooMany = errors.New("the history has as many series as it may have")

// reports are the metrics of scrapes and alerts.
var reports = []string{"up", "ALERTS", "ALERTS_FOR_STATE", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling", "scrape_series_added"}

// PreCreation implements tsdb.SeriesLifecycleCallback.
func (l *seriesLimit) PreCreation(series labels.Labels) error {
	most := l.max
	if slices.Contains(reports, series.Get(model.MetricNameLabel)) {
		most += most / 10
	}
	if l.armed.Load() && l.count.Load() >= most {
		return fmt.Errorf("%w, %d: scrape less, or drop series by metric_relabel_configs", errTooMany, l.max)
	}
	return nil
}

// PostCreation implements tsdb.SeriesLifecycleCallback.
func (l *seriesLimit) PostCreation(labels.Labels) { l.count.Add(1) }

// PostDeletion implements tsdb.SeriesLifecycleCallback.
func (l *seriesLimit) PostDeletion(gone map[chunks.HeadSeriesRef]labels.Labels) {
	l.count.Add(-int64(len(gone)))
}
