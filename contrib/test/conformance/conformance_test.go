package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/contrib/up/engine"
)

func TestREADMEsListOfWhatCannotRunIsReadWithReasons(t *testing.T) {
	got, err := readUnable("intro | `none` | no |\n" + unableHeading + "\n\n| cases | why |\n|---|---|\n" +
		"| `\\[sig-network\\] DNS (a\\|b)` | DNS is not built |\n| `two nodes` | there is one |\n\n## Next\n\n| `not this` | no |\n")
	if err != nil {
		t.Fatal(err)
	}
	var list [][2]string
	for _, u := range got {
		list = append(list, [2]string{u.cases.String(), u.reason})
	}
	want := [][2]string{{`\[sig-network\] DNS (a|b)`, "DNS is not built"}, {"two nodes", "there is one"}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}
}

func TestREADMEItselfIsReadable(t *testing.T) {
	list, err := readUnable(readme)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Count(readme[strings.Index(readme, unableHeading):], "\n| `")
	if len(list) != rows {
		t.Errorf("read %d of %d rows", len(list), rows)
	}
	for _, u := range list {
		if u.reason == "" {
			t.Errorf("%s has no reason", u.cases)
		}
	}
}

func TestListThatIsMissingOrWrongIsRefused(t *testing.T) {
	for _, text := range []string{"# none", unableHeading + "\n| `(` | unbalanced |\n"} {
		if _, err := readUnable(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestFailedCasesAreShownWhenTheyEnd(t *testing.T) {
	var out strings.Builder
	w := &caseWriter{out: &out}
	for _, piece := range []string{"S\n• [2.1 seconds]\nfirst\n  • [FAILED] not this\n", "• [FAILED] [0.1 sec", "onds]\nsecond\n", strings.Repeat("• [1.0 seconds]\nx\n", 8)} {
		if _, err := w.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("  failed: second\n  10 done\n", out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestCasesAreChosenAsTheFlagsAndTheListSay(t *testing.T) {
	h := harness{focus: regexp.MustCompile("net"), procs: 3, seed: 7, cannotRun: []unable{{cases: regexp.MustCompile("dns")}, {cases: regexp.MustCompile("two")}}}
	got := strings.Join(h.ginkgoArgs(t.Context(), "/b"), " ")
	for _, want := range []string{"--focus=net", "--skip=dns", "--skip=two", "--procs=3", "--seed=7", "--output-dir=/b", " /b/e2e.test"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	if strings.Contains(got, "--timeout") {
		t.Errorf("a run without a limit has one: %s", got)
	}
}

func TestCasesForSeveralNodesRunWhereThereAreSeveral(t *testing.T) {
	for nodes, want := range map[int]bool{1: true, 3: false} {
		h := harness{focus: regexp.MustCompile("net"), nodes: nodes, cannotRun: []unable{{cases: regexp.MustCompile("two"), reason: "one node"}}}
		if got := strings.Contains(strings.Join(h.ginkgoArgs(t.Context(), "/b"), " "), "--skip=two"); got != want {
			t.Errorf("with %d nodes they are skipped: %v", nodes, got)
		}
	}
}

func TestClusterHasTheNodesThatAreAskedFor(t *testing.T) {
	for nodes, want := range map[int]bool{1: false, 3: true} {
		h := harness{engine: new(engine.Engine), nodes: nodes}
		flags := h.clusterConfig(nodes, nil).Flags
		ownEngine := !slices.ContainsFunc(flags, func(flag string) bool { return strings.HasPrefix(flag, "--docker-host=") })
		if got := slices.Contains(flags, "--nodes=3"); got != want || ownEngine != want {
			t.Errorf("with %d nodes km up gets %v", nodes, flags)
		}
	}
}

func TestNodesShareTheMachineAndHaveTheCasesPorts(t *testing.T) {
	one, two := harness{dir: t.TempDir(), nodes: 1}, harness{dir: t.TempDir(), nodes: 2}
	whole, err := one.agentResources()
	if err != nil {
		t.Fatal(err)
	}
	half, err := two.agentResources()
	if err != nil {
		t.Fatal(err)
	}
	mem := regexp.MustCompile(`mem:\d+`)
	if !strings.Contains(whole, casePorts) || mem.FindString(whole) == "" || mem.FindString(whole) == mem.FindString(half) {
		t.Errorf("one node has %s, each of two %s", whole, half)
	}
}

func TestSuiteEndsInTimeForItsReport(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	h := harness{focus: regexp.MustCompile("x")}
	if got := strings.Join(h.ginkgoArgs(ctx, "/b"), " "); !strings.Contains(got, "--timeout=8m0s") {
		t.Errorf("no two minutes are left for the report: %s", got)
	}
}

func TestModuleHasOurRequirementsAndIsLeftAloneWhileTheyStay(t *testing.T) {
	ours, dir := t.TempDir(), filepath.Join(t.TempDir(), "suite")
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	h := harness{module: ours}
	write(ours, "go.mod", "module ours\n\ngo 1.26\n\nrequire k8s.io/kubernetes v1.36.3\n")
	write(ours, "go.sum", "sums\n")
	if err := h.writeModule(dir); err != nil {
		t.Fatal(err)
	}
	if got := read("go.mod"); got != "module conformance\n\ngo 1.26\n\nrequire k8s.io/kubernetes v1.36.3\n" {
		t.Errorf("the module is %q", got)
	}
	write(dir, "go.sum", "sums and what the go command added\n")
	if err := h.writeModule(dir); err != nil || read("go.sum") != "sums and what the go command added\n" {
		t.Errorf("what the go command added is gone: %v", err)
	}
	write(ours, "go.mod", "module ours\n\ngo 1.26\n\nrequire k8s.io/kubernetes v1.36.4\n")
	if err := h.writeModule(dir); err != nil || read("go.sum") != "sums\n" {
		t.Errorf("the new Kubernetes has the old sums: %v", err)
	}
}

func TestEachImageHasALayerAndANameOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, image := range append(pulledImages(layers{}), presentImages(layers{})...) {
		if len(image.Layers) == 0 || len(image.Names) == 0 {
			t.Errorf("%+v is no image", image)
		}
		for _, name := range image.Names {
			if seen[name] || !strings.Contains(name, ":") {
				t.Errorf("%s is there twice, or has no tag", name)
			}
			seen[name] = true
		}
	}
}
