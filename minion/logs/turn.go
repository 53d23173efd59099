package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/logs"
)

// outcome is what became of a chain's turn.
type outcome int

const (
	idle    outcome = iota // nothing more can be sent for now
	more                   // it wants another turn
	full                   // it wants another turn, and the batch is full
	unknown                // the store has to be asked first
)

// readPause is the pause after an error of reading.
const readPause = 10 * time.Second

// wake queues a chain.
func (s *shipping) wake(c *chain) {
	if !c.queued {
		c.queued = true
		s.fresh = append(s.fresh, c)
	}
}

// pick takes a chain from the queues: in turn one that was woken and one that has had a turn and wants more, so that neither kind
// waits for the other.
func (s *shipping) pick(turn int) *chain {
	from := &s.fresh
	if len(s.fresh) == 0 || turn%2 == 1 && len(s.stale) > 0 {
		from = &s.stale
	}
	if len(*from) == 0 {
		return nil
	}
	c := (*from)[0]
	*from = slices.Delete(*from, 0, 1)
	c.queued = false
	return c
}

// turn adds a window of a chain's file to the batch.
func (s *shipping) turn(c *chain, b *batch, now time.Time) outcome {
	c.due = time.Time{}
	i := s.reading(c, now)
	if i < 0 {
		return idle
	}
	if now.Before(c.notBefore) {
		c.due = c.notBefore
		return idle
	}
	if c.files[i].lost != nil {
		return s.turnLost(c, c.files[i], b)
	}
	result, err := s.turnFile(c, i, b, now)
	switch {
	case err == nil:
		c.faulty = false
		return result
	case !c.faulty:
		c.faulty = true
		s.logOf(c).WithError(err).Error("cannot read a container's log; trying again")
	}
	c.notBefore = now.Add(readPause)
	c.due = c.notBefore
	return idle
}

// reading returns the index of the file that is to be read, negative if there is none. Before a file is begun, the one before it is
// looked at once more: nothing will be written to that any more.
func (s *shipping) reading(c *chain, now time.Time) int {
	i := c.reading()
	if i <= 0 || c.files[i].next > 0 || c.files[i-1].lost != nil || !c.files[i-1].linked {
		return i
	}
	if info, err := s.spool.stat(c.place, c.files[i-1].number); err == nil {
		c.files[i-1].seen(info, now)
	}
	return c.reading()
}

func (s *shipping) logOf(c *chain) logrus.FieldLogger {
	return s.log.WithFields(logrus.Fields{"pod": c.source.Namespace + "/" + c.source.Pod, "container": c.source.Container})
}

// turnFile adds a window of a file with content.
func (s *shipping) turnFile(c *chain, i int, b *batch, now time.Time) (outcome, error) {
	f := c.files[i]
	if !f.linked {
		return idle, nil // it has to be found
	}
	content, err := s.spool.open(c.place, f.number)
	if errors.Is(err, fs.ErrNotExist) {
		f.linked = false
		s.rescan(c)
		return idle, nil
	}
	if err != nil {
		return idle, err
	}
	defer content.Close()
	info, err := statFile(content)
	if err != nil {
		return idle, err
	}
	f.seen(info, now)
	final := c.isFinal(i)
	if f.id == "" {
		print, err := fingerprint(f.inode, content, final)
		if err != nil || print == "" { // it has no first line yet
			return idle, err
		}
		c.nameFile(f, print)
	}
	if f.shrunk {
		return more, s.truncated(c, f, now)
	}
	if !f.known {
		return unknown, nil
	}
	w, err := f.readWindow(content, f.size, s.buffer)
	if errors.Is(err, errShrunk) {
		return more, nil
	}
	if err != nil {
		return idle, err
	}
	// It was read first: what was read is of this log if the file begins as this log does now.
	print, err := fingerprint(f.inode, content, final)
	if err != nil {
		return idle, err
	}
	if !hasPrint(f.id, print) {
		f.size = max(f.next, f.checked) // what it has now is of the other log
		return more, s.truncated(c, f, now)
	}
	f.checked = f.size
	w.final, w.mtime = final, f.written
	return s.cut(c, f, w, b, now), nil
}

// cut adds the entries of a window to the batch.
func (s *shipping) cut(c *chain, f *file, w window, b *batch, now time.Time) outcome {
	s.setPattern(c)
	before := f.next
	m := mark{chain: c, file: f, epoch: f.epoch}
	source := c.sourceOf(f)
	cut := cutter{window: w, cursor: &f.cursor, limit: s.limit, start: c.join.start, now: now, open: s.groups}
	cut.add = func(e *logs.Entry, lines int) bool {
		if !s.fits(len(e.Message)) {
			return false
		}
		s.writer.Add(source, e)
		m.lines += int64(lines)
		m.bytes += int64(len(e.Message))
		return true
	}
	isFull, due := cut.cut()
	for i := range cut.open {
		cut.open[i].isOpen = false
	}
	s.groups = cut.open
	b.add(m)
	c.due = due
	switch {
	case isFull:
		return full
	case w.more || f.next > before && c.reading() >= 0 && f.next == f.size:
		return more
	default:
		return idle
	}
}

// fits reports whether an entry with a message of this length goes into the batch.
func (s *shipping) fits(message int) bool {
	size := s.writer.Size()
	return size == 0 || size < batchSize && size+logs.MaxEntrySize(message) <= s.session.MaxBatch
}

// add adds a mark. There is one for each file.
func (b *batch) add(m mark) {
	for i := range b.marks {
		if old := &b.marks[i]; old.file == m.file {
			old.lines += m.lines
			old.bytes += m.bytes
			return
		}
	}
	b.marks = append(b.marks, m)
}

// setPattern takes the pod's annotation.
func (s *shipping) setPattern(c *chain) {
	if s.Multiline == nil || c.source.IsComponent() {
		return
	}
	text, known := s.Multiline(c.source.Namespace, c.source.Pod, c.source.UID)
	if !known { // it is gone, or the minion has just started
		return
	}
	if err := c.join.set(text); err != nil {
		s.logOf(c).WithError(err).Warnf("not joining lines of the pod's log: its annotation %s is no regular expression that can be used", api.AnnotationLogMultiline)
	}
}

// turnLost adds an entry in the place of what is lost.
func (s *shipping) turnLost(c *chain, f *file, b *batch) outcome {
	if !f.known {
		return unknown
	}
	if !s.fits(0) {
		return full
	}
	if !f.lost.Counted {
		f.lost.Counted = true
		s.dropped(f.lost.Reason, f.lost.Lines, f.ahead.missing(f.next, f.size).size())
	}
	e := f.lostEntry()
	s.writer.Add(c.sourceOf(f), e)
	for r := range e.Covers {
		f.ahead.add(r)
	}
	f.next = f.ahead.advance(f.next)
	b.add(mark{chain: c, file: f, epoch: f.epoch})
	return more
}

// truncated takes that a file was truncated in place, so that what it has now is another log.
func (s *shipping) truncated(c *chain, f *file, now time.Time) error {
	number := f.number
	s.lose(c, f, droppedTruncated, now)
	s.rescan(c)
	if err := s.spool.remove(c.place, number); err != nil { // it would look like another name of a file
		return fmt.Errorf("cannot begin with a truncated file anew: %w", err)
	}
	return nil
}
