// Command conformance runs Kubernetes' own end-to-end tests, e2e.test of k8s.io/kubernetes, against its own `km up` on a private
// Docker Engine. It needs no remote image registry: it builds the images and serves them from a registry on loopback. It stops and
// removes everything at its end.
//
// Its last line is "conformance: N passed, N failed, N skipped", and its exit status is not zero if anything failed. Logs and the
// suite's report stay in the build folder. The program reads from README.md beside this file which cases cannot run; the reasons are
// there too.
//
// Start reading at harness.run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/docker/docker/client"

	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/contrib/test/suite"
	"github.com/k8sm/k8sm/contrib/up/engine"
)

func main() {
	var h harness
	focus := flag.String("focus", `\[Conformance\]`, "run the cases that this regular `expression` matches")
	flag.StringVar(&h.km, "km", "./km", "the km `program`")
	flag.StringVar(&h.dir, "dir", "/var/lib/k8sm-conformance", "a `directory` with a short path for all that runs; it is removed at the end")
	flag.StringVar(&h.build, "build", "build/conformance", "the `directory` for what is worth keeping: programs, logs, the report")
	flag.StringVar(&h.module, "module", ".", "the `directory` of the go.mod that says which Kubernetes")
	flag.StringVar(&h.registryProgram, "registry", "build/docker-registry", "Docker's registry, a `program`")
	flag.StringVar(&h.pause, "pause", "minion/cri/embedded/pause", "the static `program` of minion/cri/pause")
	flag.IntVar(&h.nodes, "nodes", 1, "`number` of the cluster's nodes")
	flag.IntVar(&h.procs, "procs", 4, "`number` of cases that run at once; those marked [Serial] run by themselves")
	flag.Int64Var(&h.seed, "seed", 1, "the order of the cases, a `number`")
	flag.DurationVar(&h.limit, "timeout", 3*time.Hour, "give up after this `time`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if h.focus, err = regexp.Compile(*focus); err != nil {
		err = fmt.Errorf("cannot use -focus: %w", err)
	}
	var result suite.Result
	if err == nil {
		result, err = h.run(ctx)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "conformance: %v\n", err)
		os.Exit(1)
	}
	fmt.Print(result.Summary("conformance"))
	if len(result.Failed) > 0 {
		os.Exit(1)
	}
}

// harness is one run of the suite: the flags, and the results of earlier steps.
type harness struct {
	km, dir, build, module, registryProgram, pause string
	focus                                          *regexp.Regexp
	nodes, procs                                   int
	seed                                           int64
	limit                                          time.Duration

	cannotRun []unable
	busybox   string // a program
	resources string // of each agent
	engine    *engine.Engine
	docker    *client.Client
	registry  *suite.Registry
	cluster   *scratch.Cluster

	undo suite.Undo
}

// run runs all steps, and always cleans up.
func (h *harness) run(ctx context.Context) (result suite.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.limit)
	defer cancel()
	if h.cannotRun, err = readUnable(readme); err != nil {
		return result, err
	}
	plan := suite.Plan{Suite: "conformance", Build: h.build, Undo: &h.undo, UndoLimit: 5 * time.Minute, Steps: []suite.Step{
		{Name: "build e2e.test and the programs of its images (the first time takes about 15 minutes of CPU)", Do: h.buildPrograms},
		{Name: "start a private Docker Engine in " + h.dir, Do: h.startEngine},
		{Name: "make the images", Do: h.makeImages},
		{Name: "start a cluster", Do: h.startCluster},
		{Name: fmt.Sprintf("run the cases of %s, %d at once (seed %d)", h.focus, h.procs, h.seed), Do: func(ctx context.Context) (err error) {
			result, err = h.runSuite(ctx)
			return err
		}},
	}}
	plan.Enough = func() bool { return result.Passed+len(result.Failed) > 0 } // cases that have ended count
	err = suite.Run(ctx, plan)
	return result, err
}

// path returns the path of a file that is removed after the run.
func (h *harness) path(name string) string { return filepath.Join(h.dir, name) }

// log opens a file that stays after the run.
func (h *harness) log(name string) (*os.File, error) { return os.Create(filepath.Join(h.build, name)) }

func progress(unit string, every int) io.Writer {
	return &suite.Sampler{Out: os.Stdout, Unit: unit, Every: every}
}
