package history

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/sirupsen/logrus"
)

// page is the unit in which Prometheus writes its log. What is torn off by a crash is less.
const page = 32 << 10

// salvage cuts the damaged ends of the segments of a write-ahead log, and of its checkpoints. What it cuts is moved aside, unless it is
// what a crash leaves. It reports whether entries that others refer to can be lost: then the log must be rebuilt once it is read.
//
// Prometheus would delete all that comes after the damage, and does not start with a damaged checkpoint.
func (s *store) salvage(name string) (lost bool, err error) {
	dir := filepath.Join(s.cfg.Dir, name)
	checkpoints, err := filepath.Glob(filepath.Join(dir, "checkpoint.*"))
	if err != nil {
		return false, err
	}
	for _, in := range append(checkpoints, dir) {
		segments, err := segmentsIn(in)
		if err != nil {
			return false, err
		}
		for i, segment := range segments {
			damaged, err := s.salvageSegment(segment, in == dir && i == len(segments)-1)
			if err != nil {
				return false, err
			}
			lost = lost || damaged
		}
	}
	return lost, nil
}

// segmentsIn are the paths of the segments in a directory, oldest first.
func segmentsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var segments []string
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err == nil && entry.Type().IsRegular() {
			segments = append(segments, filepath.Join(dir, entry.Name()))
		}
	}
	slices.Sort(segments)
	return segments, nil
}

// salvageSegment cuts a segment after its last entry that can be read. It reports whether it was damaged, and not just the last one when
// the process ended.
func (s *store) salvageSegment(path string, last bool) (bool, error) {
	good, damage, err := readSegment(path)
	if err != nil || damage == nil {
		return false, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	cut := info.Size() - good
	log := s.log.WithError(damage).WithFields(logrus.Fields{"file": path, "bytes": cut})
	if last && cut < page {
		log.Info("the end of the metrics' write-ahead log is torn, as after a crash: it is cut off")
		return false, os.Truncate(path, good)
	}
	kept, err := s.keepAside(path, good)
	if err != nil {
		return false, err
	}
	log.Warnf("the metrics' write-ahead log is damaged: the damaged part is moved to %s, the rest is kept", kept)
	return true, os.Truncate(path, good)
}

// readSegment reads a segment. It returns where its last good entry ends and what is wrong after it.
func readSegment(path string) (good int64, damage, err error) {
	segment, err := wlog.OpenReadSegment(path)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot read the metrics' write-ahead log: %w", err)
	}
	buffered := wlog.NewSegmentBufReader(segment)
	defer buffered.Close()
	reader := wlog.NewReader(buffered)
	for reader.Next() {
		good = reader.Offset()
	}
	return good, reader.Err(), nil
}

// keepAside copies what a file has from an offset on.
func (s *store) keepAside(path string, from int64) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	if _, err := in.Seek(from, io.SeekStart); err != nil {
		return "", err
	}
	relative, err := filepath.Rel(s.cfg.Dir, path)
	if err != nil {
		return "", err
	}
	to, err := s.asidePath(strings.ReplaceAll(relative, string(filepath.Separator), "-"))
	if err != nil {
		return "", err
	}
	out, err := os.Create(to)
	if err != nil {
		return "", err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return "", err
	}
	return to, out.Close()
}
