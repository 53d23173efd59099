package logs

import (
	"bytes"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/k8sm/k8sm/api/logs"
)

// Waits for the rest of what belongs together.
const (
	partialWait   = time.Second
	multilineWait = 500 * time.Millisecond
)

// Sizes of what is read from a file at a time. A narrow window keeps containers from waiting for each other. A wide one has the longest
// message, in the runtime's format and mixed with the other stream.
const (
	narrowWindow = 64 << 10
	wideWindow   = 512 << 10
	// longestMessage is the longest message that is joined from several lines.
	longestMessage = 128 << 10
)

// window is a part of a file.
type window struct {
	data   []byte
	at     int64 // the offset of data
	more   bool  // the file has more bytes
	final  bool  // nothing will follow in this file
	widest bool  // the window cannot grow
	inside *line // data begins within this line: its header, without content
	mtime  int64 // when the file was written, in nanoseconds since 1970
}

// cursor is what is remembered about a file between two windows.
type cursor struct {
	// next is the first byte that is in no entry. ahead are ranges beyond it that are in entries.
	next  int64
	ahead ranges
	// widen asks for a wide window.
	widen bool
	// waits are what waits for more lines, by stream.
	waits [2]wait
	// within is the line within which next is, if it was cut at next before.
	within *line
}

// wait is an entry to which lines may still be joined.
type wait struct {
	begin int64
	since time.Time // zero if nothing waits
}

// cutter cuts a window into entries. Their bytes are those of the window that are not ahead already.
type cutter struct {
	window
	*cursor
	limit int            // the longest message
	start *regexp.Regexp // matches lines that begin an entry; nil: all do
	now   time.Time
	// add takes an entry of so many lines, unless the batch is full. It keeps nothing of it.
	add func(e *logs.Entry, lines int) bool

	x      int   // where the next line begins in data, or goes on
	inside *line // x is within this line
	last   int64 // the last time seen
	open   [2]group
}

// group is an entry to which lines are joined.
type group struct {
	entry   logs.Entry // Message has space for more, and belongs to the cutter
	lines   int
	isOpen  bool
	partial bool // the last line goes on
}

func index(s logs.Stream) int {
	if s == logs.Stderr {
		return 1
	}
	return 0
}

// cut takes as much of the window as it can, and moves the cursor. full says that add took no more. due says when to come again if the
// file gets no more bytes; zero if never.
func (c *cutter) cut() (full bool, due time.Time) {
	c.last, c.inside, c.widen = c.mtime, c.window.inside, false
	full = !c.cutLines() || !c.settle()
	c.next = c.ahead.advance(c.next)
	c.within = nil
	if c.inside != nil && c.next == c.at+int64(c.x) {
		c.within = c.inside
	}
	for i, w := range c.waits {
		if !w.since.IsZero() {
			if d := w.since.Add(c.patience(i)); due.IsZero() || d.Before(due) {
				due = d
			}
		}
	}
	return full, due
}

func (c *cutter) patience(stream int) time.Duration {
	if c.open[stream].partial {
		return partialWait
	}
	return multilineWait
}

// cutLines goes through the window. It returns false if the batch is full.
func (c *cutter) cutLines() bool {
	for c.x < len(c.data) {
		if to, covered := c.ahead.end(c.at + int64(c.x)); covered {
			goOn, ok := c.skip(int(min(to-c.at, int64(len(c.data)))))
			if !ok || !goOn {
				return ok
			}
			continue
		}
		rest := c.data[c.x:]
		end := bytes.IndexByte(rest, '\n')
		text, length := rest, len(rest)
		if end >= 0 {
			text, length = rest[:end], end+1
		}
		complete := end >= 0 || c.final && !c.more
		switch {
		case c.inside != nil || c.isLong(text, complete):
			if goOn, ok := c.cutLong(end); !ok || !goOn {
				return ok
			}
		case !complete:
			c.widen = c.more && c.x == 0
			return true
		case !c.take(text, length):
			return false
		default:
			c.x += length
		}
	}
	return true
}

// isLong reports whether the message of a line is longer than it may be.
func (c *cutter) isLong(text []byte, complete bool) bool {
	if len(text) > c.limit+maxHeader || len(text) <= c.limit || !complete {
		return len(text) > c.limit+maxHeader
	}
	l, ok := parseLine(text)
	return !ok || len(l.content) > c.limit
}

// skip goes on behind what is in entries already, which ends at the index end. goOn is false if the window has to begin there.
func (c *cutter) skip(end int) (goOn, ok bool) {
	if c.open[0].isOpen || c.open[1].isOpen {
		rest := c.data[c.x:]
		length := bytes.IndexByte(rest, '\n') + 1
		if length > 0 && c.x+length <= end && c.inside == nil {
			// What is open goes on only if no line of its stream was sent in between.
			if l, ok := parseLine(rest[:length-1]); ok && !c.flush(index(l.stream)) {
				return false, false
			}
			c.x += length
			return true, true
		}
		if !c.flush(0) || !c.flush(1) {
			return false, false
		}
	}
	c.x, c.inside = end, nil
	return c.data[end-1] == '\n', true
}

// take takes a line, which has length bytes with its newline.
func (c *cutter) take(text []byte, length int) bool {
	begin := c.at + int64(c.x)
	l, ok := parseLine(text)
	if !ok {
		return c.emit(&logs.Entry{Time: c.last, Offset: begin, End: begin + int64(length), Message: text}, 1)
	}
	c.last = l.time
	g := &c.open[index(l.stream)]
	if g.isOpen && !c.joins(g, l, begin) && !c.flush(index(l.stream)) {
		return false
	}
	if !g.isOpen {
		e := logs.Entry{Time: l.time, Stream: l.stream, Offset: begin, End: begin + int64(length), Message: l.content}
		if !l.partial && c.start == nil {
			return c.emit(&e, 1)
		}
		e.Message, e.Holes = append(g.entry.Message[:0], l.content...), g.entry.Holes[:0]
		*g = group{entry: e, lines: 1, isOpen: true, partial: l.partial}
		return true
	}
	if begin > g.entry.End {
		g.entry.Holes = append(g.entry.Holes, logs.Range{Begin: g.entry.End, End: begin})
	}
	if !g.partial {
		g.entry.Message = append(g.entry.Message, '\n')
		g.lines++
	}
	g.entry.Message = append(g.entry.Message, l.content...)
	g.entry.End, g.partial = begin+int64(length), l.partial
	if !l.partial && c.start == nil {
		return c.flush(index(l.stream))
	}
	return true
}

// joins reports whether the line belongs to the group.
func (c *cutter) joins(g *group, l line, begin int64) bool {
	if len(g.entry.Message)+1+len(l.content) > c.limit || begin > g.entry.End && len(g.entry.Holes) == logs.MaxHoles {
		return false
	}
	return g.partial || c.start != nil && !c.start.Match(l.content)
}

// cutLong takes a piece of a line that is longer than a message may be. end is the index of its newline, or negative.
func (c *cutter) cutLong(end int) (goOn, ok bool) {
	rest := c.data[c.x:]
	l, header := c.inside, 0
	if l == nil {
		l = &line{time: c.last}
		if parsed, ok := parseLine(rest[:min(len(rest), maxHeader)]); ok {
			header = min(len(rest), maxHeader) - len(parsed.content)
			l = &line{time: parsed.time, stream: parsed.stream, partial: parsed.partial}
		}
		if l.stream != logs.NoStream && !c.flush(index(l.stream)) {
			return false, false
		}
	}
	c.last = l.time
	length, next, more := end, end+1, l.partial
	switch {
	case end >= 0 && end-header <= c.limit:
	case len(rest)-header > c.limit:
		length = header + whole(rest[header:header+c.limit])
		next, more = length, true
	case c.final && !c.more:
		length, next = len(rest), len(rest)
	default:
		c.widen = c.more
		return false, true
	}
	begin := c.at + int64(c.x)
	e := logs.Entry{Time: l.time, Stream: l.stream, Offset: begin, End: begin + int64(next), Message: rest[header:length], More: more}
	if !c.emit(&e, 1) {
		return false, false
	}
	if c.x += next; next == length && more {
		c.inside = l
	} else {
		c.inside = nil
	}
	return true, true
}

// whole returns how much of text to take so as not to cut through a character.
func whole(text []byte) int {
	for back := 1; back < utf8.UTFMax && back < len(text); back++ {
		if b := text[len(text)-back]; utf8.RuneStart(b) {
			if !utf8.FullRune(text[len(text)-back:]) {
				return len(text) - back
			}
			break
		}
	}
	return len(text)
}

// settle decides about what is open at the end of the window. It returns false if the batch is full.
func (c *cutter) settle() bool {
	for i := range c.open {
		if c.isDone(i) && !c.flush(i) {
			return false
		}
		if !c.open[i].isOpen {
			c.waits[i] = wait{}
		}
	}
	return true
}

// isDone reports whether to end the stream's group at the end of the window. Otherwise it will be read again.
func (c *cutter) isDone(stream int) bool {
	g, w := &c.open[stream], &c.waits[stream]
	switch begin := g.entry.Offset; {
	case !g.isOpen:
		return false
	case c.more && begin >= c.at+int64(len(c.data)/2):
		return false
	case c.more: // to read all of the window again and again would take long
		c.widen = !c.widest
		return c.widest
	case c.final:
		return true
	case w.since.IsZero() || w.begin != begin:
		*w = wait{begin: begin, since: c.now}
		return false
	default:
		return c.now.Sub(w.since) >= c.patience(stream)
	}
}

// flush ends a stream's group. It returns false if the batch is full.
func (c *cutter) flush(stream int) bool {
	g := &c.open[stream]
	if !g.isOpen {
		return true
	}
	g.entry.More = g.partial
	if !c.emit(&g.entry, g.lines) {
		return false
	}
	g.isOpen = false
	return true
}

// emit adds an entry of so many lines, the last of which may go on.
func (c *cutter) emit(e *logs.Entry, lines int) bool {
	if e.More {
		lines--
	}
	if !c.add(e, lines) {
		return false
	}
	for r := range e.Covers {
		c.ahead.add(r)
	}
	return true
}
