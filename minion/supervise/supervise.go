// Package supervise restarts parts of a program until they are stopped, and runs commands of this program as child processes if
// their state is per process, as that of the stock Kubernetes programs and CoreDNS. It does not know what the parts do. Start
// reading at Start and Child.
package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/backoff"
)

const (
	minBackoff = time.Second
	maxBackoff = time.Minute
	// steady is how long a part must run before its next end counts as the first one.
	steady = time.Minute
	// termGrace is the default for Child.Grace.
	termGrace = 1500 * time.Millisecond
)

// Part is a goroutine or child that is restarted until it is stopped.
type Part struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Start calls run until the part is stopped. When run returns, with an error or not, it is called again after a pause that grows.
// The end of ctx stops the part, too.
func Start(ctx context.Context, name string, run func(context.Context) error) *Part {
	ctx, cancel := context.WithCancel(ctx)
	p := &Part{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		again(ctx, name, run)
	}()
	return p
}

// Stop stops the part and waits until it has ended. p may be nil.
func (p *Part) Stop() {
	if p == nil {
		return
	}
	p.cancel()
	<-p.done
}

func again(ctx context.Context, name string, run func(context.Context) error) {
	pauses := backoff.Between(minBackoff, maxBackoff)
	for {
		began := time.Now()
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := next(&pauses, time.Since(began))
		logrus.Warnf("%s ended, restarting in %s: %v", name, pause.Round(time.Millisecond), err)
		if Sleep(ctx, pause) != nil {
			return
		}
	}
}

// UntilDone calls run with growing pauses until it succeeds, or until ctx ends, and returns ctx's error then. what describes the
// task in the log.
func UntilDone(ctx context.Context, what string, run func(context.Context) error) error {
	pauses := backoff.Between(minBackoff, maxBackoff)
	for {
		err := run(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		pause := pauses.Step()
		logrus.Warnf("%s, retrying in %s: %s", what, pause.Round(time.Millisecond), err)
		if err := Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// next returns the pause after a life. After a steady one, the pauses start over.
func next(pauses *backoff.Pauses, lived time.Duration) time.Duration {
	if lived >= steady {
		*pauses = backoff.Between(minBackoff, maxBackoff)
	}
	return pauses.Step()
}

// Sleep waits, or returns ctx's error if ctx ends first.
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
	Args   []string      // arguments of km
	Env    []string      // as "name=value"; nil means this process's
	Output io.Writer     // receives stdout and stderr
	Health *Health       // nil for no health checks
	Grace  time.Duration // time between SIGTERM and SIGKILL; 0 means 1.5 s
}

// self is this program, even if its file was replaced by another version or removed with a sandbox.
const self = "/proc/self/exe"

// Run runs the child once. When ctx ends, the child gets SIGTERM, and SIGKILL after Grace. The kernel kills it if this process dies.
// A child that hangs is killed at once, because it would not react to SIGTERM.
func (c Child) Run(ctx context.Context) error {
	// The kernel sends the parent-death signal when the forking thread exits, so this thread must outlive the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, c.Args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = c.Env
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
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

// killIfItHangs watches the process until stop is called. stop returns why the process was killed, if it was.
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
