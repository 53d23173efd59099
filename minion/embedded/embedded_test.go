package embedded

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// someProgram is one of this machine's, in place of the small ones.
func someProgram(t *testing.T, name string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// runs checks that the program can be executed, and is the one that ends with the status.
func runs(t *testing.T, p *Program, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.Path())
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("%s ended with %d, not %d", p.Path(), got, status)
	}
}

func broughtTo(t *testing.T, dir string, data []byte) *Program {
	t.Helper()
	p, err := place("warden", dir, data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestProgramIsAFileThatStaysWhileItIsTheSame(t *testing.T) {
	dir, yes, no := t.TempDir(), someProgram(t, "true"), someProgram(t, "false")
	old := unix.Umask(0o777) // whatever the agent has
	first := broughtTo(t, dir, yes)
	unix.Umask(old)
	runs(t, first, 0)
	if first.Path() != filepath.Join(dir, "warden") {
		t.Errorf("it is at %s", first.Path())
	}
	before, err := os.Stat(first.Path())
	if err != nil || before.Mode() != 0o700 {
		t.Fatalf("its mode is %v, %v", before.Mode(), err)
	}
	if again, err := os.Stat(broughtTo(t, dir, yes).Path()); err != nil || !os.SameFile(before, again) {
		t.Errorf("it was written again: %v", err)
	}
	next := broughtTo(t, dir, no)
	runs(t, next, 1)
	if now, err := os.Stat(next.Path()); err != nil || os.SameFile(before, now) {
		t.Errorf("what may run was overwritten: %v", err)
	}
}

func TestWhatIsNotTheProgramIsReplaced(t *testing.T) {
	yes, no := someProgram(t, "true"), someProgram(t, "false")
	for name, put := range map[string]func(path string) error{
		"half of it":              func(path string) error { return os.WriteFile(path, yes[:len(yes)/2], 0o700) },
		"another of the length":   func(path string) error { return os.WriteFile(path, append(bytes.Clone(yes[1:]), 0), 0o700) },
		"one that others may use": func(path string) error { return errors.Join(os.WriteFile(path, yes, 0o700), os.Chmod(path, 0o722)) },
		"one that may not run":    func(path string) error { return os.WriteFile(path, yes, 0o600) },
		"a link to another": func(path string) error {
			return errors.Join(os.WriteFile(path+".elsewhere", no, 0o700), os.Symlink(path+".elsewhere", path))
		},
		"a pipe":                 func(path string) error { return unix.Mkfifo(path, 0o700) },
		"what a power loss left": func(path string) error { return os.WriteFile(path+".new", no[:10], 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := put(filepath.Join(dir, "warden")); err != nil {
				t.Fatal(err)
			}
			runs(t, broughtTo(t, dir, yes), 0)
			if now, err := os.ReadFile(filepath.Join(dir, "warden")); err != nil || !bytes.Equal(now, yes) {
				t.Errorf("the file is another, %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "warden.new")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
}

func TestProgramRunsFromMemoryWhereFilesMayNot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	p := broughtTo(t, dir, someProgram(t, "false"))
	runs(t, p, 1)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("files of no use: %v, %v", entries, err)
	}
}

func TestKmThatWasNotBuiltByMakeSaysSo(t *testing.T) {
	if _, err := carried("nothing", t.TempDir()); err == nil || !strings.Contains(err.Error(), "build it with make") {
		t.Errorf("it says %v", err)
	}
}

func TestDirectoryThatIsMissingIsNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	if _, err := place("warden", dir, []byte("program")); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("it says %v", err)
	}
}

func TestProgramInMemoryHasItsNameInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second time there is the link of one that has ended
		p, err := inMemory("nft", someProgram(t, "false"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		if err := p.nameIn(dir, "nft"); err != nil {
			t.Fatal(err)
		}
		err = exec.CommandContext(t.Context(), filepath.Join(dir, "nft")).Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("it ended with %v", err)
		}
	}
}
