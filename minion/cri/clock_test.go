package cri

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/plugins/logdriver"
	"github.com/docker/docker/pkg/jsonmessage"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ageEngineLog adds to the times of all entries that the Engine's log has by now. The Engine may go on writing behind them.
func ageEngineLog(t *testing.T, path string, by time.Duration) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	data, err := os.ReadFile(path)
	must(t, err)
	for at := 0; at+4 <= len(data); {
		size := int(binary.BigEndian.Uint32(data[at:]))
		if at+size+8 > len(data) {
			break // it is being written
		}
		var e logdriver.LogEntry
		must(t, e.Unmarshal(data[at+4:at+4+size]))
		e.TimeNano += by.Nanoseconds()
		later, err := e.Marshal()
		must(t, err)
		if len(later) != size {
			t.Fatalf("an entry of %d bytes became one of %d", size, len(later))
		}
		_, err = file.WriteAt(later, int64(at+4))
		must(t, err)
		at += size + 8
	}
}

// engineLogs are the files that the test Engine keeps of a container's log.
func engineLogs(t *testing.T, id string) []string {
	t.Helper()
	info, err := testEngine.Info(t.Context())
	must(t, err)
	files, err := filepath.Glob(engineLogFiles(info.DockerRootDir, id))
	must(t, err)
	return files
}

// ageLog adds to the times of all lines of a log in CRI's format.
func ageLog(t *testing.T, path string, by time.Duration) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	var later strings.Builder
	for line := range strings.Lines(string(data)) {
		at, ok := lineTime([]byte(line))
		if !ok {
			t.Fatalf("log line %q begins with no time", line)
		}
		_, rest, _ := strings.Cut(line, " ")
		later.WriteString(at.Add(by).Format(jsonmessage.RFC3339NanoFixed) + " " + rest)
	}
	must(t, os.WriteFile(path, []byte(later.String()), 0))
}

// A clock that steps back by an hour is the same as lines that were written with times an hour ahead.
func TestClockThatStepsBackLosesAndDoublesNoLine(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("clock")
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", "i=0; while [ ! -e /tmp/stop ]; do echo $i; i=$((i+1)); sleep 0.01; done"))
	path, files := n.status(t, id).LogPath, engineLogs(t, id)
	if len(files) != 1 {
		t.Fatalf("the Engine has the log in %v; want one file", files)
	}
	grows := func() {
		t.Helper()
		before := len(logLines(t, path))
		eventually(t, "the log grows", func() bool { return len(logLines(t, path)) > before+10 })
	}
	stepBack := func() {
		t.Helper()
		ageEngineLog(t, files[0], time.Hour)
		ageLog(t, path, time.Hour)
	}
	grows()

	n.stop() // the server is away while the clock steps back
	stepBack()
	n.start(t)
	grows()

	killEngine(t) // now the Engine is
	stepBack()
	startEngine(t)
	grows()

	_, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "> /tmp/stop"}})
	must(t, err)
	n.waitExited(t, id)
	var lines []string
	eventually(t, "the log is complete", func() bool {
		before := len(lines)
		lines = logLines(t, path)
		return len(lines) > 0 && len(lines) == before
	})
	for i, line := range lines {
		if line != fmt.Sprintf("stdout F %d", i) {
			t.Fatalf("line %d of %d of the log is %q; it goes on with %q", i, len(lines), line, lines[i:min(i+3, len(lines))])
		}
	}
	data, err := os.ReadFile(path)
	must(t, err)
	var times []time.Time
	for line := range strings.Lines(string(data)) {
		at, _ := lineTime([]byte(line))
		times = append(times, at)
	}
	if slices.IsSortedFunc(times, time.Time.Compare) {
		t.Error("no clock stepped back")
	}
}
