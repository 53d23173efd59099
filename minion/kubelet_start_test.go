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

// The program that supervise starts is this test's; with arguments that it does not know it ends at once, with an error.
func TestKubeletThatNeverRunsIsToldWithItsLastError(t *testing.T) {
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
			t.Errorf("one that may start yet is given up: %v", posted)
		}
		if err := run(t.Context()); err == nil {
			t.Fatal("it ended well")
		}
	}
	want := []executor.Event{executor.Unfit{Reason: `the kubelet does not start (km -test.no-such-flag: exit status 2): ` +
		`"command failed" err="open /dev/kmsg: operation not permitted"`}}
	if diff := cmp.Diff(want, posted); diff != "" {
		t.Error(diff)
	}
}

func TestKubeletThatWasHealthyOnceIsNotGivenUp(t *testing.T) {
	var posted []executor.Event
	f := &firstHealth{post: func(e executor.Event) { posted = append(posted, e) }}
	f.ends = futileStarts
	f.healthy.Store(true)
	f.ended(errors.New("exit status 1"))
	if len(posted) > 0 {
		t.Errorf("it posts %v", posted)
	}
}
