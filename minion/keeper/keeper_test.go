package keeper

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

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary a minion if the environment names a role.
func TestMain(m *testing.M) {
	switch role := os.Getenv("KEEPER_TEST"); role {
	case "":
		os.Exit(withProgram(m.Run))
	case "keeper":
		os.Stderr.WriteString(Become(os.Getenv(programVariable), os.NewFile(3, "connection")).Error())
		os.Exit(1)
	default:
		link, err := Adopt()
		if err != nil || link == nil {
			os.Exit(2)
		}
		if role == "ends" {
			link.Ending(5)
			os.Exit(5)
		}
		_, _ = io.ReadAll(os.Stdin) // until the test has gone
	}
}

// programVariable is the environment variable with the path of the small program.
const programVariable = "KEEPER_TEST_PROGRAM"

// withProgram builds the small program from the current source; the file that make built may be older.
func withProgram(run func() int) int {
	dir, err := os.MkdirTemp("", "keeper")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "keeper")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build the keeper: %v: %s", err, out)
		return 1
	}
	os.Setenv(programVariable, program)
	return run()
}

// pair returns both ends of a connection.
func pair(t *testing.T) (here, there *os.File) {
	t.Helper()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(ends[0], true); err != nil {
		t.Fatal(err)
	}
	here, there = os.NewFile(uintptr(ends[0]), "here"), os.NewFile(uintptr(ends[1]), "there")
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

// start starts a role with its end of a connection.
func start(t *testing.T, role string, end *os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{"KEEPER_TEST=" + role, Environment(3), programVariable + "=" + os.Getenv(programVariable)}
	cmd.ExtraFiles = []*os.File{end}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	end.Close()
	return cmd
}

func TestKeeperEndsWithTheStatusOfItsMinion(t *testing.T) {
	for role, want := range map[string]int{"ends": 5, "is killed": 137} {
		t.Run(role, func(t *testing.T) {
			forKeeper, forMinion := pair(t)
			minion := start(t, role, forMinion)
			if err := Await(forKeeper, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			keeper := start(t, "keeper", forKeeper)
			if role == "is killed" {
				_ = minion.Process.Kill()
			}
			_ = keeper.Wait()
			if got := keeper.ProcessState.ExitCode(); got != want {
				t.Errorf("the keeper ended with %d", got)
			}
		})
	}
}

func TestKeeperForwardsSIGTERM(t *testing.T) {
	forKeeper, here := pair(t)
	keeper := start(t, "keeper", forKeeper)
	// A signal before signal.Notify kills the keeper, which the minion notices too.
	if err := keeper.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if kind, _, err := read(here); kind != terminate && !errors.Is(err, io.EOF) {
		t.Errorf("the minion reads %q (%v)", kind, err)
	}
}

// await waits until ok returns true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestKeeperIsSmall(t *testing.T) {
	forKeeper, here := pair(t)
	keeper := start(t, "keeper", forKeeper)
	await(t, "it becomes the small program", func() bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", keeper.Process.Pid))
		return err == nil && strings.Contains(string(line), "\x00"+command+"\x00")
	})
	if _, err := here.Write([]byte("?")); err != nil { // which it skips
		t.Fatal(err)
	}
	await(t, "it has read what it was told", func() bool {
		unread, err := unix.IoctlGetInt(int(here.Fd()), unix.TIOCOUTQ)
		return err == nil && unread == 0
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", keeper.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]int{}
	for line := range strings.Lines(string(status)) {
		var kilobytes int
		name, value, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscanf(value, "%d kB", &kilobytes); err == nil {
			used[name] = kilobytes
		}
	}
	t.Logf("a keeper has %d KB of its own and %d KB resident", used["RssAnon"], used["VmRSS"])
	if used["VmRSS"] == 0 || used["RssAnon"] > 2000 || used["VmRSS"] > 6000 {
		t.Errorf("the small program uses too much memory: %v", used)
	}
}

func TestKeeperProgramRefusesOtherCallers(t *testing.T) {
	for name, args := range map[string][]string{"none": {}, "no connection": {command}, "the standard input": {command, "0"}} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), os.Getenv(programVariable), args...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "only a k8sm minion") {
				t.Errorf("it ends with %v: %s", err, out)
			}
		})
	}
}

func TestMinionHeedsItsKeeper(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(here *os.File)
		want syscall.Signal
	}{
		"it is asked to end":   {func(here *os.File) { _, _ = here.Write([]byte{terminate}) }, syscall.SIGTERM},
		"its keeper is killed": {func(here *os.File) { here.Close() }, syscall.SIGKILL},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := pair(t)
			minion := start(t, "waits", there)
			if err := Await(here, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			test.do(here)
			_ = minion.Wait()
			if status := minion.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != test.want {
				t.Errorf("it ended by %v", status.Signal())
			}
		})
	}
}

func TestAwaitReturnsTheReasonOfRefuse(t *testing.T) {
	here, there := pair(t)
	Refuse(there, errors.New("the Engine refuses"))
	if err := Await(here, 10*time.Second); err == nil || !strings.Contains(err.Error(), "the Engine refuses") {
		t.Errorf("it says %v", err)
	}
	there.Close()
	if err := Await(here, 10*time.Second); err == nil {
		t.Error("one that is gone has the connection")
	}
}
