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
				func(lines []byte) error { got.Write(lines); return nil }, 0)
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
				func(lines []byte) error { got.Write(lines); return nil }, 0)
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

func TestLogIsResumedBehindItsLastLine(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name         string
		log, rotated string
		want         position
	}{
		{"nothing was written", "", "", position{}},
		{"one line", lineAt(0, "a"), "", position{start.Add(-overlap), 1}},
		{"lines within the overlap count", lineAt(0, "a") + lineAt(4500, "b") + lineAt(5000, "c"), "", position{start.Add(4 * time.Second), 2}},
		{"an earlier time may stand last", lineAt(5001, "a") + lineAt(5000, "b"), "", position{start.Add(4 * time.Second), 2}},
		{"a line cut off by a crash does not count", lineAt(0, "a") + lineAt(1, "b")[:20], "", position{start.Add(-overlap), 1}},
		{"just rotated", "", lineAt(0, "a") + lineAt(1, "b"), position{start.Add(time.Millisecond - overlap), 2}},
		{"rotated within the overlap", lineAt(100, "c"), lineAt(0, "a") + lineAt(1, "b"), position{start.Add(100*time.Millisecond - overlap), 3}},
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
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(position{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestResumingReadsNoMoreOfALongLogThanItNeeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var b strings.Builder
	for i := range 20_000 {
		b.WriteString(lineAt(i, fmt.Sprint("line ", i)))
	}
	write(t, path, b.String())
	log, got, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	if got.skip != 1001 {
		t.Errorf("%d lines of the last second are to be skipped; want 1001", got.skip)
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
