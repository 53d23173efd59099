package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
)

// Schedule says when to save, where, and how many snapshots to keep.
type Schedule struct {
	// Dir is the folder for snapshots; empty for none.
	Dir string
	// Every is the time from one snapshot to the next.
	Every time.Duration
	// Keep is how many snapshots there may be before the oldest are removed.
	Keep int
}

// AddFlags adds the flags of a schedule and sets the defaults.
func (s *Schedule) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&s.Dir, "snapshot-dir", "", "`directory` on another disk for snapshots of the cluster, as km snapshot saves them, of no other cluster (default: none are saved)")
	fs.DurationVar(&s.Every, "snapshot-every", 6*time.Hour, "with --snapshot-dir: `time` from one snapshot to the next")
	fs.IntVar(&s.Keep, "snapshot-keep", 28, "with --snapshot-dir: how many snapshots to keep")
}

// Validate finds wrong flags.
func (s Schedule) Validate() error {
	switch {
	case s.Dir == "":
		return nil
	case s.Every < time.Second:
		return fmt.Errorf("cannot use --snapshot-every=%s: give a second or more, such as 6h", s.Every)
	case s.Keep < 1:
		return fmt.Errorf("cannot use --snapshot-keep=%d: give 1 or more", s.Keep)
	}
	return nil
}

// Figures are the metrics about scheduled snapshots.
type Figures struct {
	last   prometheus.Gauge
	failed prometheus.Counter
}

// NewFigures returns metrics that no registry has yet.
func NewFigures() Figures {
	return Figures{
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "k8sm_snapshot_last_success_timestamp_seconds", Help: "When the last scheduled snapshot of the cluster was saved, in Unix time; 0 if none is there.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "k8sm_snapshot_failures_total", Help: "Scheduled snapshots of the cluster that could not be saved.",
		}),
	}
}

// Collectors returns the metrics, to be registered.
func (f Figures) Collectors() []prometheus.Collector { return []prometheus.Collector{f.last, f.failed} }

// Names of scheduled snapshots: k8sm-TIME.tar, with the time in UTC.
const (
	namePrefix, nameSuffix = "k8sm-", ".tar"
	nameTime               = "20060102T150405Z"
)

// retry is the pause after a failure, unless the schedule has a shorter one.
const retry = 5 * time.Minute

// Run saves snapshots by save until ctx ends. The first is due at once, or when the last one of an earlier run is old enough. Failures
// are logged and counted, and soon tried again.
func (s Schedule) Run(ctx context.Context, figures Figures, save func(ctx context.Context, file string) (Manifest, error)) {
	pause := time.Duration(0)
	if saved, err := s.saved(); err == nil && len(saved) > 0 {
		last := saved[len(saved)-1]
		figures.last.Set(float64(last.Unix()))
		pause = min(s.Every, max(0, time.Until(last.Add(s.Every))))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = s.Every
		file, err := s.once(ctx, save)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			figures.failed.Inc()
			logrus.WithError(err).WithField("dir", s.Dir).Error("cannot save the scheduled snapshot of the cluster: there is no newer backup; see that the directory has room and can be written")
			pause = min(s.Every, retry)
		default:
			figures.last.SetToCurrentTime()
			logrus.WithField("file", file).Info("saved a snapshot of the cluster")
		}
	}
}

// once saves a snapshot, and removes what is too old and what a save that was killed left.
func (s Schedule) once(ctx context.Context, save func(ctx context.Context, file string) (Manifest, error)) (file string, err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return "", err
	}
	left, err := filepath.Glob(filepath.Join(s.Dir, tempPrefix+"*"))
	if err != nil {
		return "", err
	}
	for _, folder := range left {
		if err := os.RemoveAll(folder); err != nil {
			return "", err
		}
	}
	file = s.path(time.Now())
	if _, err := save(ctx, file); err != nil {
		return "", err
	}
	return file, s.prune()
}

func (s Schedule) path(at time.Time) string {
	return filepath.Join(s.Dir, namePrefix+at.UTC().Format(nameTime)+nameSuffix)
}

// prune removes the oldest snapshots.
func (s Schedule) prune() error {
	saved, err := s.saved()
	if err != nil {
		return err
	}
	for _, at := range saved[:max(0, len(saved)-s.Keep)] {
		if err := os.Remove(s.path(at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove an old snapshot: %w", err)
		}
	}
	return nil
}

// saved returns the times of the scheduled snapshots that are there, the oldest first.
func (s Schedule) saved() (times []time.Time, err error) {
	files, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name, _ := strings.CutPrefix(f.Name(), namePrefix)
		name, _ = strings.CutSuffix(name, nameSuffix)
		at, err := time.Parse(nameTime, name)
		if err == nil && s.path(at) == filepath.Join(s.Dir, f.Name()) {
			times = append(times, at)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times, nil
}
