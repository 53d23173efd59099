package minion

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/minion/supervise"
)

// supervise starts this test's binary: with unknown arguments it exits at once with an error.
func TestKubeletThatNeverStartsIsReportedWithItsLastError(t *testing.T) {
	log := filepath.Join(t.TempDir(), "kubelet.log")
	text := "I1129 12:00:00.000000 1 server.go:1] \"hello\"\n" +
		"E1129 12:00:00.000000 1 run.go:72] \"command failed\" err=\"open /dev/kmsg: operation not permitted\"\nbye\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var posted []executor.Event
	f := &firstHealth{post: func(e executor.Event) { posted = append(posted, e) }, log: log}
	never := func(context.Context) error { return errors.New("it does not answer") }
	run := f.watch(supervise.Child{Args: []string{"-test.no-such-flag"}, Health: &supervise.Health{Probe: never, Every: time.Minute}})
	for range futileStarts {
		if len(posted) > 0 {
			t.Errorf("unfit was posted too early: %v", posted)
		}
		if err := run(t.Context()); err == nil {
			t.Fatal("the kubelet's command succeeded")
		}
	}
	want := []executor.Event{executor.Unfit{Reason: `the kubelet does not start (km -test.no-such-flag: exit status 2): ` +
		`"command failed" err="open /dev/kmsg: operation not permitted"`}}
	if diff := cmp.Diff(want, posted); diff != "" {
		t.Error(diff)
	}
}

func TestLastErrorIsFoundInJSONToo(t *testing.T) {
	log := filepath.Join(t.TempDir(), "kubelet.log")
	for text, want := range map[string]string{
		`{"ts":1,"caller":"server.go:1","msg":"hello","v":0}` + "\n" + `{"ts":2,"caller":"run.go:72","msg":"command failed","err":"no \"config\""}` + "\nbye\n": `"command failed" err="no \"config\""`,
		`{"ts":1,"msg":"hello"}` + "\nbye\n": "bye",
	} {
		if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastWords(log); got != want {
			t.Errorf("the last words of %q are %q, want %q", text, got, want)
		}
	}
}

func TestKubeletThatWasHealthyOnceStaysFit(t *testing.T) {
	var posted []executor.Event
	f := &firstHealth{post: func(e executor.Event) { posted = append(posted, e) }}
	f.ends = futileStarts
	f.healthy.Store(true)
	f.ended(errors.New("exit status 1"))
	if len(posted) > 0 {
		t.Errorf("posted %v, want nothing", posted)
	}
}
