package configfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// FuzzConfig reads a configuration file: it sets flags, or an error names the file.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"name: k8sm\nlist: [a, b]\nnumber: 5\ntruth: true\n", "", "name:", "name: [a]", "name: {a: b}", "unknown: 1", "name: a\nname: b\n", "- a", "truth: maybe",
		"number: 1e400", "number: 0x10", "list: [[a]]", "config: x", "help: true", "null", "{", "name: &a x\nlist: [*a, *a]", "number: 9007199254740993",
	} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "km.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		fs.String("name", "", "")
		fs.StringSlice("list", nil, "")
		number := fs.Int64("number", 7, "")
		fs.Bool("truth", false, "")
		fs.String("given", "", "")
		if err := fs.Parse([]string{"--given=before"}); err != nil {
			t.Fatal(err)
		}
		if err := Apply(fs, path); err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q: the error does not name the file: %v", text, err)
			}
			return
		}
		if given, err := fs.GetString("given"); err != nil || given != "before" {
			t.Errorf("%q has set what the command line says: %q (%v)", text, given, err)
		}
		if *number != 7 && !fs.Lookup("number").Changed {
			t.Errorf("%q has set a flag without a trace", text)
		}
	})
}
