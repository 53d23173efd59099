package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var web = Source{Namespace: "shop", Pod: "web-0", FileID: FileID{UID: "8f0c", Container: "app", Restart: 1, File: "1a2b-0123"}, Number: 3}

func read(t *testing.T, batch []byte) (sources []Source, entries []Entry) {
	t.Helper()
	err := Read(bytes.NewReader(batch), math.MaxInt32, func(s Source, e *Entry) error {
		kept := *e
		kept.Message = append([]byte{}, e.Message...) // it is valid now only
		sources, entries = append(sources, s), append(entries, kept)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources, entries
}

func TestBatchIsReadAsItWasWritten(t *testing.T) {
	other := web
	other.Pod = `"}{` // names are Kubernetes' and have no such thing; the format does not depend on it
	entries := []Entry{
		{Time: 1767323045000000006, Stream: Stdout, Offset: 180, End: 224, Message: []byte("hello")},
		{Time: -1, Stream: Stderr, Offset: 224, End: 262, Message: []byte{}},
		{Time: 1, Stream: Stdout, Offset: 262, End: 400, Message: []byte("é\u2028\x00\x1f\t\r\n\\\"</script>\ufffd"), More: true,
			Holes: []Range{{270, 280}, {290, 300}}},
		{Time: 2, Offset: 400, End: 401, Message: []byte("no\xffUTF-8")},
		{Time: 3, Offset: 401, End: 1 << 40, Message: []byte{}, Lost: &Lost{Lines: 7, Bytes: 1 << 40, Why: "the disk is full"}},
		{Time: math.MaxInt64, Stream: Stdout, Offset: math.MaxInt64 - 1, End: math.MaxInt64,
			Message: []byte("{\"source\":{\"namespace\":\"kube-system\"}}\n{\"time\":0}")},
	}
	kubelet := Source{FileID: FileID{Container: "kubelet", File: "1a2b-0123"}, Number: 1}
	want := []Source{web, web, other, other, kubelet, web}
	w := NewWriter()
	for range 2 { // a writer is used again
		for i, e := range entries {
			w.Add(want[i], &e)
		}
		sources, got := read(t, w.Batch())
		if diff := cmp.Diff(want, sources); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(entries, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestBatchSaysItsSourceOnce(t *testing.T) {
	w := NewWriter()
	for range 3 {
		w.Add(web, &Entry{End: 1})
	}
	plain, err := gzip.NewReader(bytes.NewReader(w.Batch()))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "source"); n != 1 {
		t.Errorf("the source stands there %d times:\n%s", n, text)
	}
}

func compressed(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.Bytes()
}

func TestBrokenBatchIsAnError(t *testing.T) {
	source := `{"source":{"namespace":"a","pod":"b","uid":"c","container":"d","file":"e"}}` + "\n"
	whole := compressed(source)
	for _, c := range []struct {
		name  string
		batch []byte
		want  string
	}{
		{"no gzip", []byte("{\"source\":{}}\n"), "gzip"},
		{"nothing", nil, "EOF"},
		{"cut off", whole[:len(whole)-9], "EOF"},
		{"no JSON", compressed("hello\n"), "line 1"},
		{"a line without its end", compressed(source + `{"end":1}`), "line 2 of the batch breaks off"},
		{"no source", compressed(`{"end":1}` + "\n"), "before any source"},
		{"a source without a pod", compressed(strings.Replace(source, "pod", "cod", 1)), `no "pod"`},
		{"a stream that there is not", compressed(source + `{"stream":"stdin","end":1}` + "\n"), "stdin"},
		{"an end before the beginning", compressed(source + `{"offset":5,"end":5}` + "\n"), "ends at 5"},
		{"a time that is no number", compressed(source + `{"time":"1","stream":"","offset":0,"end":1,"message":""}` + "\n"), "time"},
		{"a time that is no whole number", compressed(source + `{"time":1.5,"stream":"","offset":0,"end":1,"message":""}` + "\n"), "time"},
		{"an offset that is too large", compressed(source + `{"time":1,"stream":"","offset":9223372036854775808,"end":1,"message":""}` + "\n"), "offset"},
		{"a message that is no text", compressed(source + `{"end":1,"message":1}` + "\n"), "message"},
		{"what is no base64", compressed(source + `{"end":1,"base64":"*"}` + "\n"), "base64"},
		{"two objects", compressed(source + `{"time":1,"stream":"","offset":0,"end":1,"message":""}{"end":2}` + "\n"), "line 2"},
		{"a source that is no object", compressed(`{"source":1}` + "\n"), "source"},
		{"a negative offset", compressed(source + `{"offset":-1,"end":5}` + "\n"), "begins at -1"},
		{"a hole at the edge", compressed(source + `{"offset":1,"end":5,"holes":[{"begin":1,"end":2}]}` + "\n"), "hole"},
		{"a hole at the end", compressed(source + `{"offset":1,"end":5,"holes":[{"begin":2,"end":5}]}` + "\n"), "hole"},
		{"holes that touch", compressed(source + `{"offset":1,"end":9,"holes":[{"begin":2,"end":3},{"begin":3,"end":4}]}` + "\n"), "hole"},
		{"too many holes", compressed(source + `{"end":9,"holes":[{}` + strings.Repeat(",{}", MaxHoles) + "]}\n"), "at most"},
		{"too large", compressed(source + strings.Repeat(" ", 1<<16)), ErrTooLarge.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Read(bytes.NewReader(c.batch), 1<<16, func(Source, *Entry) error { return nil })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestReaderStopsAtTheCallersError(t *testing.T) {
	w := NewWriter()
	w.Add(web, &Entry{End: 1})
	w.Add(web, &Entry{End: 2})
	stop, calls := errors.New("stop"), 0
	err := Read(bytes.NewReader(w.Batch()), 1<<16, func(Source, *Entry) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, error %v", calls, err)
	}
}

func TestEntryCoversItsBytesWithoutItsHoles(t *testing.T) {
	e := Entry{Offset: 10, End: 50, Holes: []Range{{20, 25}, {30, 31}}}
	if diff := cmp.Diff([]Range{{10, 20}, {25, 30}, {31, 50}}, slices.Collect(e.Covers)); diff != "" {
		t.Error(diff)
	}
}

func FuzzMessageIsKeptByteForByteAndSizeIsBounded(f *testing.F) {
	f.Add([]byte("hello"), "stdout", true)
	f.Add([]byte("\x00\x01\u2028\xff\xf0\x9f\x98"), "", false)
	f.Fuzz(func(t *testing.T, message []byte, stream string, more bool) {
		e := Entry{Time: math.MinInt64, Stream: Stream(stream), Offset: 1, End: math.MaxInt64, Message: message, More: more}
		if e.check() != nil {
			e.Stream = NoStream
		}
		w := NewWriter()
		w.Add(web, &e)
		if w.Size() > MaxEntrySize(len(message)) {
			t.Errorf("the entry has %d bytes, more than %d", w.Size(), MaxEntrySize(len(message)))
		}
		_, got := read(t, w.Batch())
		if len(got) != 1 || !bytes.Equal(got[0].Message, message) || got[0].Stream != e.Stream || got[0].More != more {
			t.Errorf("got %+v", got)
		}
	})
}

// A node that is not trusted must not make the store keep a tree of millions of values.
func TestLineOfManyValuesTakesLittleMemory(t *testing.T) {
	const values = 1 << 20
	batch := compressed(`{"x":[0` + strings.Repeat(",0", values) + `],"end":1}` + "\n")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Read(bytes.NewReader(batch), 4*values, func(Source, *Entry) error { return nil }); err == nil {
		t.Error("an entry without a source was taken")
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16*values {
		t.Errorf("a line of %d bytes took %d bytes", 2*values, used)
	}
}

// What is read without encoding/json is what that reads.
func FuzzLineIsReadAsJSON(f *testing.F) {
	for _, number := range []string{"1", "0", "-0", "-1", "01", "+1", "", "-", "1e2", "9223372036854775807", "9223372036854775808"} {
		f.Add([]byte(`{"time":` + number + `,"stream":"stdout","offset":0,"end":1,"message":"hello"}` + "\n"))
	}
	for _, text := range []string{``, `\"\\\n\t`, `\u0001`, `\r`, `\`, `"`, "\t", "\xff", `","end":2,"message":"x`, `é\n`} {
		f.Add([]byte(`{"time":1,"stream":"","offset":0,"end":1,"message":"` + text + `"}` + "\n"))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var e Entry
		if !new(reader).takePlain(&e, line) {
			return
		}
		want, err := parseRecord(line)
		if err != nil || want.Source != nil || want.Time != e.Time || want.Stream != e.Stream || want.Offset != e.Offset || want.End != e.End ||
			!bytes.Equal(want.Message, e.Message) || want.Holes != nil || want.More || want.Lost != nil {
			t.Errorf("%q is read as %+v, and by encoding/json as %+v, error %v", line, e, want, err)
		}
	})
}

func BenchmarkReaderReadsLinesOf200Bytes(b *testing.B) {
	w := NewWriter()
	for i := range int64(4000) {
		w.Add(web, &Entry{Time: i * 12345678, Stream: Stdout, Offset: i * 240, End: (i + 1) * 240, Message: []byte(strings.Repeat(`GET "/shop/cart" 200 `, 10)[:200])})
	}
	batch := w.Batch()
	b.SetBytes(4000 * 200)
	for b.Loop() {
		if err := Read(bytes.NewReader(batch), math.MaxInt32, func(Source, *Entry) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriterTakesLinesOf200Bytes(b *testing.B) {
	message := []byte(strings.Repeat("GET /shop/cart 200 ", 11)[:200])
	w := NewWriter()
	b.SetBytes(int64(len(message)))
	for i := range b.N {
		w.Add(web, &Entry{Time: int64(i) * 12345678, Stream: Stdout, Offset: int64(i) * 240, End: int64(i+1) * 240, Message: message})
		if w.Size() > 1<<20 {
			w.Batch()
		}
	}
}
