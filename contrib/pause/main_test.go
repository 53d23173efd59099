package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
		// The signal counts only once pause has asked for it; until then the default action ends the process too.
		for cmd.ProcessState == nil && !catches(t, cmd.Process.Pid, signal) {
			if t.Context().Err() != nil {
				t.Fatal("pause never caught ", signal)
			}
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("on %v pause ended with %v; want status 0", signal, err)
		}
	}
}

// catches tells whether the process has a handler for the signal (proc_pid_status(5), SigCgt), and is not still about to
// run the program: the Go runtime installs its handlers for all signals first.
func catches(t *testing.T, pid int, signal syscall.Signal) bool {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if mask, ok := strings.CutPrefix(lines.Text(), "SigCgt:"); ok {
			var bits uint64
			if _, err := fmt.Sscanf(strings.TrimSpace(mask), "%x", &bits); err != nil {
				t.Fatal(err)
			}
			return bits&(1<<(uint(signal)-1)) != 0
		}
	}
	return false
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
	for {
		left, err := os.ReadFile(children)
		if err != nil {
			t.Fatal(err)
		}
		if len(strings.TrimSpace(string(left))) == 0 {
			return
		}
		if t.Context().Err() != nil {
			t.Fatalf("pause did not reap %s", left)
		}
	}
}
