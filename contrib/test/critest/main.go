// Command critest runs the validation suite of the Container Runtime Interface, critest of sigs.k8s.io/cri-tools, against minion/cri
// on a private Docker Engine. It needs no remote image registry: it builds the images, serves those that the suite pulls from a
// registry on loopback, and builds the suite for that registry. It stops and removes everything at its end.
//
// Its last line is "critest: N passed, N failed, N skipped", and its exit status is not zero if anything failed. Logs and the suite's
// report stay in the build folder.
//
// Start reading at harness.run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/docker/docker/client"

	"github.com/k8sm/k8sm/contrib/test/images"
	"github.com/k8sm/k8sm/contrib/test/suite"
	"github.com/k8sm/k8sm/contrib/up/engine"
)

func main() {
	var h harness
	flag.StringVar(&h.dir, "dir", "/var/lib/k8sm-critest", "a `directory` with a short path for all that runs; it is removed at the end")
	flag.StringVar(&h.build, "build", "build/critest", "the `directory` for what is worth keeping: programs, logs, the report")
	flag.StringVar(&h.registryProgram, "registry", "build/docker-registry", "Docker's registry, a `program`")
	flag.StringVar(&h.standIn, "standin", "build/critest/standin", "the static `program` of contrib/test/critest/standin")
	flag.Int64Var(&h.seed, "seed", 1, "the order of the cases, a `number`")
	flag.StringVar(&h.focus, "focus", "", "run only the cases that this regular `expression` matches")
	flag.Func("images", "where the Engine keeps images, its containerd image `store` or a graph driver: containerd or graphdriver (default: the Engine's own)", h.setImages)
	limit := flag.Duration("timeout", 30*time.Minute, "give up after this `time`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	result, err := h.run(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "critest: %v\n", err)
		os.Exit(1)
	}
	fmt.Print(result.Summary("critest"))
	if len(result.Failed) > 0 {
		os.Exit(1)
	}
}

// harness is one run of the suite: the flags, and the results of earlier steps.
type harness struct {
	dir, build, registryProgram, standIn, focus string
	seed                                        int64
	settings                                    map[string]any // of dockerd

	engine   *engine.Engine
	docker   *client.Client
	registry *suite.Registry
	busybox  string // a program
	digest   string // of the image that the suite pulls by digest
	program  string // the suite

	undo suite.Undo
}

// run runs all steps, and always cleans up.
func (h *harness) run(ctx context.Context) (result suite.Result, err error) {
	err = suite.Run(ctx, suite.Plan{Suite: "critest", Build: h.build, Undo: &h.undo, UndoLimit: 2 * time.Minute, Steps: []suite.Step{
		{Name: "build busybox (once)", Do: h.buildBusybox},
		{Name: "start a private Docker Engine in " + h.dir, Do: h.startEngine},
		{Name: "make the images, and push those that are to be pulled", Do: h.makeImages},
		{Name: "build " + suiteModule.String(), Do: h.buildSuite},
		{Name: "serve CRI", Do: h.serve},
		{Name: fmt.Sprintf("run critest, about two minutes (seed %d)", h.seed), Do: func(ctx context.Context) (err error) {
			result, err = h.runSuite(ctx)
			return err
		}},
	}})
	return result, err
}

// setImages sets where the Engine keeps images (https://docs.docker.com/engine/storage/containerd/).
func (h *harness) setImages(store string) error {
	switch store {
	case "":
		return nil
	case "containerd", "graphdriver":
		h.settings = map[string]any{"features": map[string]bool{"containerd-snapshotter": store == "containerd"}}
		return nil
	}
	return errors.New("it is containerd or graphdriver")
}

// path returns the path of a file that is removed after the run.
func (h *harness) path(name string) string { return filepath.Join(h.dir, name) }

// log opens a file that stays after the run.
func (h *harness) log(name string) (*os.File, error) { return os.Create(filepath.Join(h.build, name)) }

func (h *harness) buildBusybox(ctx context.Context) (err error) {
	h.busybox, err = images.Busybox(ctx, h.build, &suite.Sampler{Out: os.Stdout, Unit: "files compiled", Every: 100})
	return err
}
