package up_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/contrib/up"
)

// notes keeps what happened in its order.
type notes struct {
	mu   sync.Mutex // guards list
	list []string
}

func (n *notes) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, s)
}

// part is ready after the given time and stays until it is stopped.
func (n *notes) part(name string, takes time.Duration) up.Part {
	return up.Part{Name: name, Run: func(ctx context.Context, ready func(string)) error {
		n.add(name + " starts")
		time.Sleep(takes)
		ready("here")
		<-ctx.Done()
		time.Sleep(takes)
		n.add(name + " stopped")
		return ctx.Err()
	}}
}

func TestPartsStartInOrderAndStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		err := up.Run(ctx, &out, []up.Part{n.part("a", time.Second), n.part("b", time.Second)}, func() error { n.add("up"); cancel(); return nil })
		if err != nil {
			t.Error(err)
		}
		want := []string{"a starts", "b starts", "up", "b stopped", "a stopped"}
		if diff := cmp.Diff(want, n.list); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOnlyWhatTakesLongIsToldBeforeItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		if err := up.Run(ctx, &out, []up.Part{n.part("fast", time.Second), n.part("slow", 3*time.Second)}, func() error { cancel(); return nil }); err != nil {
			t.Error(err)
		}
		want := `[   1.0s] fast: here
[   3.0s] starting slow …
[   4.0s] slow: here
[   6.0s] stopping slow …
[   7.0s] slow stopped
[   8.0s] fast stopped
`
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPartsThatDoNotNeedEachOtherStopTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		parts := []up.Part{n.part("a", 0), n.part("b", time.Second/2), n.part("c", time.Second), n.part("d", 0)}
		parts[2].Beside = true
		if err := up.Run(ctx, &out, parts, func() error { cancel(); return nil }); err != nil {
			t.Error(err)
		}
		want := "[   1.5s] d stopped\n[   2.0s] b stopped\n[   2.5s] c stopped\n[   2.5s] a stopped\n"
		if got := out.String(); !strings.HasSuffix(got, want) {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestPartsThatStartTogetherAreAwaitedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		parts := []up.Part{n.part("a", time.Second), n.part("b", time.Second/2), n.part("c", 0)}
		parts[1].Together = true
		if err := up.Run(ctx, &out, parts, func() error { cancel(); return nil }); err != nil {
			t.Error(err)
		}
		want := "[   0.5s] b: here\n[   1.0s] a: here\n[   1.0s] c: here\n[   1.0s] c stopped\n[   1.5s] b stopped\n[   2.5s] a stopped\n"
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestFailureEndsTheWaitForWhatStartsTogether(t *testing.T) {
	for _, first := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			bad := up.Part{Name: "bad", Run: func(context.Context, func(string)) error { return errors.New("port 5050 is in use") }}
			stopped := false
			waits := up.Part{Name: "waits", Run: func(ctx context.Context, _ func(string)) error {
				<-ctx.Done()
				stopped = true
				return ctx.Err()
			}}
			parts := []up.Part{bad, waits}
			if !first {
				parts = []up.Part{waits, bad}
			}
			parts[1].Together = true
			err := up.Run(t.Context(), &bytes.Buffer{}, parts, func() error { t.Error("told that all is up"); return nil })
			if err == nil || !strings.HasSuffix(err.Error(), "port 5050 is in use") || !stopped {
				t.Errorf("err = %v, stopped = %v", err, stopped)
			}
		})
	}
}

func TestPartThatCannotStartStopsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		bad := up.Part{Name: "bad", Run: func(context.Context, func(string)) error { return errors.New("port 5050 is in use") }}
		err := up.Run(t.Context(), &bytes.Buffer{}, []up.Part{n.part("a", 0), bad, n.part("never", 0)}, func() error { t.Error("told that all is up"); return nil })
		if err == nil || err.Error() != "port 5050 is in use" {
			t.Errorf("err = %v", err)
		}
		if diff := cmp.Diff([]string{"a starts", "a stopped"}, n.list); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPartThatEndsByItselfEndsTheCluster(t *testing.T) {
	for name, end := range map[string]error{"disk full": errors.New("disk full"), "without an error": nil} {
		synctest.Test(t, func(t *testing.T) {
			var n notes
			dies := up.Part{Name: "dies", Run: func(_ context.Context, ready func(string)) error {
				ready("here")
				time.Sleep(time.Minute)
				return end
			}}
			err := up.Run(t.Context(), &bytes.Buffer{}, []up.Part{dies, n.part("b", 0)}, nil)
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("err = %v", err)
			}
			if diff := cmp.Diff([]string{"b starts", "b stopped"}, n.list); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInterruptWhileAPartStartsStopsItToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stopped := false
		stuck := up.Part{Name: "stuck", Run: func(ctx context.Context, _ func(string)) error {
			<-ctx.Done()
			stopped = true
			return nil
		}}
		if err := up.Run(ctx, &bytes.Buffer{}, []up.Part{stuck}, func() error { t.Error("told that all is up"); return nil }); err != nil || !stopped {
			t.Errorf("err = %v, stopped = %v", err, stopped)
		}
	})
}

func TestPartsAreStoppedIfNobodyCanBeToldThatTheyAreUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n notes
		full := errors.New("no space left")
		err := up.Run(t.Context(), &bytes.Buffer{}, []up.Part{n.part("a", 0)}, func() error { return full })
		if diff := cmp.Diff([]string{"a starts", "a stopped"}, n.list); diff != "" || !errors.Is(err, full) {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
