package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/contrib/test/docs"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// The pages' blocks that are marked to be run are run on one cluster, page by page, in the order in which they stand there.
func TestDocumentedCommandsWork(t *testing.T) {
	blocks := documented(t)
	dir := stateDir(t)
	leavesNothing(t, func(t *testing.T) {
		c := up(t, dir)
		tree := asInTheTree(t, program(t, "km"), dir)
		for _, b := range blocks {
			if b.Kind != docs.Run {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", b.Page, b.Line), func(t *testing.T) {
				shell := exec.CommandContext(within(t, 2*time.Minute), "bash", "-euxo", "pipefail", "-c", b.Text)
				shell.Dir = tree
				shell.Env = append(os.Environ(), "DOCKER_HOST="+c.Docker.DaemonHost())
				if out, err := shell.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
		t.Run("the reference lists the metrics that are served", func(t *testing.T) { metricsListed(t, c, dir) })
	})
}

// documented are the code blocks of all pages.
func documented(t *testing.T) (blocks []docs.Block) {
	t.Helper()
	pages, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		list, err := p.Blocks()
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, list...)
	}
	return blocks
}

// asInTheTree returns a directory where ./km is for the cluster in dir, and all else that commands in the pages name is the tree's.
func asInTheTree(t *testing.T, km, dir string) string {
	t.Helper()
	tree := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' --state-dir '%s' \"$@\"\n", km, dir)
	if err := os.WriteFile(filepath.Join(tree, "km"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"build", "contrib"} {
		there, err := filepath.Abs(filepath.Join(root, name))
		if err == nil {
			err = os.Symlink(there, filepath.Join(tree, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func metricsListed(t *testing.T, c *scratch.Cluster, dir string) {
	reference, err := os.ReadFile(filepath.Join(root, "docs/reference.md"))
	if err != nil {
		t.Fatal(err)
	}
	awaitPhase(t, c, create(t, c, pod("metrics", forever)).Name, corev1.PodRunning) // now there is a minion, and offers have ended
	code, served := statusAnswers(t, c, filepath.Join(dir, "scheduler.kubeconfig"), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics answers %d: %s", code, served)
	}
	// Only names of the local Mesos are served here; contrib/test/docs compares all with the page.
	if code, ofMesos := statusAnswers(t, c, filepath.Join(dir, "scheduler.kubeconfig"), "/metrics/mesos"); code != http.StatusOK || !strings.Contains(ofMesos, "\nmesos_up 1\n") {
		t.Errorf("/metrics/mesos answers %d: %s", code, ofMesos)
	}
	served += minionMetrics(t, c, dir)
	if failures := "# TYPE k8sm_scheduler_launch_failures_total counter\n"; !strings.Contains(served, failures) {
		served += failures // it has no series before a launch has failed
	}
	metrics := func(text, line string) []string {
		var names []string
		for _, found := range regexp.MustCompile(line).FindAllStringSubmatch(text, -1) {
			if !strings.HasPrefix(found[1], "k8sm_certificate_") && !strings.HasPrefix(found[1], "k8sm_apiserver_clock_") { // in tables of their own
				names = append(names, found[1]+" "+found[2])
			}
		}
		slices.Sort(names)
		return names
	}
	want, got := metrics(served, `(?m)^# TYPE (k8sm_\S+) (\S+)$`), metrics(string(reference), "(?m)^\\| `(k8sm_[a-z_]+)` \\| ([a-z]+) \\|")
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("scheduler and minion serve -, docs/reference.md lists +:\n%s", diff)
	}
	if times := strings.Count(served, "\nk8sm_apiserver_clock_ahead_seconds{"); times < 2 {
		t.Errorf("scheduler and minion tell %d clocks of API servers, want both", times)
	}
	for _, series := range []string{"scheduler", "scheduler-server", "scheduler-etcd-client", "node", "node-server"} {
		if !strings.Contains(served, "\nk8sm_certificate_left_seconds{name=\""+series+"\"} ") {
			t.Errorf("nobody tells how long the certificate %s lasts", series)
		}
	}
}

// minionMetrics returns what the only node's minion serves once it ships logs.
func minionMetrics(t *testing.T, c *scratch.Cluster, dir string) (served string) {
	administrator := minionReaders(t, c, dir)["the administrator"]
	err := scratch.Until(t.Context(), time.Minute, func(context.Context) error {
		code := 0
		if code, served = minionAnswers(t, c, administrator, "/metrics"); code != http.StatusOK || !strings.Contains(served, "\nk8sm_minion_logs_lag_seconds{") {
			return fmt.Errorf("/metrics of the minion answers %d: %s", code, served)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return served
}

// stock commands have flags of their own.
var stock = []string{"kubectl", "etcdctl", "kubelet", "proxy"}

// flagsOfOthers are the flags, in the pages' text, of programs other than km: of mesos-master and mesos-agent, Docker and iptables.
var flagsOfOthers = []string{"--acls", "--credential", "--domain", "--pid", "--privileged", "--tlsverify", "--userns"}

// commandHelp is what `km COMMAND --help` lists.
type commandHelp struct{ commands, flags []string }

var (
	helpCommands = regexp.MustCompile(`(?m)^  ([a-z][a-z0-9-]*) +[A-Z]`)
	helpFlags    = regexp.MustCompile(`(?m)^ +(?:-[a-zA-Z], )?(--[a-z0-9-]+)`)
)

// readHelp adds the help of a command and of all below it, by their names.
func readHelp(t *testing.T, km string, all map[string]commandHelp, command ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), km, append(slices.Clone(command), "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("km %s --help: %v: %s", strings.Join(command, " "), err, out)
	}
	firsts := func(pattern *regexp.Regexp) (words []string) {
		for _, found := range pattern.FindAllStringSubmatch(string(out), -1) {
			words = append(words, found[1])
		}
		return words
	}
	help := commandHelp{flags: firsts(helpFlags)}
	if strings.Contains(string(out), "[command]") {
		help.commands = firsts(helpCommands)
	}
	all[strings.Join(command, " ")] = help
	for _, below := range help.commands {
		if below == "help" || below == "completion" || slices.Contains(stock, below) {
			continue
		}
		readHelp(t, km, all, append(slices.Clone(command), below)...)
	}
}

// checkCommand says what of a km command line, without its first word, km does not have.
func checkCommand(all map[string]commandHelp, words []string) error {
	name := ""
	for i := 0; i < len(words); i++ {
		word := words[i]
		flag, _, assigned := strings.Cut(word, "=")
		below := strings.TrimSpace(name + " " + word)
		switch {
		case strings.HasPrefix(word, "--"):
			if !slices.Contains(all[name].flags, flag) {
				return fmt.Errorf("km %s has no flag %s", name, flag)
			}
			if flag == "--state-dir" && !assigned {
				i++
			}
		case slices.Contains(all[name].commands, word) && slices.Contains(stock, word):
			return nil
		case slices.Contains(all[name].commands, word):
			name = below
		case name == "":
			return fmt.Errorf("km has no command %s", word)
		}
	}
	return nil
}

func TestDocumentedCommandsAndFlagsExist(t *testing.T) {
	all := map[string]commandHelp{}
	readHelp(t, program(t, "km"), all)
	checked := 0
	for _, b := range documented(t) {
		for _, words := range b.Commands() {
			if path.Base(words[0]) != "km" {
				continue
			}
			checked++
			if err := checkCommand(all, words[1:]); err != nil {
				t.Errorf("%s:%d: %v: %s", b.Page, b.Line, err, strings.Join(words, " "))
			}
		}
		keys := regexp.MustCompile(`^# (km [a-z -]+) --config `).FindStringSubmatch(b.Text)
		if b.Kind != docs.YAML || keys == nil {
			continue
		}
		checked++
		var settings map[string]any
		if err := yaml.Unmarshal([]byte(b.Text), &settings); err != nil {
			t.Errorf("%s:%d: %v", b.Page, b.Line, err)
		}
		for key := range settings {
			if err := checkCommand(all, append(strings.Fields(keys[1])[1:], "--"+key)); err != nil {
				t.Errorf("%s:%d: %v", b.Page, b.Line, err)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d examples of km were found", checked)
	}
	flagsInText(t, all)
}

// flagsInText sees that each flag that the text of a page names is one of km's. Those with underscores are Mesos'.
func flagsInText(t *testing.T, all map[string]commandHelp) {
	t.Helper()
	known := slices.Clone(flagsOfOthers)
	for _, help := range all {
		known = append(known, help.flags...)
	}
	pages, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if strings.HasPrefix(p.Name, "contrib/") || strings.HasPrefix(p.Name, "minion/") {
			continue // pages of parts, which other programs than km have flags of
		}
		for _, found := range regexp.MustCompile("`(?:km [a-z]+ )?(--[a-z0-9_-]+)").FindAllStringSubmatch(p.Text, -1) {
			if flag := found[1]; !strings.Contains(flag, "_") && !slices.Contains(known, flag) {
				t.Errorf("%s names the flag %s, which no command of km has", p.Name, flag)
			}
		}
	}
}

func TestWrongExamplesAreFound(t *testing.T) {
	all := map[string]commandHelp{
		"": {commands: []string{"up", "kubectl", "node"}, flags: []string{"--state-dir"}}, "up": {flags: []string{"--nodes", "--state-dir"}},
		"node": {commands: []string{"cut"}}, "node cut": {},
	}
	for line, right := range map[string]bool{
		"up --nodes=3": true, "--state-dir /x up": true, "kubectl get pods --all": true, "node cut node-2": true,
		"frob": false, "up --knots=3": false, "node cut node-2 --rate=1": false,
	} {
		if err := checkCommand(all, strings.Fields(line)); (err == nil) != right {
			t.Errorf("km %s: %v", line, err)
		}
	}
}
