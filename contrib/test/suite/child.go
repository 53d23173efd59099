// Package suite has the tools to run Kubernetes' own test suites: steps with cleanup, child processes that end with the run, builds of
// programs from other modules, an image registry on loopback, and a parser for Ginkgo's reports. It knows neither the suites nor
// k8sm.
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

// RunChild runs a program. When ctx ends, it interrupts the program, and kills it if it does not end. The program gets this process's
// environment plus env. It does not get the terminal's Ctrl-C, and the kernel kills it when this process dies.
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

// ClaimMachine prevents a second run of the suite until the listener is closed, because suites use fixed ports. The kernel removes the
// abstract socket when this process dies (unix(7)).
func ClaimMachine(suite string) (net.Listener, error) {
	l, err := net.Listen("unix", "@k8sm-"+suite)
	if err != nil {
		return nil, fmt.Errorf("another run is under way on this machine: %w", err)
	}
	return l, nil
}
