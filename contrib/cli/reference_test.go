package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write what the tests compare with")

const flagsPage = "../../docs/flags.md"

// TestFlagsPageIsCurrent: docs/flags.md has the commands and flags as they are; -update writes it.
func TestFlagsPageIsCurrent(t *testing.T) {
	t.Setenv("DOCKER_HOST", "") // these are the defaults of flags
	t.Setenv("DOCKER_CERT_PATH", "")
	var page bytes.Buffer
	page.WriteString(`# Commands and flags

A test writes this page from the commands: ` + "`go test ./contrib/cli -run TestFlagsPage -update`" + `. Flags of every command:

`)
	root := rootCommand()
	flagTable(&page, root.PersistentFlags())
	page.WriteString(`
` + "`kubelet`, `proxy`, `kubectl` and `etcdctl`" + ` are the stock programs with their own flags, and ` + "[`kubecfg`](v1beta1.md#kubecfg)" + ` has those of 2014. In a file of settings (` + "`--config`" + `), keys are the
names of flags without the dashes. km exits with status 0 on success, 1 when a command fails, and 2 when a command line is wrong; then
nothing was started.
`)
	document(&page, root)
	if *update {
		if err := os.WriteFile(flagsPage, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(flagsPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), page.String()); diff != "" {
		t.Errorf("docs/flags.md is stale; write it anew with -update. -page +commands:\n%s", diff)
	}
}

// document writes a section for each command that people call and that has flags of its own or arguments.
func document(page *bytes.Buffer, cmd *cobra.Command) {
	for _, below := range cmd.Commands() {
		if below.Hidden || below.DisableFlagParsing {
			continue
		}
		switch below.Name() {
		case "kubelet", "proxy", "help", "completion":
			continue
		}
		// With commands below it, it may be no more than a name for them.
		if !below.HasSubCommands() || below.LocalNonPersistentFlags().HasAvailableFlags() {
			section(page, below)
		}
		document(page, below)
	}
}

// section is about one command.
func section(page *bytes.Buffer, below *cobra.Command) {
	fmt.Fprintf(page, "\n## %s\n\n%s.\n", strings.TrimSuffix(below.UseLine(), " [flags]"), below.Short)
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	add := func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" && below.Root().PersistentFlags().Lookup(f.Name) == nil {
			flags.AddFlag(f)
		}
	}
	below.LocalFlags().VisitAll(add)
	below.InheritedFlags().VisitAll(add)
	if flags.HasFlags() {
		page.WriteString("\n")
		flagTable(page, flags)
	}
}

func flagTable(page *bytes.Buffer, flags *pflag.FlagSet) {
	page.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ")
	flags.VisitAll(func(f *pflag.Flag) {
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += "=" + strings.ToUpper(kind)
		}
		value := ""
		if !strings.Contains(usage, "(default") && f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" {
			value = "`" + strings.ReplaceAll(f.DefValue, "|", `\|`) + "`"
		}
		fmt.Fprintf(page, "| `%s` | %s | %s |\n", strings.ReplaceAll(name, "|", `\|`), value, cell.Replace(usage))
	})
}
