package minion

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestBuildsOfAProgramAreToldApart(t *testing.T) {
	own, err := build(self)
	if err != nil || len(own) != 16 {
		t.Fatalf("this build is %q, %v", own, err)
	}
	again, err := build(self)
	if err != nil || again != own {
		t.Errorf("it is also %q, %v", again, err)
	}
	dir, seen := t.TempDir(), map[string]string{own: "this"}
	for name, flags := range map[string][]string{"one": {"-ldflags=-s -w"}, "other": {"-ldflags=-s -w -X main.some=thing"}} {
		source := filepath.Join(dir, "main.go")
		if err := os.WriteFile(source, []byte("package main\n\nvar some string\n\nfunc main() { println(some) }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		program := filepath.Join(dir, name)
		if out, err := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", program}, append(flags, source)...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got, err := build(program)
		if err != nil || seen[got] != "" {
			t.Errorf("%s is %q as %s, %v", name, got, seen[got], err)
		}
		seen[got] = name
	}
}
