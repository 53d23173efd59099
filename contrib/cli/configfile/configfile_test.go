package configfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// settings are one flag of each kind.
type settings struct {
	Address string
	TTL     time.Duration
	CPUs    float64
	Port    int
	Debug   bool
	Servers []string
	Secret  string
}

func (s *settings) flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.StringVar(&s.Address, "address", "127.0.0.1", "")
	fs.DurationVar(&s.TTL, "offer-ttl", 5*time.Second, "")
	fs.Float64Var(&s.CPUs, "cpus", 0.1, "")
	fs.IntVar(&s.Port, "port", 80, "")
	fs.BoolVar(&s.Debug, "debug", false, "")
	fs.StringSliceVar(&s.Servers, "servers", []string{"default"}, "")
	fs.StringVar(&s.Secret, "secret", "", "")
	fs.Lookup("secret").Hidden = true
	fs.String(Flag, "", "")
	fs.Bool("help", false, "")
	return fs
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "k.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFileSetsFlagsOfEveryKind(t *testing.T) {
	var got settings
	file := write(t, `# a comment
address: 10.0.0.5
offer-ttl: 7s
cpus: 0.25
port: 10000000
debug: true
servers: ["https://a:1,b:2", "https://c:3"]
`)
	if err := Apply(got.flags(), file); err != nil {
		t.Fatal(err)
	}
	want := settings{
		Address: "10.0.0.5", TTL: 7 * time.Second, CPUs: 0.25, Port: 10000000, Debug: true,
		Servers: []string{"https://a:1,b:2", "https://c:3"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestWhatTheFileDoesNotNameKeepsItsDefault(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "one key": "port: 1"} {
		t.Run(name, func(t *testing.T) {
			var got settings
			if err := Apply(got.flags(), write(t, text)); err != nil {
				t.Fatal(err)
			}
			if got.Address != "127.0.0.1" || !cmp.Equal(got.Servers, []string{"default"}) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestOneValueOfAListIsSplitAsOnTheCommandLine(t *testing.T) {
	var got settings
	if err := Apply(got.flags(), write(t, "servers: a,b")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got.Servers); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCommandLineWins(t *testing.T) {
	var got settings
	fs := got.flags()
	// The default given by hand is given, too.
	if err := fs.Parse([]string{"--port=80", "--servers=x"}); err != nil {
		t.Fatal(err)
	}
	if err := Apply(fs, write(t, "port: 99\nservers: [y]\naddress: a")); err != nil {
		t.Fatal(err)
	}
	if got.Port != 80 || !cmp.Equal(got.Servers, []string{"x"}) || got.Address != "a" {
		t.Errorf("got %+v", got)
	}
}

func TestWhatCannotBeUsedIsOneLineThatNamesIt(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		says []string
	}{
		"unknown keys":         {"offer_ttl: 5s\nport: 1\naddr: a", []string{"addr, offer_ttl"}},
		"a hidden flag":        {"secret: a", []string{"secret"}},
		"the file itself":      {"config: other.yaml", []string{"config"}},
		"help":                 {"help: true", []string{"help"}},
		"a key twice":          {"port: 1\nport: 2", []string{"port", "already"}},
		"a wrong number":       {"port: many", []string{"port", "many"}},
		"a wrong duration":     {"offer-ttl: 5", []string{"offer-ttl", "5"}},
		"a list for one value": {"port: [1, 2]", []string{"port", "list"}},
		"no value":             {"address:", []string{"address", "no value"}},
		"a nested value":       {"address: {host: a}", []string{"address"}},
		"a nested list":        {"servers: [[a]]", []string{"servers"}},
		"no keys":              {"- port", []string{"keys"}},
		"not YAML":             {"port: [", []string{"yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			var s settings
			file := write(t, test.text)
			err := Apply(s.flags(), file)
			if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), file) {
				t.Fatalf("got %v, want one line that names the file", err)
			}
			for _, word := range test.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
		})
	}
	var s settings
	if err := Apply(s.flags(), filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a missing file: got %v", err)
	}
}
