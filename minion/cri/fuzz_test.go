package cri

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/pkg/jsonmessage"
)

// FuzzEngineLog reads the Engine's stream of a container's log: it ends, with an error or not, and what was read can be
// written as CRI's log.
func FuzzEngineLog(f *testing.F) {
	frame := func(kind byte, payload string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, uint32(len(payload))), payload...)
	}
	line := "2026-01-01T00:00:00.000000001Z hello\n"
	f.Add(frame(1, line), false)
	f.Add(append(frame(2, line), frame(1, "2026-01-01T00:00:00Z part")...), false)
	f.Add(frame(3, "it is gone"), false)
	f.Add(frame(9, line), false)
	f.Add(frame(1, "notime"), false)
	f.Add([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 'x'}, false)
	f.Add([]byte(line+line), true)
	f.Add([]byte("notime"), true)
	f.Add([]byte("2026-01-01T00:00:00Z "+strings.Repeat("x", engineLineLimit)+"\n"), true)
	f.Fuzz(func(t *testing.T, stream []byte, tty bool) {
		reader := &entryReader{r: bufio.NewReader(bytes.NewReader(stream)), tty: tty}
		var lines []byte
		for {
			e, err := reader.next()
			if err != nil {
				break
			}
			line := e.appendLine(nil)
			if len(e.content) > len(stream) || len(line) == 0 || line[len(line)-1] != '\n' {
				t.Fatalf("%q has the entry %q", stream, line)
			}
			_, _ = lineTime(line)
			lines = append(lines, line...)
		}
		if len(lines) > 0 && len(markBehind(lines)) == 0 {
			t.Errorf("there is no mark behind %q", lines)
		}
	})
}

// FuzzLogFile goes on with a log that ends anywhere: whole lines stay, and what a crash has cut off goes.
func FuzzLogFile(f *testing.F) {
	for _, seed := range []string{"", "2026-01-01T00:00:00Z stdout F a\n", "2026-01-01T00:00:00Z stdout F a\n2026", "\n\n", "x"} {
		f.Add([]byte(seed), []byte(""))
		f.Add([]byte(seed), []byte("2026-01-01T00:00:00Z stdout F earlier\ncut"))
	}
	path := filepath.Join(f.TempDir(), "0.log")
	f.Fuzz(func(t *testing.T, text, rotated []byte) {
		if err := errors.Join(os.WriteFile(path, text, 0o600), os.WriteFile(path+".20260101-000000", rotated, 0o600)); err != nil {
			t.Fatal(err)
		}
		log, _, err := openLog(path)
		if err != nil {
			t.Fatalf("cannot go on with %q: %v", text, err)
		}
		if err := log.close(); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadFile(path)
		if want := text[:bytes.LastIndexByte(text, '\n')+1]; err != nil || !bytes.Equal(left, want) {
			t.Errorf("of %q there is %q left (%v)", text, left, err)
		}
	})
}

// FuzzLabels reads the records that containers have in their labels, which others may have made.
func FuzzLabels(f *testing.F) {
	for _, seed := range []string{
		`{"metadata":{"name":"a"},"annotations":{"io.kubernetes.pod.terminationGracePeriod":"30"}}`, "", "null", "{}", "[]", `{"metadata":1}`,
		`{"annotations":{"io.kubernetes.pod.terminationGracePeriod":"9223372036854775807"}}`, `{"annotations":{"io.kubernetes.pod.terminationGracePeriod":"-1"}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		labels := map[string]string{labelRecord: text}
		if r, err := readSandbox(labels); err == nil {
			_ = sandboxName(r.Metadata)
		}
		if r, err := readContainer(labels); err == nil {
			_ = containerName(r.Metadata, nil)
		}
		if grace, ok := GracePeriod(labels); ok && grace < 0 && !strings.Contains(text, "-") {
			t.Errorf("%q is a grace period of %s", text, grace)
		}
	})
}

// FuzzImages reads what images and kubelets say: users, lists, times.
func FuzzImages(f *testing.F) {
	for _, seed := range []string{"", "root", "1000:1000", ":", "-1", "99999999999999999999", "2026-01-01T00:00:00.5Z", "0001-01-01T00:00:00Z", "a,b, c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if uid, name := imageUser(text); (uid == nil) == (name == "") {
			t.Errorf("the user of %q is %v and %q", text, uid, name)
		}
		for _, part := range splitList(text) {
			if part == "" || strings.ContainsAny(part, ", ") {
				t.Errorf("%q has the part %q", text, part)
			}
		}
		_ = nanoseconds(text)
	})
}

func FuzzPullProgress(f *testing.F) {
	for _, seed := range []string{`{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"a"}`, `{"errorDetail":{"message":"no"}}`, "", "{", "null", "1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		downloaded, told := pulledBytes{}, 0
		err := readProgress(bytes.NewReader(stream), func(m jsonmessage.JSONMessage) {
			downloaded.note(m)
			told++
		})
		if err == nil && told == 0 && len(bytes.TrimSpace(stream)) > 0 {
			t.Errorf("%q says nothing", stream)
		}
		_ = downloaded.String()
	})
}
