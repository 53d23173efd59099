package cri

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
)

// kubectlLogs is what the kubelet does for `kubectl logs`: its own reader on the log's file.
func kubectlLogs(t *testing.T, runtime internalapi.RuntimeService, status *runtimeapi.ContainerStatus, options logs.LogOptions) (out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	must(t, logs.ReadLogs(t.Context(), status.LogPath, status.Id, &options, runtime, &stdout, &stderr))
	return stdout.String(), stderr.String()
}

func TestKubectlLogsHonoursItsOptions(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("options")
	pod := n.runPod(t, config)
	crashed := n.waitExited(t, n.runContainer(t, pod, config, shell("main", "echo first life; exit 1")))
	again := shell("main", "echo one; echo two; sleep 0.2; echo late; echo oops >&2; echo -n cut off")
	again.Metadata.Attempt, again.LogPath = 1, "main/1.log"
	status := n.waitExited(t, n.runContainer(t, pod, config, again))
	runtime, _ := n.kubeletClients(t, false)

	two := int64(2)
	all, errOut := kubectlLogs(t, runtime, status, logs.LogOptions{})
	if all != "one\ntwo\nlate\ncut off" || errOut != "oops\n" {
		t.Errorf("the whole log is %q and %q", all, errOut)
	}
	if out, errOut := kubectlLogs(t, runtime, status, logs.LogOptions{TailLines: &two}); strings.Count(out+errOut, "\n") > 2 || !strings.HasSuffix(out, "cut off") {
		t.Errorf("--tail=2 is %q and %q", out, errOut)
	}
	if out, _ := kubectlLogs(t, runtime, status, logs.LogOptions{Since: lineOf(t, status.LogPath, "late")}); out != "late\ncut off" {
		t.Errorf("--since the third line is %q", out)
	}
	out, _ := kubectlLogs(t, runtime, status, logs.LogOptions{Timestamp: true})
	first, _, _ := strings.Cut(out, " one\n")
	if at, err := time.Parse(time.RFC3339Nano, first); err != nil || at.UnixNano() < status.StartedAt-int64(time.Second) || at.UnixNano() > status.FinishedAt {
		t.Errorf("--timestamps begins with %q: %v", first, err)
	}
	if out, _ := kubectlLogs(t, runtime, n.status(t, crashed.Id), logs.LogOptions{}); out != "first life\n" {
		t.Errorf("--previous is %q", out)
	}
}

// lineOf returns the time of the line.
func lineOf(t *testing.T, path, content string) time.Time {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if strings.HasSuffix(line, " "+content+"\n") {
			at, _ := lineTime([]byte(line))
			return at
		}
	}
	t.Fatalf("no line %q", content)
	return time.Time{}
}

func TestFollowedLogGoesOnOverARotationAndARestart(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("follow")
	pod := n.runPod(t, config)
	const lines = 300
	id := n.runContainer(t, pod, config, shell("main", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); sleep 0.01; done", lines)))
	status := n.status(t, id)
	eventually(t, "the log begins", func() bool { return exists(status.LogPath) })
	runtime, _ := n.kubeletClients(t, false)
	read, write := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := logs.ReadLogs(ctx, status.LogPath, id, &logs.LogOptions{Follow: true}, runtime, write, io.Discard)
		write.Close()
		ended <- err
	}()
	var followed []string
	for at := 0; ; at++ {
		var line string
		if _, err := fmt.Fscanf(read, "line %s\n", &line); err != nil {
			break
		}
		followed = append(followed, line)
		switch at {
		case 50:
			must(t, os.Rename(status.LogPath, status.LogPath+".20260101-000000"))
			_, err := n.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
			must(t, err)
		case 150:
			n.stop()
			n.start(t)
		}
	}
	must(t, <-ended)
	var want []string
	for i := range lines {
		want = append(want, fmt.Sprint(i))
	}
	if !slices.Equal(followed, want) {
		t.Errorf("followed %d lines, the last %q; want %d in order", len(followed), followed[max(0, len(followed)-1):], lines)
	}
}

func TestLogOnADiskThatFillsUpGoesOnWhenThereIsRoom(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("disk")
	tmpfs(t, config.LogDirectory, "64k")
	pod := n.runPod(t, config)
	const lines = 5000
	id := n.runContainer(t, pod, config, shell("main", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done", lines)))
	ended := n.waitExited(t, id)
	var room unix.Statfs_t
	eventually(t, "the disk is full", func() bool {
		must(t, unix.Statfs(config.LogDirectory, &room))
		return room.Bavail == 0
	})
	must(t, unix.Mount("tmpfs", config.LogDirectory, "tmpfs", unix.MS_REMOUNT, "size=4m"))
	eventually(t, "the log is complete", func() bool {
		data, err := os.ReadFile(ended.LogPath)
		return err == nil && bytes.Count(data, []byte("\n")) >= lines
	})
	got := logLines(t, ended.LogPath)
	for i, line := range got {
		if line != fmt.Sprintf("stdout F line %d", i) {
			t.Fatalf("line %d of %d is %q", i, len(got), line)
		}
	}
}
