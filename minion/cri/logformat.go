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
	time    []byte // RFC 3339 with nanoseconds, as the Engine wrote it
	stderr  bool
	partial bool // the line continues in the next entry
	content []byte
}

// engineLineLimit is where the Engine splits long lines into several entries, in bytes.
const engineLineLimit = 16 << 10

// maxFrame is far more than an entry has with any logging driver. It bounds the memory for one.
const maxFrame = 1 << 20

// appendLine appends the entry to b in CRI's format.
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

// entryReader reads the stream of the Engine's logs API, with timestamps
// (https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerLogs).
type entryReader struct {
	r   *bufio.Reader
	tty bool // the stream has no frames
	// repeats is set for a followed stream.
	repeats *repeats
}

// next returns the next entry, valid until the next call; io.EOF at a clean end.
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

// nextOfTTY reads "<time> <content>" up to a newline, or up to the limit at which the Engine splits lines.
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

// buffered reports whether another entry may be available without waiting.
func (e *entryReader) buffered() bool { return e.r.Buffered() > 0 }

// mark is a position in a log: fingerprints of the last lines that were copied, oldest first. An empty mark is the beginning. Times
// do not identify lines: clocks step back, and the two streams of a container race. But the lines are the Engine's entries in the
// Engine's order, so a run of them occurs only once.
type mark []uint64

// maxMark is the largest number of lines in a mark. One would do if no two lines had the same time.
const maxMark = 256

// markBehind returns the mark after these lines.
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

// fingerprint is equal for equal lines, even if a newer Engine formats the time differently.
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

// errMarkNotFound says that the mark is not in the part of the Engine's log that was read.
var errMarkNotFound = errors.New("the Engine's log does not have the lines that were copied last")

// seeker finds a mark in the Engine's log.
type seeker struct {
	mark   mark
	window int // how many entries to search; 0 means all

	recent mark // the last entries, at most the length of the mark
	seen   int
	run    int // the longest run found of the mark's last lines
}

// seek takes the line of the next entry, and reports whether the mark ends just before it.
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

// repeats detects that a followed stream repeats itself. Docker Engine 20.10 does so after a log rotation: it takes the new, smaller
// file for the old one truncated, and reads it once more (handleDecodeErr in daemon/logger/loggerutils/follow.go). Then the log must
// be resumed from its mark.
type repeats struct {
	latest time.Time
	recent []uint64 // of lines
	next   int
}

const (
	// maxRace is how far the two streams of a container may be out of order, because they race.
	maxRace = 10 * time.Millisecond
	// recentLines is more than the number of lines written in that time.
	recentLines = 2048
)

// see takes the next line and reports whether it may be a repetition. A clock that stepped back looks the same; resuming is right
// then, too.
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

// lineTime parses the time of a line in CRI's format.
func lineTime(line []byte) (time.Time, bool) {
	at, _, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	return t, err == nil
}
