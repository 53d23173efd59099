package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

// registry is Docker's registry (https://distribution.github.io/distribution/), running.
type registry struct {
	// address is HOST:PORT, on loopback: Docker Engine trusts it without TLS.
	address string
}

// startRegistry starts the registry, until undone.
func (h *harness) startRegistry(ctx context.Context) error {
	if _, err := os.Stat(h.registryProgram); err != nil {
		return fmt.Errorf("there is no registry (contrib/install-deps critest brings it): %w", err)
	}
	log, err := h.log("registry.log")
	if err != nil {
		return err
	}
	config := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: 127.0.0.1:0\n", h.path("registry"))
	file := h.path("registry.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return errors.Join(err, log.Close())
	}
	living, cancel := context.WithCancel(context.WithoutCancel(ctx))
	watch := &addressWriter{out: log, found: make(chan string, 1)}
	ended := make(chan error, 1)
	go func() { ended <- runChild(living, watch, nil, h.registryProgram, "serve", file) }()
	stop := func() error {
		cancel()
		return errors.Join(<-ended, log.Close())
	}
	select {
	case address := <-watch.found:
		h.registry = &registry{address: address}
		h.undo = append(h.undo, func(context.Context) error { return stop() })
		return nil
	case err := <-ended:
		return errors.Join(fmt.Errorf("the registry ended at once (%w); see %s", err, filepath.Join(h.build, "registry.log")), log.Close())
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("the registry does not say where it listens"), stop())
	case <-ctx.Done():
		return errors.Join(ctx.Err(), stop())
	}
}

// listening is what the registry logs once it serves.
var listening = regexp.MustCompile(`msg="listening on (127\.0\.0\.1:\d+)"`)

// addressWriter passes on what the registry logs, and finds its address there: only the kernel knows a free port.
type addressWriter struct {
	out   io.Writer
	found chan string // gets the address, once
	text  []byte      // the beginning of the log, until the address was in it
	done  bool
}

func (w *addressWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.text = append(w.text, p...)
		if m := listening.FindSubmatch(w.text); m != nil {
			w.done, w.text = true, nil
			w.found <- string(m[1])
		}
	}
	return w.out.Write(p)
}

// runChild runs a program of ours until it ends or ctx does; then it is interrupted, and killed if that does not help. It
// does not get the terminal's Ctrl-C, and dies with this process, whatever kills that.
func runChild(ctx context.Context, out io.Writer, env []string, program string, args ...string) error {
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

// sampler shows of many lines only how many there were, from time to time.
type sampler struct {
	out   io.Writer
	unit  string
	every int
	lines int
}

func (s *sampler) Write(p []byte) (int, error) {
	for range bytes.Count(p, []byte("\n")) {
		if s.lines++; s.lines%s.every == 0 {
			fmt.Fprintf(s.out, "  %d %s\n", s.lines, s.unit)
		}
	}
	return len(p), nil
}
