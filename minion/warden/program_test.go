package warden

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestProgramAndCommandRefuseOtherCallers(t *testing.T) {
	for name, args := range map[string][]string{"none": {}, "its name": {Command}, "those of km at work": {Command, "m", "n", "p", "b", "1s", locked, "3", "4"}} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), os.Getenv(programVariable), args...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "only a k8sm minion") {
				t.Errorf("it ends with %v: %s", err, out)
			}
		})
	}
	for name, args := range map[string][]string{
		"none":                     {},
		"those of one that waits":  {"m", "n", "p", "b", "1s"},
		"files that are not there": {"m", "n", "p", "b", "1s", locked, "1000", "1001"},
		"the standard input":       {"m", "n", "p", "b", "1s", locked, "0", "1"},
	} {
		t.Run("km: "+name, func(t *testing.T) {
			if w, err := Resume(args); err == nil {
				t.Errorf("it works as %+v", w)
			}
		})
	}
}

// minionVariable makes the test binary a minion that starts a warden in the directory, removes all programs and kills itself.
const minionVariable = "WARDEN_TEST_MINION"

func beMinion() {
	w := watchIn(os.Getenv(minionVariable))
	lock, err := tryLock(w.Node)
	if err == nil {
		err = w.Start(Launch{Program: os.Getenv(programVariable), Container: "none", Log: os.Stderr, Env: os.Environ()})
	}
	km, pathErr := os.Executable()
	if err := errors.Join(err, pathErr, os.Remove(km), os.Remove(os.Getenv(programVariable))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	lock.Close()
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Agents remove sandboxes, and the minion removes the fetched km from its own sandbox at once.
func TestWardenWorksAfterProgramsAreRemoved(t *testing.T) {
	w, release := watch(t)
	release()
	dir := filepath.Dir(w.Marker)
	km, program := filepath.Join(dir, "km"), filepath.Join(dir, "program")
	copyProgram(t, self, km)
	copyProgram(t, os.Getenv(programVariable), program)
	minion := exec.CommandContext(t.Context(), km)
	minion.Env = append(os.Environ(), minionVariable+"="+dir, programVariable+"="+program)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	minion.Stderr = log
	if err := minion.Run(); minion.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("the minion ended with %v: %s", err, text)
	}
	await(t, "the marker is gone", w.isOver)
}

// waitAsBefore is a warden of an old build, which waited in km itself.
func waitAsBefore() {
	order, _ := parse(os.Args)
	post, err := takePost(order.Post)
	if err != nil || post == nil {
		os.Exit(1)
	}
	_, _ = io.ReadAll(os.Stdin) // until the test has gone
	post.Close()
}

func TestWardenThatWaitsInKMIsReplaced(t *testing.T) {
	w, release := watch(t)
	old := exec.CommandContext(t.Context(), self)
	old.Args = []string{"km", Command, w.Marker, w.Node, w.Post, "a-container", w.Patience.String()}
	stdin, err := old.StdinPipe()
	if err == nil {
		err = old.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	ended := make(chan error, 1)
	go func() { ended <- old.Wait() }()
	await(t, "the old warden waits", func() bool { return w.holder() == old.Process.Pid })
	start(t, w)
	if err := <-ended; old.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("the old one ended with %v", err)
	}
	release()
	await(t, "the marker is gone", w.isOver)
}

// Dismiss must not kill a process that reuses the id of a killed warden.
func TestReusedProcessIDIsNotTheWarden(t *testing.T) {
	w, _ := watch(t)
	if err := os.WriteFile(w.Post, fmt.Appendln(nil, os.Getppid()), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid := w.holder(); pid != 0 {
		t.Errorf("it takes process %d, %q, for the warden", pid, commandLine(pid))
	}
}

func TestWardenIsSmall(t *testing.T) {
	w, _ := watch(t)
	pid := start(t, w)
	timer := time.NewTimer(5 * look) // what a few looks leave belongs to it
	<-timer.C
	used := memory(t, pid)
	t.Logf("a warden has %d KB of its own and %d KB resident", used["Anonymous"], used["Rss"])
	if used["Anonymous"] > 2000 || used["Rss"] > 6000 {
		t.Errorf("the small program uses too much memory: %v", used)
	}
}

// memory returns the memory use of a process from /proc, in KB.
func memory(t *testing.T, pid int) map[string]int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	kilobytes := map[string]int{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		var n int
		if _, err := fmt.Sscanf(value, "%d kB", &n); err == nil {
			kilobytes[name] = n
		}
	}
	if kilobytes["Rss"] == 0 {
		t.Fatalf("the kernel does not tell: %s", text)
	}
	return kilobytes
}
