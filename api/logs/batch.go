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

	"github.com/valyala/fastjson"
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

// Read reads a batch of at most limit bytes before compression, and calls add for each entry. The entry is valid during the call only.
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
	parser fastjson.Parser
	entry  Entry
}

// take takes a line.
func (r *reader) take(line []byte) error {
	v, err := r.parser.ParseBytes(line)
	if err != nil {
		return err
	}
	if s := v.Get("source"); s != nil && s.Type() != fastjson.TypeNull {
		var named struct {
			Source Source `json:"source"`
		}
		if err := json.Unmarshal(line, &named); err != nil {
			return err
		}
		r.source = &named.Source
		return r.source.check()
	}
	if r.source == nil {
		return errors.New("an entry stands before any source")
	}
	r.entry = Entry{}
	if err := r.entry.parse(v); err != nil {
		return err
	}
	if err := r.entry.check(); err != nil {
		return err
	}
	return r.add(*r.source, &r.entry)
}

// parse takes the entry's fields from an object of JSON. A store spends less time on that than on encoding/json.
func (e *Entry) parse(v *fastjson.Value) (err error) {
	if v.Type() != fastjson.TypeObject {
		return errors.New("it is no object")
	}
	var failed [6]error
	e.Time, failed[0] = number(v, "time")
	e.Offset, failed[1] = number(v, "offset")
	e.End, failed[2] = number(v, "end")
	stream, err := text(v, "stream")
	e.Stream, failed[3] = Stream(stream), err
	e.Message, failed[4] = text(v, "message")
	if raw, err := text(v, "base64"); err != nil {
		failed[5] = err
	} else if raw != nil {
		e.Message, failed[5] = base64.StdEncoding.AppendDecode(nil, raw)
	}
	if err := errors.Join(failed[:]...); err != nil {
		return err
	}
	for name, to := range map[string]any{"holes": &e.Holes, "more": &e.More, "lost": &e.Lost} {
		if f := v.Get(name); f != nil { // which is rare
			if err := json.Unmarshal(f.MarshalTo(nil), to); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// number returns a field of an object, 0 if it is not there.
func number(v *fastjson.Value, name string) (n int64, err error) {
	if f := v.Get(name); f != nil {
		if n, err = f.Int64(); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	return n, err
}

// text returns a field of an object, nil if it is not there. It is valid as long as the object is.
func text(v *fastjson.Value, name string) (t []byte, err error) {
	if f := v.Get(name); f != nil {
		if t, err = f.StringBytes(); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	return t, err
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
