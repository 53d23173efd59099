package mesos

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestTokenIsHiddenFromChildrenAndFromProc hides it in a process of its own, whose environment the kernel knows.
func TestTokenIsHiddenFromChildrenAndFromProc(t *testing.T) {
	if os.Getenv("HIDE_TOKEN") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestTokenIsHiddenFromChildrenAndFromProc$")
		cmd.Env = append(os.Environ(), "HIDE_TOKEN=1", tokenVariable+"=sesame", "AFTER=it")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	before, err := os.ReadFile("/proc/self/environ")
	if err != nil || !bytes.Contains(before, []byte("sesame")) {
		t.Fatalf("the token is not there at first: %v", err)
	}
	if err := HideToken(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile("/proc/self/environ")
	if err != nil || bytes.Contains(after, []byte("sesame")) || !bytes.Contains(after, []byte("AFTER=it\x00")) {
		t.Errorf("/proc/self/environ has %q, %v", after, err)
	}
	child, err := exec.Command("/usr/bin/env").Output()
	if err != nil || strings.Contains(string(child), "sesame") || !strings.Contains(string(child), "AFTER=it") {
		t.Errorf("a child has %q, %v", child, err)
	}
}
