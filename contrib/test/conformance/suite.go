package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/k8sm/k8sm/contrib/test/images"
	"github.com/k8sm/k8sm/contrib/test/suite"
)

// readme lists the cases that cannot run.
//
//go:embed README.md
var readme string

// unable are cases that cannot run, as a pattern.
type unable struct {
	cases  *regexp.Regexp
	reason string
}

// unableHeading is the README's heading above the table of cases that cannot run.
const unableHeading = "## What cannot run"

// oneNode is the start of the reason of cases that need several nodes.
const oneNode = "one node"

// readUnable reads the rows "| `PATTERN` | REASON |" below the heading.
func readUnable(text string) (list []unable, err error) {
	_, table, found := strings.Cut(text, unableHeading)
	if !found {
		return nil, fmt.Errorf("the README has no heading %q", unableHeading)
	}
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.Lines(table) {
		pattern, reason, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "| `"), "` | ")
		if !found || !strings.HasPrefix(line, "| `") {
			continue
		}
		cases, err := regexp.Compile(strings.ReplaceAll(pattern, `\|`, `|`))
		if err != nil {
			return nil, fmt.Errorf("cannot read the README's list of what cannot run: %w", err)
		}
		list = append(list, unable{cases: cases, reason: strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(reason), "|"))})
	}
	return list, nil
}

// The packages of the programs that are built, by the name that each gets.
var programs = map[string]string{
	"agnhost":          "k8s.io/kubernetes/test/images/agnhost",
	"nonewprivs":       "k8s.io/kubernetes/test/images/nonewprivs",
	"sample-apiserver": "k8s.io/sample-apiserver",
	"etcd":             "go.etcd.io/etcd/server/v3",
	"ginkgo":           "github.com/onsi/ginkgo/v2/ginkgo",
}

// suitePackage is the package of the suite, e2eTest the file to build.
const (
	suitePackage = "k8s.io/kubernetes/test/e2e"
	e2eTest      = "e2e.test"
)

// buildPrograms builds the suite and the programs for its images, in a module with our requirements.
func (h *harness) buildPrograms(ctx context.Context) error {
	dir := filepath.Join(h.build, "suite")
	if err := h.writeModule(dir); err != nil {
		return err
	}
	var err error
	if h.busybox, err = images.Busybox(ctx, h.build, progress("files compiled", 100)); err != nil {
		return err
	}
	out, err := filepath.Abs(h.build)
	if err != nil {
		return err
	}
	compiled := progress("packages compiled", 100)
	for name, pkg := range programs {
		if err := suite.RunGo(ctx, dir, compiled, "build", "-v", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(out, name), pkg); err != nil {
			return fmt.Errorf("cannot build %s: %w", pkg, err)
		}
	}
	// `go test -c` does not tell what it compiles; `go build -v` does, and these parts of the suite need most of what it needs.
	most := []string{"build", "-v", "-trimpath"}
	for _, part := range []string{"apimachinery", "apps", "common", "kubectl", "network", "node", "storage"} {
		most = append(most, suitePackage+"/"+part)
	}
	if err := suite.RunGo(ctx, dir, compiled, most...); err != nil {
		return err
	}
	return suite.RunGo(ctx, dir, compiled, "test", "-trimpath", "-c", "-o", filepath.Join(out, e2eTest), suitePackage)
}

// writeModule creates the module to build the suite in. With our requirements, the go command reuses its build cache.
func (h *harness) writeModule(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ours, err := os.ReadFile(filepath.Join(h.module, "go.mod"))
	if err != nil {
		return err
	}
	module, err := modfile.Parse("go.mod", ours, nil)
	if err != nil {
		return fmt.Errorf("cannot read go.mod: %w", err)
	}
	if err := module.AddModuleStmt("conformance"); err != nil {
		return err
	}
	text, err := module.Format()
	if err != nil {
		return err
	}
	// The go command adds to both files; only other requirements of ours call for a fresh start.
	stamp := filepath.Join(dir, "go.mod.ours")
	if last, err := os.ReadFile(stamp); err == nil && bytes.Equal(last, text) {
		return nil
	}
	sums, err := os.ReadFile(filepath.Join(h.module, "go.sum"))
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "go.mod"), text, 0o644),
		os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o644), os.WriteFile(stamp, text, 0o644))
}

// runSuite runs the cases and returns what the report says.
func (h *harness) runSuite(ctx context.Context) (suite.Result, error) {
	build, err := filepath.Abs(h.build)
	if err != nil {
		return suite.Result{}, err
	}
	report := filepath.Join(build, "junit.xml")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return suite.Result{}, err
	}
	log, err := h.log("e2e.log")
	if err != nil {
		return suite.Result{}, err
	}
	defer log.Close()
	kubectl, err := h.writeKubectl()
	if err != nil {
		return suite.Result{}, err
	}
	repos, err := h.writeRepoList()
	if err != nil {
		return suite.Result{}, err
	}
	args := append(h.ginkgoArgs(ctx, build), "--",
		"--kubeconfig="+h.cluster.Kubeconfig(), "--kubectl-path="+kubectl, "--provider=skeleton", "--disable-log-dump",
		fmt.Sprintf("--num-nodes=%d", h.nodes))
	out := io.MultiWriter(log, &caseWriter{out: os.Stdout})
	ended := suite.RunChild(ctx, out, []string{"KUBE_TEST_REPO_LIST=" + repos}, filepath.Join(build, "ginkgo"), args...)
	file, err := os.Open(report)
	if err != nil {
		return suite.Result{}, errors.Join(ended, err)
	}
	defer file.Close()
	counted, err := suite.ReadReport(file, h.focus.MatchString)
	if err == nil && ended != nil && len(counted.Failed) == 0 {
		err = fmt.Errorf("no case failed, but the suite did: %w; see %s", ended, log.Name())
	}
	return counted, err
}

// ginkgoArgs are those for Ginkgo's own program, which runs several processes of the suite at once
// (https://onsi.github.io/ginkgo/#running-specs).
func (h *harness) ginkgoArgs(ctx context.Context, build string) []string {
	args := []string{
		"run", "-v", "--no-color", fmt.Sprintf("--procs=%d", h.procs), fmt.Sprintf("--seed=%d", h.seed),
		"--focus=" + h.focus.String(), "--output-dir=" + build, "--junit-report=junit.xml",
	}
	if deadline, ok := ctx.Deadline(); ok {
		// In time for it to write its report.
		args = append(args, "--timeout="+max(time.Minute, time.Until(deadline)-2*time.Minute).Round(time.Second).String())
	}
	for _, u := range h.cannotRun {
		if h.nodes > 1 && strings.HasPrefix(u.reason, oneNode) {
			continue
		}
		args = append(args, "--skip="+u.cases.String())
	}
	return append(args, filepath.Join(build, e2eTest))
}

// writeKubectl makes a program of km's kubectl, for the cases that call one.
func (h *harness) writeKubectl() (string, error) {
	km, err := filepath.Abs(h.km)
	if err != nil {
		return "", err
	}
	path := h.path("kubectl")
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' --state-dir '%s' kubectl \"$@\"\n", km, h.state())
	return path, os.WriteFile(path, []byte(script), 0o755)
}

// caseWriter filters the suite's output: it shows failed cases at once, and now and then the number of finished ones. Ginkgo
// writes a line "• [FAILED] [2.345 seconds]" when a case ends, and its name in the next.
type caseWriter struct {
	out    io.Writer
	rest   []byte
	failed bool // the next line is the name of a case that failed
	done   int
}

func (w *caseWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		w.line(string(line))
		w.rest = rest
	}
}

func (w *caseWriter) line(line string) {
	if w.failed {
		w.failed = false
		fmt.Fprintf(w.out, "  failed: %s\n", line)
	}
	state, ended := strings.CutPrefix(line, "• [")
	if !ended {
		return
	}
	w.failed = state[0] < '0' || state[0] > '9'
	if w.done++; w.done%10 == 0 {
		fmt.Fprintf(w.out, "  %d done\n", w.done)
	}
}
