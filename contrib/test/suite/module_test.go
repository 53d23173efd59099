package suite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCopyOfAModuleCanBeBuiltInAndLacksTheVendorFolder(t *testing.T) {
	module, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for name, content := range map[string]string{
		"go.mod": "module example.org/m\n", "main.go": "package main\n\nfunc main() {}\n", "vendor/modules.txt": "# none\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(module, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(module, name), []byte(content), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time over the first
		if err := copyModule(module, to); err != nil {
			t.Fatal(err)
		}
		if err := RunGo(t.Context(), to, new(strings.Builder), "build", "-o", "program", "."); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(to, "vendor")); !os.IsNotExist(err) {
		t.Errorf("the vendor folder: %v", err)
	}
}
