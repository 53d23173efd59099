package cri

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	payload := make([]byte, binary.BigEndian.Uint32(header[4:]))
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
	raw, err := e.r.ReadBytes(' ')
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

// position is where to go on in the Engine's log: after skip of the entries that are not older than since. A zero
// position is the beginning.
type position struct {
	since time.Time
	skip  int
}

// overlap is how far back of the last line a log is resumed. The Engine's entries are nearly in the order of their
// times, but standard output and error race by microseconds; so time alone cannot say what is there already. The lines
// are a prefix of the Engine's entries, though, and the same filter by time on both keeps it one: it is enough to count.
const overlap = time.Second

// resumeAt returns where the Engine's log goes on after these lines, which end with a newline. complete is false if the
// lines may not reach back far enough.
func resumeAt(lines []byte) (p position, complete bool) {
	last := bytes.LastIndexByte(bytes.TrimSuffix(lines, []byte("\n")), '\n') + 1
	latest, ok := lineTime(lines[last:])
	if !ok {
		return position{}, len(lines) == 0
	}
	p.since = latest.Add(-overlap)
	for line := range bytes.Lines(lines) {
		at, ok := lineTime(line)
		if !ok {
			continue
		}
		if at.Before(p.since.Add(-overlap)) {
			complete = true
		}
		if !at.Before(p.since) {
			p.skip++
		}
	}
	return p, complete
}

func lineTime(line []byte) (time.Time, bool) {
	at, _, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	return t, err == nil
}
