package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEachCommandHasAManualPage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	var errs bytes.Buffer
	if status := Run([]string{"man", dir}, &errs, &errs); status != 0 {
		t.Fatalf("exit status %d: %s", status, errs.String())
	}
	for _, cmd := range rootCommand().Commands() {
		_, err := os.Stat(filepath.Join(dir, "km-"+cmd.Name()+".1"))
		if stock := cmd.Name() == "kubelet" || cmd.Name() == "proxy"; (err == nil) != (cmd.IsAvailableCommand() && !stock) {
			t.Errorf("the page of km %s: %v", cmd.Name(), err)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "km-apiserver.1"))
	if err != nil || !strings.Contains(string(page), `\-\-bind-address`) && !strings.Contains(string(page), "--bind-address") {
		t.Errorf("the page of km apiserver does not explain its flags: %v", err)
	}
}
