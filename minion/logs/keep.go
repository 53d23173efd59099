package logs

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long a deleted file is kept after all of it was sent: whoever has it open may still write to it.
	settle = 2 * time.Second
	// saveInterval is the time between two times that positions are saved.
	saveInterval = time.Second
	// sayInterval is the time between two messages about lines that were dropped.
	sayInterval = 10 * time.Second
)

// whys are the reasons for dropping lines, for people.
var whys = map[string]string{
	droppedSpool:     "the log store was away, and the node keeps no more of them",
	droppedDisk:      "the log store was away, and the disk of the node is full",
	droppedTruncated: "the file was truncated before it was shipped",
	droppedMissing:   "the file was deleted before it was shipped",
	droppedRefused:   "the log store does not take them",
}

// tally is what was dropped since that was said.
type tally struct{ lines, bytes int64 }

// dropped counts what was dropped.
func (s *shipping) dropped(reason string, lines, bytes int64) {
	s.Metrics.dropped(reason, lines, bytes)
	if s.Dropped != nil {
		s.Dropped(whys[reason], lines, bytes)
	}
	t := s.tallies[reason]
	s.tallies[reason] = tally{t.lines + lines, t.bytes + bytes}
}

// sayDropped says what was dropped.
func (s *shipping) sayDropped(now time.Time) {
	if len(s.tallies) == 0 || now.Before(s.sayAt) {
		return
	}
	s.sayAt = now.Add(sayInterval)
	for reason, t := range s.tallies {
		s.log.WithFields(logrus.Fields{"lines": t.lines, "bytes": t.bytes, "reason": whys[reason]}).Warn("dropped lines of containers' logs")
	}
	clear(s.tallies)
}

// lose takes that what was not sent of a file will not be, and gives up its content. The store gets an entry in its place.
func (s *shipping) lose(c *chain, f *file, reason string, now time.Time) {
	missing := f.ahead.missing(f.next, f.size)
	lost := &loss{Reason: reason, Lines: s.countLines(c, f, missing, reason)}
	s.discard(c, f)
	s.dirty = true
	// What is missing may be in the store: it knows that.
	if reason != droppedMissing {
		lost.Counted = true
		s.dropped(reason, lost.Lines, missing.size())
	}
	if i := slices.Index(c.files, f); i > 0 && f.commit == f.next && len(f.ahead) == 0 {
		if before := c.files[i-1]; before.lost != nil && before.next < before.size {
			before.lost.Lines += lost.Lines
			before.lost.Others += missing.size()
			c.remove(f)
			return
		}
	}
	if f.lost, f.shrunk, f.gone = lost, false, now; f.id == "" {
		f.id = lostID
	}
	s.wake(c)
}

// countLines counts the lines of what is to be dropped, 0 if they cannot be counted.
func (s *shipping) countLines(c *chain, f *file, missing ranges, reason string) (lines int64) {
	if f.shrunk || !f.linked {
		return 0
	}
	content, err := s.spool.open(c.place, f.number)
	if err != nil {
		return 0
	}
	defer content.Close()
	if f.id == "" {
		if print, err := fingerprint(f.inode, content, true); err == nil && print != "" {
			c.nameFile(f, print)
		}
	}
	for _, m := range missing {
		part := io.NewSectionReader(content, m.Begin, m.End-m.Begin)
		for {
			n, err := part.Read(s.buffer)
			lines += int64(bytes.Count(s.buffer[:n], newline))
			if err != nil {
				break
			}
		}
	}
	return lines
}

var newline = []byte("\n")

// discard gives up the content of a file.
func (s *shipping) discard(c *chain, f *file) {
	if f.linked {
		f.linked = false
		s.trash = append(s.trash, spooled{c.place, f.number})
	}
}

// kept is a deleted file of which something is kept.
type kept struct {
	chain *chain
	file  *file
}

func oldestFirst(a, b kept) int { return cmp.Compare(a.file.written, b.file.written) }

// enforce drops the oldest of the deleted files that are kept, until they are within the limits.
func (s *shipping) enforce(now time.Time) {
	var all []kept
	sum := int64(0)
	for c := range s.logs.all() {
		for _, f := range c.files {
			if f.lost == nil && f.linked && !f.gone.IsZero() {
				all = append(all, kept{c, f})
				sum += f.size
			}
		}
	}
	s.Metrics.kept.Set(float64(sum))
	if len(all) == 0 {
		return
	}
	lacking := int64(0)
	if free, err := s.spool.free(); err == nil {
		lacking = s.MinFreeBytes - free - s.freeing
	}
	if sum <= s.SpoolBytes && len(all) <= s.SpoolFiles && lacking <= 0 {
		return
	}
	slices.SortFunc(all, oldestFirst)
	for i, k := range all {
		reason := droppedSpool
		if sum <= s.SpoolBytes && len(all)-i <= s.SpoolFiles {
			reason = droppedDisk
			if lacking <= 0 {
				return
			}
		}
		sum -= k.file.size
		lacking -= k.file.size
		s.freeing += k.file.size
		s.lose(k.chain, k.file, reason, now)
	}
}

// forgetLosses forgets the oldest losses if there are too many. They were counted and said; only the store will not have them.
func (s *shipping) forgetLosses() {
	var all []kept
	for c := range s.logs.all() {
		for _, f := range c.files {
			if f.lost != nil {
				all = append(all, kept{c, f})
			}
		}
	}
	if len(all) <= s.SpoolFiles {
		return
	}
	slices.SortFunc(all, oldestFirst)
	for _, k := range all[:len(all)-s.SpoolFiles] {
		k.chain.remove(k.file)
		s.dirty = true
	}
}

// finish forgets files that were deleted and are in the store.
func (s *shipping) finish(now time.Time) {
	for c := range s.logs.all() {
		for _, f := range slices.Clone(c.files) {
			if !f.gone.IsZero() && s.isFinished(c, f, now) {
				if f.linked {
					if err := s.spool.remove(c.place, f.number); err != nil {
						s.log.WithError(err).Warn("cannot remove a log that was shipped; trying again")
						continue
					}
				}
				c.remove(f)
				s.dirty = true
			}
		}
		if len(c.files) == 0 && c.gone {
			s.logs.remove(c)
			s.dirty = true
		}
	}
}

func (s *shipping) isFinished(c *chain, f *file, now time.Time) bool {
	switch {
	case !f.isSent() || f.lost == nil && now.Sub(f.gone) < settle:
		return false
	case f.lost != nil || !f.linked:
		return true
	case f.emptied:
		return s.isSettled(f)
	}
	info, err := s.spool.stat(c.place, f.number)
	if err != nil {
		return errors.Is(err, unix.ENOENT)
	}
	if f.seen(info, now); !f.isSent() {
		s.wake(c)
		return false
	}
	if !f.isSettled() && s.diskFull && f.linked && info.names == 1 {
		// Positions need space. That they were not saved is no harm: nothing more will be read of the file.
		f.emptied = s.spool.empty(c.place, f.number) == nil
	}
	return s.isSettled(f)
}

// isSettled reports whether the saved positions say that all of the file is in the store, and has them saved again if not. They may have
// a line that the runtime has cut off since then.
func (s *shipping) isSettled(f *file) bool {
	s.dirty = s.dirty || !f.isSettled()
	return f.isSettled()
}

// save saves the positions, and then removes files of which they say that they are not needed.
func (s *shipping) save(now time.Time) error {
	began := time.Now()
	data, err := encodePositions(s.logs.all())
	if err == nil {
		err = s.spool.save(data)
	}
	s.saveAt = now.Add(max(saveInterval, 20*time.Since(began)))
	s.diskFull = errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if err == nil {
		s.dirty = false
		for c := range s.logs.all() {
			for _, f := range c.files {
				f.saves()
			}
		}
	}
	if err != nil && !s.diskFull {
		return err
	}
	// With a full disk, space is what is needed.
	for len(s.trash) > 0 {
		if err := s.spool.remove(s.trash[0].place, s.trash[0].number); err != nil {
			return err
		}
		s.trash = s.trash[1:]
	}
	s.freeing = 0
	return err
}

// lag is for how long the oldest line waits.
func (s *shipping) lag(now time.Time) (longest time.Duration) {
	for c := range s.logs.all() {
		for _, f := range c.files {
			if !f.behind.IsZero() {
				longest = max(longest, now.Sub(f.behind))
			}
		}
	}
	return longest
}
