package cli

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/contrib/cli/configfile"
)

// commands returns km's own commands with the words that call them; those that are hidden too.
func commands(cmd *cobra.Command, path ...string) map[string]*cobra.Command {
	all := map[string]*cobra.Command{strings.Join(path, " "): cmd}
	for _, below := range cmd.Commands() {
		switch below.Name() {
		case "kubelet", "proxy", "help", "completion":
		default:
			maps.Copy(all, commands(below, append(slices.Clone(path), below.Name())...))
		}
	}
	return all
}

// TestOldNamesOfFlagsStayGood: a script or a file of settings that was written for an earlier km works with this one.
func TestOldNamesOfFlagsStayGood(t *testing.T) {
	found := map[string]bool{}
	for path, cmd := range commands(rootCommand()) {
		for old, now := range renamed {
			flag := cmd.Flags().Lookup(now)
			if flag == nil {
				flag = cmd.PersistentFlags().Lookup(now)
			}
			if flag == nil {
				continue
			}
			found[old] = true
			if err := cmd.ParseFlags([]string{"--" + old + "=" + valid(flag.Value.Type())}); err != nil {
				t.Errorf("km %s --%s: %v", path, old, err)
			}
			if !flag.Changed {
				t.Errorf("km %s: --%s does not set --%s", path, old, now)
			}
			if strings.Contains(cmd.UsageString(), "--"+old+" ") {
				t.Errorf("km %s shows --%s", path, old)
			}
		}
	}
	for old := range renamed {
		if !found[old] {
			t.Errorf("no command has the flag that --%s is an old name of", old)
		}
	}
}

// valid is a value that a flag of the type takes.
func valid(kind string) string {
	switch kind {
	case "duration", "func":
		return "7s"
	case "fcfs|spread|binpack":
		return "spread"
	}
	return "x"
}

func TestFileOfSettingsMayHaveOldNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "km.yaml")
	if err := os.WriteFile(file, []byte("executor-suicide-timeout: 7m\nname: other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	up, _, err := rootCommand().Find([]string{"up"})
	if err != nil {
		t.Fatal(err)
	}
	if err := configfile.Apply(up.Flags(), file); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"minion-idle-timeout": "7m0s", "cluster-name": "other"} {
		if got := up.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("--%s is %s, want %s", name, got, want)
		}
	}
	if err := os.WriteFile(file, []byte("name: one\ncluster-name: other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := configfile.Apply(up.Flags(), file); err == nil || !strings.Contains(err.Error(), "cluster-name and name are names of one flag") {
		t.Errorf("got %v", err)
	}
}
