package logs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// Writer writes batches, one after the other. One goroutine may use it.
type Writer struct {
	gzip   *gzip.Writer
	to     bytes.Buffer
	line   []byte
	source Source
	size   int
}

// NewWriter returns a Writer with an empty batch.
func NewWriter() *Writer {
	w := &Writer{}
	w.gzip, _ = gzip.NewWriterLevel(&w.to, gzip.BestSpeed) // the level exists
	return w
}

// Add adds an entry of the source to the batch. It keeps nothing of the entry.
func (w *Writer) Add(source Source, e *Entry) {
	w.line = w.line[:0]
	if w.size == 0 || source != w.source {
		w.source = source
		w.line = appendSource(w.line, source)
	}
	w.line = appendEntry(w.line, e)
	w.size += len(w.line)
	_, _ = w.gzip.Write(w.line) // a buffer takes all
}

// Size is the batch's size before compression, in bytes.
func (w *Writer) Size() int { return w.size }

// Batch returns the batch and begins a new one. The caller owns the batch.
func (w *Writer) Batch() []byte {
	_ = w.gzip.Close() // a buffer takes all
	batch := bytes.Clone(w.to.Bytes())
	w.to.Reset()
	w.gzip.Reset(&w.to)
	w.size = 0
	return batch
}

// MaxEntrySize returns a bound of the bytes that an entry with a message of this length adds to a batch.
func MaxEntrySize(message int) int {
	const names, hole = 2 << 10, 64
	return names + MaxHoles*hole + 6*message // JSON writes a control character as \u0001
}

func appendSource(b []byte, s Source) []byte {
	b = append(b, `{"source":`...)
	text, _ := json.Marshal(s) // strings and numbers have no error
	b = append(b, text...)
	return append(b, "}\n"...)
}

func appendEntry(b []byte, e *Entry) []byte {
	b = append(b, `{"time":`...)
	b = strconv.AppendInt(b, e.Time, 10)
	b = append(b, `,"stream":"`...)
	b = append(b, e.Stream...)
	b = append(b, `","offset":`...)
	b = strconv.AppendInt(b, e.Offset, 10)
	b = append(b, `,"end":`...)
	b = strconv.AppendInt(b, e.End, 10)
	for _, extra := range []struct {
		set   bool
		name  string
		value any
	}{{len(e.Holes) > 0, "holes", e.Holes}, {e.More, "more", true}, {e.Lost != nil, "lost", e.Lost}} {
		if extra.set {
			text, _ := json.Marshal(extra.value) // values of this package have no error
			b = append(append(append(append(b, `,"`...), extra.name...), `":`...), text...)
		}
	}
	if utf8.Valid(e.Message) {
		b = append(b, `,"message":`...)
		b = appendString(b, e.Message)
	} else {
		b = append(b, `,"base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, e.Message)
		b = append(b, '"')
	}
	return append(b, "}\n"...)
}

// appendString appends valid UTF-8 as a JSON string.
func appendString(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	begin := 0
	for i, c := range s {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[begin:i]...)
		begin = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(b, s[begin:]...), '"')
}

// ErrTooLarge says that a batch is larger than Read's limit.
var ErrTooLarge = errors.New("the batch is too large")

// Read reads a batch of at most limit bytes before compression, and calls add for each entry. The entry is valid during the call only,
// and so is its message.
// Read stops at the first error, so a caller that must take all or nothing collects the entries first.
func Read(batch io.Reader, limit int, add func(Source, *Entry) error) error {
	plain, err := gzip.NewReader(batch)
	if err != nil {
		return fmt.Errorf("cannot read the batch: %w", err)
	}
	limited := &io.LimitedReader{R: plain, N: int64(limit) + 1}
	lines := bufio.NewReaderSize(limited, 64<<10)
	r := reader{add: add}
	var line []byte
	for number := 1; ; number++ {
		line, err = appendLine(line[:0], lines)
		switch {
		case limited.N == 0:
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("line %d of the batch breaks off", number)
		case err != nil:
			return fmt.Errorf("cannot read the batch: %w", err)
		}
		if err := r.take(line); err != nil {
			return fmt.Errorf("line %d of the batch: %w", number, err)
		}
	}
}

// appendLine reads a line, and appends it with its end.
func appendLine(b []byte, lines *bufio.Reader) ([]byte, error) {
	for {
		part, err := lines.ReadSlice('\n')
		b = append(b, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return b, err
		}
	}
}

// reader reads the lines of a batch.
type reader struct {
	add    func(Source, *Entry) error
	source *Source // of the next entry
	text   []byte  // of a message with escapes
}

// record is a line of a batch.
type record struct {
	Source *Source `json:"source"`
	Entry
	Text   *string `json:"message"`
	Base64 []byte  `json:"base64"`
}

// take takes a line.
func (r *reader) take(line []byte) error {
	var e Entry
	if !r.takePlain(&e, line) {
		parsed, err := parseRecord(line)
		if err != nil {
			return err
		}
		if parsed.Source != nil {
			r.source = parsed.Source
			return r.source.check()
		}
		e = parsed.Entry
	}
	if r.source == nil {
		return errors.New("an entry stands before any source")
	}
	if err := e.check(); err != nil {
		return err
	}
	return r.add(*r.source, &e)
}

func parseRecord(line []byte) (parsed record, err error) {
	err = json.Unmarshal(line, &parsed)
	if parsed.Message = parsed.Base64; parsed.Text != nil {
		parsed.Message = []byte(*parsed.Text)
	}
	return parsed, err
}

// takePlain takes an entry if its line is as a Writer writes most of them, and returns false if it has to be parsed: a store spent half of
// its time in encoding/json. The message is valid until the next line is read.
func (r *reader) takePlain(e *Entry, line []byte) bool {
	rest, ok := line, true
	number := func(name string) (n int64) {
		if rest, ok = bytes.CutPrefix(rest, []byte(name)); !ok {
			return 0
		}
		end := max(bytes.IndexByte(rest, ','), 0)
		digits := rest[:end]
		var err error
		n, err = strconv.ParseInt(string(digits), 10, 64)
		first := bytes.TrimPrefix(digits, []byte("-"))
		// JSON has no other way to write it.
		ok = err == nil && digits[0] != '+' && (first[0] != '0' || len(first) == 1)
		rest = rest[end:]
		return n
	}
	if e.Time = number(`{"time":`); !ok {
		return false
	}
	for _, stream := range []Stream{Stdout, Stderr, NoStream} {
		if after, found := bytes.CutPrefix(rest, []byte(`,"stream":"`+string(stream)+`"`)); found {
			rest, e.Stream = after, stream
			break
		}
	}
	if e.Offset = number(`,"offset":`); !ok {
		return false
	}
	if e.End = number(`,"end":`); !ok {
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"message":"`)); !ok {
		return false
	}
	if rest, ok = bytes.CutSuffix(rest, []byte("\"}\n")); !ok {
		return false
	}
	e.Message, ok = r.unquote(rest)
	return ok
}

// unquote returns what stands in a JSON string, and false if that has escapes that a Writer does not write, or is no JSON.
func (r *reader) unquote(text []byte) ([]byte, bool) {
	if !utf8.Valid(text) {
		return nil, false
	}
	r.text = r.text[:0]
	begin := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c < ' ' || c == '"':
			return nil, false
		case c != '\\':
			continue
		}
		r.text = append(r.text, text[begin:i]...)
		if i++; i == len(text) {
			return nil, false
		}
		c := text[i]
		switch c {
		case '"', '\\':
		case 'n':
			c = '\n'
		case 't':
			c = '\t'
		default:
			return nil, false
		}
		r.text = append(r.text, c)
		begin = i + 1
	}
	if begin == 0 {
		return text, true
	}
	r.text = append(r.text, text[begin:]...)
	return r.text, true
}

func (s Source) check() error {
	required := map[string]string{"container": s.Container, "file": s.File}
	if !s.IsComponent() {
		required["namespace"], required["pod"], required["uid"] = s.Namespace, s.Pod, s.UID
	}
	for name, value := range required {
		if value == "" {
			return fmt.Errorf("the source has no %q", name)
		}
	}
	return nil
}

func (e *Entry) check() error {
	if e.Stream != Stdout && e.Stream != Stderr && e.Stream != NoStream {
		return fmt.Errorf("there is no stream %q", e.Stream)
	}
	if e.Offset < 0 || e.End <= e.Offset {
		return fmt.Errorf("the entry ends at %d and begins at %d", e.End, e.Offset)
	}
	if len(e.Holes) > MaxHoles {
		return fmt.Errorf("the entry has %d holes, of which at most %d are allowed", len(e.Holes), MaxHoles)
	}
	last := e.Offset
	for _, h := range e.Holes {
		if h.Begin <= last || h.End <= h.Begin || h.End >= e.End {
			return fmt.Errorf("the entry has a hole from %d to %d that is empty, out of order or at its edge", h.Begin, h.End)
		}
		last = h.End
	}
	return nil
}

// Covers calls yield with each range of bytes that the entry covers.
func (e *Entry) Covers(yield func(Range) bool) {
	begin := e.Offset
	for _, h := range e.Holes {
		if !yield(Range{begin, h.Begin}) {
			return
		}
		begin = h.End
	}
	yield(Range{begin, e.End})
}
