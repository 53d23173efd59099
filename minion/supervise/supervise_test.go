package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k8sm/k8sm/api/backoff"
)

// TestMain makes this test binary play a child when a test starts it as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		os.Exit(playChild(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func playChild(how []string) int {
	switch how[0] {
	case "fail":
		return 3
	case "obey":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		fmt.Println("child: ready")
		<-stop
		fmt.Println("child: told to end")
	case "defy":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("child: ready")
		time.Sleep(time.Minute) // longer than any test waits
	}
	return 0
}

// watchedBuffer tells when a text has been written to it. It is written by one goroutine.
type watchedBuffer struct {
	written bytes.Buffer
	want    string
	seen    chan struct{}
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	n, err := b.written.Write(p)
	if b.seen != nil && strings.Contains(b.written.String(), b.want) {
		close(b.seen)
		b.seen = nil
	}
	return n, err
}

func testChild(how string, output *watchedBuffer) Child {
	return Child{Args: []string{"child", how}, Output: output}
}

func TestChildThatFailsSaysSo(t *testing.T) {
	var output watchedBuffer
	err := testChild("fail", &output).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "km child: exit status 3") {
		t.Errorf("err = %v", err)
	}
}

func TestStoppedChildIsAskedFirstAndKilledThen(t *testing.T) {
	for how, wantOutput := range map[string]string{"obey": "told to end", "defy": ""} {
		t.Run(how, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			ready := make(chan struct{})
			output := &watchedBuffer{want: "ready", seen: ready}
			done := make(chan error, 1)
			go func() { done <- testChild(how, output).Run(ctx) }()
			<-ready
			cancel()
			select {
			case <-done:
			case <-time.After(termGrace + 10*time.Second):
				t.Fatal("the child goes on")
			}
			if !strings.Contains(output.written.String(), wantOutput) {
				t.Errorf("output is %q, want %q in it", output.written.String(), wantOutput)
			}
		})
	}
}

func TestPartIsStartedAgainAfterGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		began := time.Now()
		p := Start(t.Context(), "it", func(context.Context) error {
			starts = append(starts, time.Since(began))
			return errors.New("broken")
		})
		time.Sleep(10 * time.Minute)
		p.Stop()
		for i := range starts[1:] {
			pause, limit := starts[i+1]-starts[i], min(minBackoff<<i, maxBackoff)
			if pause < limit/2 || pause > limit {
				t.Errorf("pause %d is %s, want half of %s to all of it", i+1, pause, limit)
			}
		}
		if len(starts) < 10 {
			t.Errorf("%d starts in ten minutes", len(starts))
		}
	})
}

func TestPauseIsShortAgainAfterASteadyLife(t *testing.T) {
	pauses := backoff.Between(minBackoff, maxBackoff)
	for range 10 {
		next(&pauses, 0)
	}
	if pause := next(&pauses, steady); pause > minBackoff {
		t.Errorf("pause is %s", pause)
	}
}

func TestStopWaitsUntilThePartHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		p := Start(t.Context(), "it", func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = true
			return nil
		})
		synctest.Wait()
		p.Stop()
		if !ended {
			t.Error("stop returned early")
		}
		var never *Part
		never.Stop()
	})
}

func TestUntilDoneGoesOnUntilSuccessOrTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		err := UntilDone(t.Context(), "waiting", func(context.Context) error {
			tries++
			if tries < 4 {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil || tries != 4 {
			t.Errorf("err = %v after %d tries", err, tries)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = UntilDone(ctx, "waiting", func(context.Context) error { return errors.New("never") })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v", err)
		}
	})
}
