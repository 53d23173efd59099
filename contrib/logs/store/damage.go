package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// hidden precedes the names of days that VictoriaLogs does not open itself: it would end the process if one is damaged.
const hidden = "."

// partitions is VictoriaLogs' directory of days. Each has a name like 20261130.
func (s *Store) partitions() string { return filepath.Join(s.data(), "partitions") }

// dayName matches the name of a day's directory.
var dayName = regexp.MustCompile(`^\d{8}$`)

// hidePartitions renames all days, so that VictoriaLogs opens none, and returns their names.
func (s *Store) hidePartitions() ([]string, error) {
	entries, err := os.ReadDir(s.partitions())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the days of the log store: %w", err)
	}
	var names []string
	for _, e := range entries {
		name := strings.TrimPrefix(e.Name(), hidden)
		if !dayName.MatchString(name) {
			continue
		}
		if e.Name() == name {
			if err := os.Rename(filepath.Join(s.partitions(), name), filepath.Join(s.partitions(), hidden+name)); err != nil {
				return nil, fmt.Errorf("cannot rename a day of the log store: %w", err)
			}
		}
		names = append(names, name)
	}
	return names, nil
}

// attach opens a day that was hidden. A damaged one is moved aside.
func (s *Store) attach(name string) error {
	path := filepath.Join(s.partitions(), name)
	if err := os.Rename(filepath.Join(s.partitions(), hidden+name), path); err != nil {
		return fmt.Errorf("cannot rename a day of the log store: %w", err)
	}
	err := attachPartition(name)
	if err == nil {
		return nil
	}
	return s.moveAside(name, err.Error())
}

// attachPartition makes VictoriaLogs open a day. It panics if the day is damaged.
func attachPartition(name string) (err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("%v", problem)
		}
	}()
	_, err = internal("/internal/partition/attach", url.Values{"name": {name}})
	return err
}

// moveAside moves a day out of the store.
func (s *Store) moveAside(name, why string) error {
	aside := filepath.Join(s.cfg.Dir, "damaged", name+"-"+time.Now().UTC().Format("20060102T150405.000"))
	if err := os.MkdirAll(filepath.Dir(aside), 0o700); err != nil {
		return fmt.Errorf("cannot make a directory for damaged logs: %w", err)
	}
	if err := os.Rename(filepath.Join(s.partitions(), name), aside); err != nil {
		return fmt.Errorf("cannot move damaged logs of the day %s aside: %w", name, err)
	}
	logrus.Errorf("the logs of the day %s are damaged: %s; moved them to %s, and go on without them", name, why, aside)
	return nil
}

// noted is a file with the day whose files VictoriaLogs could not read after it had opened them, once a line. It ended the process then.
func (s *Store) noted() string { return filepath.Join(s.cfg.Dir, "damaged.txt") }

const (
	// damagedAfter is how often VictoriaLogs has to end because of a day before that is moved aside.
	damagedAfter = 2
	// forgetDamage is when an end does not count any more.
	forgetDamage = time.Hour
)

var (
	dayInPath = regexp.MustCompile(`/partitions/(\d{8})/`)
	// notDamaged matches messages of the kernel that say nothing about what is on the disk.
	notDamaged = regexp.MustCompile(`no space left|quota exceeded|read-only file system|too many open files|cannot allocate memory|permission denied`)
)

// noteDamage notes the day that a last message of VictoriaLogs names.
func (s *Store) noteDamage(message string) {
	found := dayInPath.FindStringSubmatch(message)
	if found == nil || notDamaged.MatchString(message) {
		return
	}
	file, err := os.OpenFile(s.noted(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = file.WriteString(found[1] + "\n")
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		logrus.WithError(err).Error("cannot note that the logs of a day are damaged")
	}
}

// moveDamaged moves a day aside that was noted several times.
func (s *Store) moveDamaged() error {
	info, err := os.Stat(s.noted())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot find which logs are damaged: %w", err)
	}
	text, err := os.ReadFile(s.noted())
	if err != nil {
		return fmt.Errorf("cannot read which logs are damaged: %w", err)
	}
	days := strings.Fields(string(text))
	last := days[max(0, len(days)-damagedAfter):]
	switch {
	case time.Since(info.ModTime()) > forgetDamage:
	case len(last) < damagedAfter || len(slices.Compact(last)) > 1 || !dayName.MatchString(last[0]):
		return nil
	default:
		for _, name := range []string{last[0], hidden + last[0]} {
			if _, err := os.Stat(filepath.Join(s.partitions(), name)); err != nil {
				continue
			}
			if err := s.moveAside(name, "VictoriaLogs could not read them and ended"); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(s.noted()); err != nil {
		return fmt.Errorf("cannot forget which logs were damaged: %w", err)
	}
	return nil
}

// parseMessage returns the level and the text of a line of VictoriaLogs' log: level, place in its source and message.
func parseMessage(line []byte) (level, text string) {
	parts := strings.SplitN(strings.TrimSpace(string(line)), "\t", 3)
	if len(parts) < 3 {
		return "error", parts[0]
	}
	return parts[0], parts[2]
}
