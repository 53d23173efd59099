package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestMain makes this test binary km, or a role that serves, when a test starts it as one. The role writes after nobody reads its output
// any more, and then starts a child.
func TestMain(m *testing.M) {
	if os.Getenv("K8SM_TEST_KM") != "" {
		os.Exit(Run(os.Args[1:], os.Stdout, os.Stderr))
	}
	if os.Getenv("K8SM_TEST_SERVE") == "" {
		os.Exit(m.Run())
	}
	err := serve(&common{logLevel: logLevel(logrus.InfoLevel), logFormat: "text"}, func(context.Context) error {
		fmt.Println("up")
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
		fmt.Println("a line that nobody reads")
		fmt.Fprintln(os.Stderr, "nor this one")
		// A child of ours dies of it as any program does.
		err := exec.Command("/bin/sh", "-c", "kill -PIPE $$").Run()
		if status, ok := err.(*exec.ExitError); !ok || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE {
			return fmt.Errorf("the child ended with %w", err)
		}
		return os.WriteFile(os.Getenv("K8SM_TEST_SERVE"), []byte("ended in order"), 0o600)
	})
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func TestRoleGoesOnWhenNobodyReadsItsOutputAnyMore(t *testing.T) {
	note := t.TempDir() + "/note"
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "K8SM_TEST_SERVE="+note)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stdout, child.Stderr = write, write
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil || line != "up\n" {
		t.Errorf("it prints %q, %v", line, err)
	}
	for _, end := range []*os.File{read, write} {
		if err := end.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fmt.Fprintln(in, "go on"); err != nil {
		t.Fatal(err)
	}
	err = child.Wait()
	if text, readErr := os.ReadFile(note); err != nil || string(text) != "ended in order" {
		t.Errorf("it ended with %v, and left %q, %v", err, text, readErr)
	}
}
