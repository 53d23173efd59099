package minion

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRemoveFetchedHelper plays a fetched program: it removes its own file and then starts itself again, as the minion starts the
// kubelet.
func TestRemoveFetchedHelper(t *testing.T) {
	sandbox := os.Getenv("TEST_FETCHED_SANDBOX")
	if sandbox == "" {
		t.Skip("runs only as a child of the tests below")
	}
	if err := removeFetched(sandbox); err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), self, "-test.run=^$").Run(); err != nil {
		t.Fatalf("cannot start children after the file was removed: %v", err)
	}
}

func TestFetchedProgramIsRemovedFromTheSandboxAndRunsOn(t *testing.T) {
	sandbox := t.TempDir()
	fetched := filepath.Join(sandbox, "km")
	copyTo(t, fetched)
	command := exec.CommandContext(t.Context(), fetched, "-test.run=^TestRemoveFetchedHelper$", "-test.v")
	command.Env = append(os.Environ(), "TEST_FETCHED_SANDBOX="+sandbox)
	out, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: TestRemoveFetchedHelper") {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat(fetched); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the program is still in the sandbox: %v", err)
	}
}

func TestProgramOutsideTheSandboxStays(t *testing.T) {
	sandbox := t.TempDir()
	if err := removeFetched(sandbox); err != nil {
		t.Errorf("an installed program: %v", err)
	}
	other := filepath.Join(sandbox, "km")
	if err := os.WriteFile(other, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := removeFetched(sandbox); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("a file that is not this program: %v", err)
	}
}

// copyTo copies this program.
func copyTo(t *testing.T, path string) {
	t.Helper()
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
}
