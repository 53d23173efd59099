package logs

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/logs"
)

const logTime = "2026-01-02T03:04:05.000000006Z"

var logNano = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC).UnixNano()

func TestLinesOfARuntimesLogAreParsed(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       line
	}{
		{"a whole line", logTime + " stdout F hello you", line{logNano, logs.Stdout, false, []byte("hello you")}},
		{"a part", logTime + " stderr P hel", line{logNano, logs.Stderr, true, []byte("hel")}},
		{"an empty line", logTime + " stdout F ", line{logNano, logs.Stdout, false, nil}},
		{"an empty line without its last space", logTime + " stdout F", line{logNano, logs.Stdout, false, nil}},
		{"more tags", logTime + " stdout P:x:y hello", line{logNano, logs.Stdout, true, []byte("hello")}},
		{"spaces", logTime + " stdout F   a ", line{logNano, logs.Stdout, false, []byte("  a ")}},
		{"a carriage return", logTime + " stdout F a\r", line{logNano, logs.Stdout, false, []byte("a\r")}},
		{"no UTF-8", logTime + " stdout F \xff\x00", line{logNano, logs.Stdout, false, []byte("\xff\x00")}},
		{"another zone", "2026-01-02T04:04:05.000000006+01:00 stdout F a", line{logNano, logs.Stdout, false, []byte("a")}},
		{"whole seconds", "2026-01-02T03:04:05Z stdout F a", line{logNano - 6, logs.Stdout, false, []byte("a")}},
		{"a clock that is wrong", "1969-12-31T23:59:59Z stdout F a", line{-1e9, logs.Stdout, false, []byte("a")}},
		{"the first time", "1677-09-21T00:12:43.145224192Z stdout F a", line{math.MinInt64, logs.Stdout, false, []byte("a")}},
		{"the last time", "2262-04-11T23:47:16.854775807Z stdout F a", line{math.MaxInt64, logs.Stdout, false, []byte("a")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseLine([]byte(c.text))
			if !ok || got.time != c.want.time || got.stream != c.want.stream || got.partial != c.want.partial || !bytes.Equal(got.content, c.want.content) {
				t.Errorf("got %+v, %t", got, ok)
			}
		})
	}
}

func TestOtherLinesAreNone(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                   "",
		"text":                      "hello",
		"Docker's JSON":             `{"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`,
		"no stream":                 logTime,
		"no tag":                    logTime + " stdout",
		"no tag after a space":      logTime + " stdout ",
		"another stream":            logTime + " stdin F a",
		"another tag":               logTime + " stdout Q a",
		"a tag that begins with P":  logTime + " stdout PF a",
		"no time":                   "yesterday stdout F a",
		"a day that there is not":   "2026-02-30T03:04:05Z stdout F a",
		"a time before all others":  "1677-09-21T00:12:43.145224191Z stdout F a",
		"a time after all others":   "2262-04-11T23:47:16.854775808Z stdout F a",
		"a tag that has no end":     logTime + " stdout F:" + strings.Repeat("x", maxHeader),
		"a time that has no end":    strings.Repeat("2", 1<<20),
		"a time that comes twice":   logTime + " " + logTime + " stdout F a",
		"a byte before the time":    "\x00" + logTime + " stdout F a",
		"a stream in capitals":      logTime + " STDOUT F a",
		"two spaces before the tag": logTime + " stdout  F a",
	} {
		if l, ok := parseLine([]byte(text)); ok {
			t.Errorf("%s: got %+v", name, l)
		}
	}
}

// What a runtime writes is read as it was; other bytes do no harm.
func FuzzParsedLineIsWhatWasWritten(f *testing.F) {
	f.Add(int64(6), true, true, []byte("hello"), []byte("junk stdout F "))
	f.Fuzz(func(t *testing.T, nano int64, stderr, partial bool, content, junk []byte) {
		stream, tag := logs.Stdout, "F"
		if stderr {
			stream = logs.Stderr
		}
		if partial {
			tag = "P"
		}
		text := fmt.Appendf(nil, "%s %s %s %s", time.Unix(0, nano).UTC().Format(time.RFC3339Nano), stream, tag, content)
		got, ok := parseLine(text)
		if !ok || got.time != nano || got.stream != stream || got.partial != partial || !bytes.Equal(got.content, content) {
			t.Errorf("%q is read as %+v, %t", text, got, ok)
		}
		if l, ok := parseLine(junk); ok && !bytes.HasSuffix(junk, l.content) {
			t.Errorf("%q is read as %+v", junk, l)
		}
	})
}

func BenchmarkParsedLines(b *testing.B) {
	text := []byte(logTime + " stdout F " + strings.Repeat("x", 200))
	for b.Loop() {
		if _, ok := parseLine(text); !ok {
			b.Fatal()
		}
	}
}
