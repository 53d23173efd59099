package cri

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const logTime = "2026-01-02T03:04:05.000000006Z"

// frame is an entry as the Engine's logs API sends it for a container without a terminal.
func frame(stream byte, text string) string {
	header := make([]byte, 8)
	header[0] = stream
	binary.BigEndian.PutUint32(header[4:], uint32(len(text)))
	return string(header) + text
}

func TestEngineEntriesBecomeLinesOfCRI(t *testing.T) {
	long := strings.Repeat("x", engineLineLimit)
	for _, c := range []struct {
		name, stream, want string
		tty                bool
	}{
		{"a line", frame(1, logTime+" hello\n"), logTime + " stdout F hello\n", false},
		{"standard error", frame(2, logTime+" oops\n"), logTime + " stderr F oops\n", false},
		{"an empty line", frame(1, logTime+" \n"), logTime + " stdout F \n", false},
		{"a line that goes on", frame(1, logTime+" part") + frame(1, logTime+" rest\n"),
			logTime + " stdout P part\n" + logTime + " stdout F rest\n", false},
		{"a terminal", logTime + " hello\r\n" + logTime + " you\n", logTime + " stdout F hello\r\n" + logTime + " stdout F you\n", true},
		{"a terminal's long line", logTime + " " + long + logTime + " rest\n",
			logTime + " stdout P " + long + "\n" + logTime + " stdout F rest\n", true},
		{"a terminal's line of just the limit", logTime + " " + long + "\n" + logTime + " next\n",
			logTime + " stdout F " + long + "\n" + logTime + " stdout F next\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got bytes.Buffer
			err := copyEntries(&entryReader{r: bufio.NewReader(strings.NewReader(c.stream)), tty: c.tty},
				func(lines []byte) error { got.Write(lines); return nil }, &seeker{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBrokenEngineStreamIsAnErrorAndWhatCameBeforeIsKept(t *testing.T) {
	for name, broken := range map[string]string{
		"cut in a header":  frame(1, logTime+" lost\n")[:4],
		"cut in an entry":  frame(1, logTime+" lost\n")[:20],
		"a reader's error": frame(3, "disk on fire"),
		"unknown frame":    frame(9, logTime+" x\n"),
		"no time":          frame(1, "x\n"),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			err := copyEntries(&entryReader{r: bufio.NewReader(strings.NewReader(frame(1, logTime+" kept\n") + broken))},
				func(lines []byte) error { got.Write(lines); return nil }, &seeker{})
			if err == nil || got.String() != logTime+" stdout F kept\n" {
				t.Errorf("wrote %q, error %v", got.String(), err)
			}
		})
	}
}

// lineAt is a line of CRI's format, written some milliseconds after a fixed time.
func lineAt(ms int, text string) string {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
	return at.Format(time.RFC3339Nano) + " stdout F " + text + "\n"
}

func TestMarkIsTheLastLinesOfTheLog(t *testing.T) {
	for _, c := range []struct {
		name         string
		log, rotated string
		want         string
	}{
		{"nothing was written", "", "", ""},
		{"one line", lineAt(0, "a"), "", lineAt(0, "a")},
		{"an earlier time may stand last", lineAt(5001, "a") + lineAt(5000, "b"), "", lineAt(5001, "a") + lineAt(5000, "b")},
		{"a line cut off by a crash does not count", lineAt(0, "a") + lineAt(1, "b")[:20], "", lineAt(0, "a")},
		{"just rotated", "", lineAt(0, "a") + lineAt(1, "b"), lineAt(0, "a") + lineAt(1, "b")},
		{"rotated not long ago", lineAt(100, "c"), lineAt(0, "a") + lineAt(1, "b"), lineAt(0, "a") + lineAt(1, "b") + lineAt(100, "c")},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "0.log")
			write(t, path, c.log)
			if c.rotated != "" {
				write(t, path+".20260101-000000", "an older one that must not be read")
				write(t, path+".20260102-000000", c.rotated)
				write(t, path+".20260103-000000.gz", "compressed")
			}
			log, got, err := openLog(path)
			if err != nil {
				t.Fatal(err)
			}
			defer log.close()
			if diff := cmp.Diff(markBehind([]byte(c.want)), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMarkOfALongLogIsItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var b strings.Builder
	for i := range 20_000 {
		b.WriteString(lineAt(i, fmt.Sprint("line ", i)))
	}
	write(t, path, b.String())
	write(t, path+".20260101-000000", "it must not be read")
	log, got, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	if len(got) != maxMark || got[maxMark-1] != fingerprint([]byte(lineAt(19_999, "line 19999"))) || got[0] != fingerprint([]byte(lineAt(20_000-maxMark, fmt.Sprint("line ", 20_000-maxMark)))) {
		t.Errorf("the mark has %d lines and is not the log's end", len(got))
	}
}

// entriesAt are entries of the Engine's log, with these milliseconds as times and contents.
func entriesAt(ms ...int) (stream string) {
	for _, at := range ms {
		stream += frame(1, strings.Replace(lineAt(at, fmt.Sprint(at)), "stdout F ", "", 1))
	}
	return stream
}

func linesAt(ms ...int) (lines string) {
	for _, at := range ms {
		lines += lineAt(at, fmt.Sprint(at))
	}
	return lines
}

func TestLogGoesOnBehindItsMarkWhateverTheTimesAre(t *testing.T) {
	for _, c := range []struct {
		name    string
		written string
		engine  string
		window  int
		want    string
		err     error
		run     int
	}{
		{name: "nothing was written", engine: entriesAt(1, 2), want: linesAt(1, 2)},
		{name: "some was", written: linesAt(1, 2), engine: entriesAt(1, 2, 3), want: linesAt(3), run: 2},
		{name: "all was", written: linesAt(1, 2), engine: entriesAt(1, 2), run: 2},
		{name: "the clock stepped back behind it", written: linesAt(7001, 7002), engine: entriesAt(7001, 7002, 1, 2), want: linesAt(1, 2), run: 2},
		{name: "the clock stepped back within it", written: linesAt(7001, 1, 2), engine: entriesAt(7001, 1, 2, 3), want: linesAt(3), run: 3},
		{name: "a clock that stands", written: linesAt(1, 1), engine: entriesAt(1, 1, 2), want: linesAt(2), run: 2},
		{name: "the same line came before, at another place", written: linesAt(1, 2, 1), engine: entriesAt(1, 3, 1, 2, 1, 4), want: linesAt(4), run: 3},
		{name: "all of the window is written", written: linesAt(1, 2), engine: entriesAt(3, 4), window: 2, err: errMarkNotFound},
		{name: "the Engine has thrown the mark away", written: linesAt(1, 2), engine: entriesAt(3, 4), err: errMarkNotFound},
		{name: "a gap was not copied", written: linesAt(1, 4, 5), engine: entriesAt(1, 2, 3, 4, 5, 6), err: errMarkNotFound, run: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got strings.Builder
			from := &seeker{mark: markBehind([]byte(c.written)), window: c.window}
			err := copyEntries(&entryReader{r: bufio.NewReader(strings.NewReader(c.engine))}, func(lines []byte) error { got.Write(lines); return nil }, from)
			if err != c.err || from.run != c.run {
				t.Errorf("it ended with %v and a run of %d; want %v and %d", err, from.run, c.err, c.run)
			}
			if diff := cmp.Diff(c.want, got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStreamThatRepeatsItselfEndsBeforeItDoes(t *testing.T) {
	for _, c := range []struct {
		name   string
		engine string
		want   string
		err    error
	}{
		{name: "one entry", engine: entriesAt(1, 2, 3, 3, 4), want: linesAt(1, 2, 3), err: errRepeated},
		{name: "some entries", engine: entriesAt(1, 2, 3, 4, 3, 4, 5), want: linesAt(1, 2, 3, 4), err: errRepeated},
		{name: "many entries", engine: entriesAt(1, 20, 40, 20, 40, 60), want: linesAt(1, 20, 40), err: errRepeated},
		{name: "none: the two streams race", engine: entriesAt(1, 3, 2, 5, 4, 6), want: linesAt(1, 3, 2, 5, 4, 6)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got strings.Builder
			entries := &entryReader{r: bufio.NewReader(strings.NewReader(c.engine)), repeats: new(repeats)}
			if err := copyEntries(entries, func(lines []byte) error { got.Write(lines); return nil }, &seeker{}); err != c.err {
				t.Errorf("it ended with %v; want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLineIsKnownAgainIfItsTimeIsWrittenInAnotherWay(t *testing.T) {
	if fingerprint([]byte("2026-01-02T03:04:05.500000000Z stdout F a\n")) != fingerprint([]byte("2026-01-02T04:04:05.5+01:00 stdout F a\n")) {
		t.Error("the fingerprints differ")
	}
}

func TestCutOffLineIsRemovedBeforeTheLogGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, lineAt(0, "a")+"2026-01-02T03:")
	log, _, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	if err := log.write([]byte(lineAt(1, "b"))); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lineAt(0, "a")+lineAt(1, "b"), string(got)); diff != "" {
		t.Error(diff)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
