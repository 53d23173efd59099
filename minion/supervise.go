package minion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	minBackoff = time.Second
	maxBackoff = time.Minute
	// steady is how long something has to have run for its next end to count as a first one.
	steady = time.Minute
	// termGrace is how long a child may take to end by itself.
	termGrace = 1500 * time.Millisecond
)

// part is something that runs until it is stopped.
type part struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// start runs run again and again until the part is stopped: what ends by itself, for good or ill, is started again after a
// pause that grows. The end of the context that it was started under stops it too.
func start(ctx context.Context, name string, run func(context.Context) error) *part {
	ctx, cancel := context.WithCancel(ctx)
	p := &part{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		again(ctx, name, run)
	}()
	return p
}

// stop asks the part to end and waits until it has.
func (p *part) stop() {
	if p == nil {
		return // it was never started
	}
	p.cancel()
	<-p.done
}

func again(ctx context.Context, name string, run func(context.Context) error) {
	var b backoff
	for {
		began := time.Now()
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := b.next(time.Since(began))
		logrus.Warnf("%s has ended and is started again in %s: %v", name, pause.Round(time.Millisecond), err)
		if sleep(ctx, pause) != nil {
			return
		}
	}
}

// untilDone tries again, with growing pauses, until run has succeeded once, or ctx ends, whose error it returns.
func untilDone(ctx context.Context, what string, run func(context.Context) error) error {
	var b backoff
	for {
		err := run(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		pause := b.next(0)
		logrus.Warnf("%s, trying again in %s: %s", what, pause.Round(time.Millisecond), err)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// backoff makes the pauses between lives. Its zero value is ready.
type backoff time.Duration

// next doubles the pause after a short life and begins anew after a steady one. The random half keeps the nodes of a
// cluster from coming all at once after what ended them all.
func (b *backoff) next(lived time.Duration) time.Duration {
	if *b == 0 || lived >= steady {
		*b = backoff(minBackoff)
	} else {
		*b = backoff(min(2*time.Duration(*b), maxBackoff))
	}
	half := time.Duration(*b) / 2
	return half + rand.N(half)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// child is a stock program, run as a process of this binary: its feature gates and signal handlers are per process.
type child struct {
	args   []string  // of km
	output io.Writer // takes all that the child writes
	health *health   // nil if the child's end is all that is watched
}

// self is this very program, also when its file has been replaced by another version or removed with a sandbox.
const self = "/proc/self/exe"

// run is one life of the child. When ctx ends it is asked to end, and made to if it takes too long. It dies with this
// process, whatever kills it. One that hangs is killed, for it would not heed a request.
func (c child) run(ctx context.Context) error {
	// The kernel sends the parent-death signal when the thread that forked ends, so this one must last as long as the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, c.args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = c.output, c.output
	cmd.Env = childEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = termGrace
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("km %s: %w", c.args[0], err)
	}
	hang := c.killIfItHangs(ctx, cmd.Process)
	err := cmd.Wait()
	if hung := hang(); hung != nil {
		err = hung
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("km %s: %w", c.args[0], err)
	}
	return nil
}

// killIfItHangs watches the process until the function that it returns is called, which tells why the process was killed.
func (c child) killIfItHangs(ctx context.Context, process *os.Process) (stop func() error) {
	if c.health == nil {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(ctx)
	verdict := make(chan error, 1)
	go func() {
		err := c.health.watch(ctx)
		if ctx.Err() != nil {
			err = nil
		} else if killErr := process.Kill(); killErr != nil {
			err = errors.Join(err, killErr)
		}
		verdict <- err
	}()
	return func() error {
		cancel()
		return <-verdict
	}
}

// childEnv is the environment without the executor's secret.
func childEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "MESOS_EXECUTOR_AUTHENTICATION_TOKEN=")
	})
}
