package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// errPaused is why samples are refused. It is said once, when it begins.
var errPaused = errors.New("no samples are kept for now")

// minInodes is how many files must fit on the disk.
const minInodes = 64

// room watches the disk. Prometheus must not meet a full disk: it panics if it cannot write a chunk, and an entry that is half written
// damages its write-ahead log.
type room struct {
	dir string
	min int64 // bytes
	log *logrus.Entry

	full   atomic.Bool
	broken atomic.Bool // an entry of the log is half written: nothing may follow it
	mu     sync.Mutex  // guards changes of full and broken, and what is logged of them
}

// free is how many bytes the disk has free. One without inodes has none.
func (r *room) free() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(r.dir, &stat); err != nil {
		return 0, fmt.Errorf("cannot read how much room there is in %s: %w", r.dir, err)
	}
	if stat.Files > 0 && stat.Ffree < minInodes {
		return 0, nil
	}
	return int64(stat.Bavail) * stat.Bsize, nil
}

// admit returns errPaused while no samples may be written.
func (r *room) admit() error {
	free, err := r.free()
	if err != nil {
		return err
	}
	full := r.full.Load()
	if full && free >= 2*r.min || !full && free < r.min { // with a gap, so that it does not flap
		r.turn(!full, free)
	}
	if r.full.Load() || r.broken.Load() {
		return errPaused
	}
	return nil
}

// turn sets whether the disk is full, and says so.
func (r *room) turn(full bool, free int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full.Load() == full {
		return
	}
	r.full.Store(full)
	log := r.log.WithFields(logrus.Fields{"dir": r.dir, "free": mebibytes(free)})
	if full {
		log.Warnf("the disk of the metrics' history is full: scraping goes on, but no samples are kept until %s are free", mebibytes(2*r.min))
		return
	}
	log.Info("the disk of the metrics' history has room again: samples are kept")
}

// fail notes that an entry could not be written.
func (r *room) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken.Swap(true) {
		return
	}
	r.log.WithError(err).Warn("cannot write samples of metrics: no more are kept until there is room and what is in memory is written")
}

// tight reports whether the disk has so little left that nothing at all should be written.
func (r *room) tight() bool {
	free, err := r.free()
	return err == nil && free < r.min/4
}

// wait waits until the disk has room and a number of bytes more, or ctx ends.
func (r *room) wait(ctx context.Context, more int64, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		free, err := r.free()
		if err != nil {
			return err
		}
		need := r.min + more
		if r.full.Load() {
			need += r.min
		}
		r.turn(free < need, free)
		if free >= need {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// mebibytes writes a number of bytes for people.
func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
