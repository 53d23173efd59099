package keeper

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A minion here is this test's program with a role in its environment.
func TestMain(m *testing.M) {
	switch role := os.Getenv("KEEPER_TEST"); role {
	case "":
		os.Exit(m.Run())
	case "keeper":
		os.Stderr.WriteString(Become(os.NewFile(3, "connection")).Error())
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

// pair is a connection as a keeper and a minion have.
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
	cmd.Env, cmd.ExtraFiles = []string{"KEEPER_TEST=" + role, Environment(3)}, []*os.File{end}
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

func TestKeeperPassesTheRequestToEndOn(t *testing.T) {
	forKeeper, here := pair(t)
	keeper := start(t, "keeper", forKeeper)
	// It may come before the keeper asks for signals; then it just ends, which the minion sees as well.
	if err := keeper.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if kind, _, err := read(here); kind != terminate && !errors.Is(err, io.EOF) {
		t.Errorf("the minion reads %q (%v)", kind, err)
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

func TestWhyThereIsNoMinionIsSaid(t *testing.T) {
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
