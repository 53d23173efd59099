// Package suite is what it takes to run one of Kubernetes' own test suites on a machine of one's own: steps that are undone in the
// end, programs that end with the run, the go command that builds programs of other modules, an image registry on loopback, and the
// count of a report by Ginkgo. It knows none of the suites, and nothing of k8sm.
//
// Start reading at Run, Module and ReadReport.
package suite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// RunChild runs a program until it ends or ctx does; then it is interrupted, and killed if that does not help. It gets
// this process's environment and env besides. It does not get the terminal's Ctrl-C, and dies with this process, whatever
// kills that.
func RunChild(ctx context.Context, out io.Writer, env []string, program string, args ...string) error {
	// The kernel sends the parent-death signal when the thread that forked ends, so this one must last as long as the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil // we ended it
	}
	return err
}

// RunGo runs the go command in dir, which links statically and completes the go.sum there. Progress gets what it says; an
// error has the end of that.
func RunGo(ctx context.Context, dir string, progress io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = GoEnvironment()
	said := &lastWords{out: progress}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w: %s", args[0], err, said.text)
	}
	return nil
}

// GoEnvironment is the go command's for RunGo.
func GoEnvironment() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
}

// lastWords passes on what it gets and keeps the end.
type lastWords struct {
	out  io.Writer
	text []byte
}

func (w *lastWords) Write(p []byte) (int, error) {
	w.text = append(w.text, p...)
	w.text = w.text[max(0, len(w.text)-2000):]
	return w.out.Write(p)
}

// Sampler shows of many lines only how many there were, from time to time: after each Every of them "  N UNIT".
type Sampler struct {
	Out   io.Writer
	Unit  string
	Every int
	lines int
}

// Write implements io.Writer.
func (s *Sampler) Write(p []byte) (int, error) {
	for range bytes.Count(p, []byte("\n")) {
		if s.lines++; s.lines%s.Every == 0 {
			fmt.Fprintf(s.Out, "  %d %s\n", s.lines, s.Unit)
		}
	}
	return len(p), nil
}

// ClaimMachine keeps a second run of the suite away until the listener is closed: suites use fixed ports. The abstract
// socket is gone with this process, whatever kills it (unix(7)).
func ClaimMachine(suite string) (net.Listener, error) {
	l, err := net.Listen("unix", "@k8sm-"+suite)
	if err != nil {
		return nil, fmt.Errorf("another run is under way on this machine: %w", err)
	}
	return l, nil
}
