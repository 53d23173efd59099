package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pause")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build pause: %v: %s", err, out)
	}
	return path
}

func TestPauseEndsAtOnceOnTermAndInt(t *testing.T) {
	path := build(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := exec.CommandContext(t.Context(), path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended: // with status 0, or by the signal itself if it came before main asked for it
		case <-time.After(5 * time.Second):
			t.Errorf("pause goes on after %v", signal)
			_ = cmd.Process.Kill()
			<-ended
		}
	}
}

func TestPauseReapsOrphansAsAnInit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	// In a PID namespace of its own, pause is process 1; a shell that joined the namespace leaves it an orphan that
	// ends when its standard input does.
	cmd := exec.CommandContext(t.Context(), build(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	target := fmt.Sprint(cmd.Process.Pid)
	out, err := exec.CommandContext(t.Context(), "nsenter", "--target", target, "--pid",
		"sh", "-c", "(sh -c 'true; exit 0' &) ; true").CombinedOutput()
	if err != nil {
		t.Fatalf("cannot leave an orphan: %v: %s", err, out)
	}
	children := fmt.Sprintf("/proc/%s/task/%s/children", target, target)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		left, err := os.ReadFile(children)
		if err != nil {
			t.Fatal(err)
		}
		if len(strings.TrimSpace(string(left))) == 0 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("pause did not reap %s", left)
		}
	}
}
