package cri

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"time"
)

// entry is one entry of the Engine's log, which becomes one line of CRI's
// (https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md).
type entry struct {
	time    []byte // as the Engine wrote it: RFC 3339 with nanoseconds
	stderr  bool
	partial bool // the line goes on in the next entry
	content []byte
}

// The Engine cuts longer lines into entries of this many bytes.
const engineLineLimit = 16 << 10

// maxFrame is far more than an entry has, whatever the logging driver. Memory for more is not taken.
const maxFrame = 1 << 20

// appendLine adds the entry to b as a line of CRI's format.
func (e entry) appendLine(b []byte) []byte {
	b = append(b, e.time...)
	if e.stderr {
		b = append(b, " stderr "...)
	} else {
		b = append(b, " stdout "...)
	}
	if e.partial {
		b = append(b, "P "...)
	} else {
		b = append(b, "F "...)
	}
	return append(append(b, e.content...), '\n')
}

// newEntry splits "<time> <content>[\n]".
func newEntry(raw []byte, stderr bool) (entry, error) {
	at, content, ok := bytes.Cut(raw, []byte(" "))
	if !ok {
		return entry{}, fmt.Errorf("the Engine's log has an entry without a time: %.40q", raw)
	}
	content, whole := bytes.CutSuffix(content, []byte("\n"))
	return entry{time: at, stderr: stderr, partial: !whole, content: content}, nil
}

// entryReader reads the stream of the Engine's logs API, with timestamps asked for
// (https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerLogs).
type entryReader struct {
	r   *bufio.Reader
	tty bool // the stream is not cut into frames
	// repeats is set for a stream that is followed.
	repeats *repeats
}

// next returns the next entry, valid until the call after it; io.EOF at a clean end.
func (e *entryReader) next() (entry, error) {
	if e.tty {
		return e.nextOfTTY()
	}
	var header [8]byte
	if _, err := io.ReadFull(e.r, header[:]); err != nil {
		return entry{}, err
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > maxFrame {
		return entry{}, fmt.Errorf("the Engine's log has an entry of %d bytes, of which at most %d are taken", size, maxFrame)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(e.r, payload); err != nil {
		return entry{}, fmt.Errorf("the Engine's log breaks off within an entry: %w", err)
	}
	switch header[0] {
	case 1, 2:
		return newEntry(payload, header[0] == 2)
	case 3:
		return entry{}, fmt.Errorf("the Engine cannot read its log: %s", bytes.TrimSpace(payload))
	default:
		return entry{}, fmt.Errorf("the Engine's log has a frame of the unknown kind %d", header[0])
	}
}

// nextOfTTY reads "<time> <content>" up to a newline, or up to the limit at which the Engine cuts.
func (e *entryReader) nextOfTTY() (entry, error) {
	at, err := e.r.ReadSlice(' ') // a time is shorter than the buffer
	raw := slices.Clone(at)
	if err != nil {
		if len(raw) > 0 {
			err = fmt.Errorf("the Engine's log breaks off within an entry: %w", io.ErrUnexpectedEOF)
		}
		return entry{}, err
	}
	for end := len(raw) + engineLineLimit; len(raw) < end; {
		c, err := e.r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return entry{}, err
		}
		raw = append(raw, c)
		if c == '\n' {
			return newEntry(raw, false)
		}
	}
	// A line of exactly the limit still has its newline here.
	if c, err := e.r.Peek(1); err == nil && c[0] == '\n' {
		_, _ = e.r.Discard(1)
		raw = append(raw, '\n')
	}
	return newEntry(raw, false)
}

// buffered tells whether another entry may be at hand without waiting.
func (e *entryReader) buffered() bool { return e.r.Buffered() > 0 }

// mark says how far a log was copied: by fingerprints of the last lines that were written, oldest first. An empty mark is the
// beginning. Times do not tell what is there already: clocks step back, and the two streams of a container race. But the lines
// are the Engine's entries in the Engine's order, so a run of them stands at one place only.
type mark []uint64

// maxMark is how many lines a mark has at most. One would do, if no clock gave the same time twice.
const maxMark = 256

// markBehind returns the mark behind whole lines.
func markBehind(lines []byte) (m mark) {
	for len(lines) > 0 && len(m) < maxMark {
		last := bytes.LastIndexByte(lines[:len(lines)-1], '\n') + 1
		m = append(m, fingerprint(lines[last:]))
		lines = lines[:last]
	}
	slices.Reverse(m)
	return m
}

var fingerprintSeed = maphash.MakeSeed()

// fingerprint is the same for the same line, also if its time is written in another way: an Engine may be replaced by a newer one.
func fingerprint(line []byte) uint64 {
	at, ok := lineTime(line)
	if !ok {
		return maphash.Bytes(fingerprintSeed, line)
	}
	_, rest, _ := bytes.Cut(line, []byte(" "))
	var h maphash.Hash
	h.SetSeed(fingerprintSeed)
	maphash.WriteComparable(&h, at.UnixNano())
	_, _ = h.Write(rest)
	return h.Sum64()
}

// errMarkNotFound is the error of a reading of the Engine's log in which the mark was not.
var errMarkNotFound = errors.New("the Engine's log does not have the lines that were copied last")

// seeker finds a mark in the Engine's log.
type seeker struct {
	mark   mark
	window int // how many entries to look at; 0 is all

	recent mark // the last entries seen, at most as many as the mark has
	seen   int
	run    int // how many of the mark's last lines were found together, at most
}

// seek takes the line of the next entry and tells whether the mark is in front of the entry that follows.
func (s *seeker) seek(line []byte) (found bool, err error) {
	if len(s.recent) == len(s.mark) {
		s.recent = slices.Delete(s.recent, 0, 1)
	}
	s.recent = append(s.recent, fingerprint(line))
	run := 0
	for run < len(s.recent) && s.recent[len(s.recent)-1-run] == s.mark[len(s.mark)-1-run] {
		run++
	}
	s.run = max(s.run, run)
	if run == len(s.mark) {
		return true, nil
	}
	if s.seen++; s.seen == s.window {
		return false, errMarkNotFound
	}
	return false, nil
}

// errRepeated ends a stream in which the Engine repeats itself.
var errRepeated = errors.New("the Engine repeats entries of its log")

// repeats finds out that a stream that is followed begins to repeat itself. Docker Engine 20.10 does so after it has begun a new
// file: it takes the new file, which is smaller, for the old one cut short, and reads it once more (handleDecodeErr in
// daemon/logger/loggerutils/follow.go). Then the log has to be resumed from its mark.
type repeats struct {
	latest time.Time
	recent []uint64 // of lines
	next   int
}

const (
	// maxRace is how far apart the times of the two streams of a container may be in the wrong order, because they race.
	maxRace = 10 * time.Millisecond
	// recentLines are more than are written in that time.
	recentLines = 2048
)

// see takes the next line and tells whether it may be a repetition. It is not, if a clock has stepped back: to resume the log is
// right even so.
func (r *repeats) see(line []byte) bool {
	at, ok := lineTime(line)
	sum := maphash.Bytes(fingerprintSeed, line)
	back := r.latest.Sub(at)
	if ok && !r.latest.IsZero() && (back > maxRace || back >= 0 && slices.Contains(r.recent, sum)) {
		return true
	}
	if at.After(r.latest) {
		r.latest = at
	}
	if len(r.recent) < recentLines {
		r.recent = append(r.recent, sum)
	} else {
		r.recent[r.next] = sum
		r.next = (r.next + 1) % recentLines
	}
	return false
}

// lineTime is the time at which a line of CRI's format begins.
func lineTime(line []byte) (time.Time, bool) {
	at, _, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	return t, err == nil
}
