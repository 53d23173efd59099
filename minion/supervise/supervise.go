// Package supervise runs parts of a program again and again until they are stopped, and commands of this program as child
// processes: those whose state is per process, such as the stock Kubernetes programs and CoreDNS. It knows nothing of what
// the parts do. Start reading at Start and Child.
package supervise

import (
	"cmp"
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
	// termGrace is how long a child that says nothing else may take to end by itself.
	termGrace = 1500 * time.Millisecond
)

// Part is something that runs until it is stopped.
type Part struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Start runs run again and again until the part is stopped: what ends by itself, for good or ill, is started again after a
// pause that grows. The end of the context that it was started under stops it too.
func Start(ctx context.Context, name string, run func(context.Context) error) *Part {
	ctx, cancel := context.WithCancel(ctx)
	p := &Part{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		again(ctx, name, run)
	}()
	return p
}

// Stop asks the part to end and waits until it has. A nil part is one that was never started.
func (p *Part) Stop() {
	if p == nil {
		return
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
		if Sleep(ctx, pause) != nil {
			return
		}
	}
}

// UntilDone tries again, with growing pauses, until run has succeeded once, or ctx ends, whose error it returns.
func UntilDone(ctx context.Context, what string, run func(context.Context) error) error {
	var b backoff
	for {
		err := run(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		pause := b.next(0)
		logrus.Warnf("%s, trying again in %s: %s", what, pause.Round(time.Millisecond), err)
		if err := Sleep(ctx, pause); err != nil {
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

// Sleep waits, or returns the error of ctx if that ends first.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Child is a command of this binary that runs as a process of its own.
type Child struct {
	Args   []string      // of km
	Output io.Writer     // takes all that the child writes
	Health *Health       // nil if the child's end is all that is watched
	Grace  time.Duration // how long it may take to end by itself when it is asked to; 0 is a second and a half
}

// self is this very program, also when its file has been replaced by another version or removed with a sandbox.
const self = "/proc/self/exe"

// Run is one life of the child. When ctx ends it is asked to end, and made to if it takes too long. It dies with this
// process, whatever kills it. One that hangs is killed, for it would not heed a request.
func (c Child) Run(ctx context.Context) error {
	// The kernel sends the parent-death signal when the thread that forked ends, so this one must last as long as the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, c.Args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.Env = Env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = cmp.Or(c.Grace, termGrace)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("km %s: %w", c.Args[0], err)
	}
	hang := c.killIfItHangs(ctx, cmd.Process)
	err := cmd.Wait()
	if hung := hang(); hung != nil {
		err = hung
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("km %s: %w", c.Args[0], err)
	}
	return nil
}

// killIfItHangs watches the process until the function that it returns is called, which tells why the process was killed.
func (c Child) killIfItHangs(ctx context.Context, process *os.Process) (stop func() error) {
	if c.Health == nil {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(ctx)
	verdict := make(chan error, 1)
	go func() {
		err := c.Health.watch(ctx)
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

// Env is this process's environment without the executor's secret.
func Env() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "MESOS_EXECUTOR_AUTHENTICATION_TOKEN=")
	})
}
