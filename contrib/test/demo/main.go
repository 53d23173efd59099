// Command demo starts a cluster in a scratch directory, runs one pod from creation to deletion, and stops the cluster. Each step shows
// the output that a user would look at. At the end it prints the time of each step; if a step failed, it prints the reason and exits
// with a non-zero status.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

func main() {
	var d demo
	flag.StringVar(&d.km, "km", "./km", "the km `program`")
	flag.StringVar(&d.image, "image", "build/web", "the static `program` that the example's image is made of")
	flag.StringVar(&d.manifest, "pod", "contrib/examples/web.json", "the pod to run, a JSON `file`")
	limit := flag.Duration("timeout", 10*time.Minute, "give up after this `time`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := d.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// step is one action; do prints what a user would see.
type step struct {
	name string
	do   func(context.Context) error
}

// timing is how long a step took.
type timing struct {
	name string
	took time.Duration
}

// run runs all steps. The last one, which stops the cluster, always runs.
func (d *demo) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "k8sm-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var took []timing
	take := func(ctx context.Context, s step) error {
		fmt.Printf("\n== %s\n", s.name)
		start := time.Now()
		err := s.do(ctx)
		took = append(took, timing{s.name, time.Since(start)})
		if err != nil {
			return fmt.Errorf("failed at %q: %w", s.name, err)
		}
		return nil
	}

	for _, s := range d.steps(scratch.Config{KM: d.km, Dir: dir, Out: os.Stdout}) {
		if err = take(ctx, s); err != nil {
			break
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if downErr := take(last, step{"take the cluster down", d.down}); err == nil {
		err = downErr
	}
	if err != nil {
		d.showLog(dir)
	}

	fmt.Println("\n== time of each step")
	for _, t := range took {
		fmt.Printf("%7.2f s  %s\n", t.took.Seconds(), t.name)
	}
	return err
}
