// Command soak runs a cluster of several nodes under a steady load for hours and checks that nothing grows: memory, file descriptors,
// goroutines, rules of the kernel, Docker's objects, etcd. Pods come and go at a fixed pace, a Deployment is rolled out again and again,
// and one node after the other is cut off.
//
// It measures an idle cluster before and after the load. Before that there is a warm-up under the same load, since caches and pools grow
// once. Each sample is a line of samples.csv; a table at the end has the samples that count. It fails if what must be flat has grown.
//
// Start reading at soak.run.
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

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

func main() {
	var s soak
	flag.StringVar(&s.km, "km", "./km", "the km `program`")
	flag.StringVar(&s.build, "build", "build/soak", "the `directory` for the samples")
	flag.IntVar(&s.nodes, "nodes", 3, "`number` of the cluster's nodes, at least 2")
	flag.Float64Var(&s.pace, "pace", 5, "how many pods are created each second")
	flag.DurationVar(&s.long, "duration", 2*time.Hour, "for how long the load that is judged lasts, a `time`")
	flag.DurationVar(&s.warm, "warm-up", 5*time.Minute, "for how long the load before that lasts, a `time`")
	flag.DurationVar(&s.quiet, "quiet", 8*time.Minute, "how long the cluster is idle before the first and the last sample, a `time`: events last 5 minutes here")
	flag.DurationVar(&s.every, "every", time.Minute, "the `time` between samples")
	flag.DurationVar(&s.cutEvery, "cut-every", 10*time.Minute, "the `time` between cuts of a node")
	flag.DurationVar(&s.cutFor, "cut-for", 90*time.Second, "for how long a node is cut off, a `time`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.check(); err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		os.Exit(2)
	}
	if err := s.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		os.Exit(1)
	}
}

// soak is one run: its flags, and what has been measured so far.
type soak struct {
	km, build                                  string
	nodes                                      int
	pace                                       float64
	long, warm, quiet, every, cutEvery, cutFor time.Duration

	cluster *scratch.Cluster
	dir     string
	samples *samples
}

// check checks the flags.
func (s *soak) check() error {
	switch {
	case s.nodes < 2:
		return fmt.Errorf("-nodes=%d: give at least 2, so that pods can move when a node is cut off", s.nodes)
	case s.pace <= 0:
		return fmt.Errorf("-pace=%g: give a number above 0", s.pace)
	case s.long <= 0 || s.every <= 0 || s.warm < 0 || s.quiet < 0:
		return errors.New("-duration and -every must be above 0, -warm-up and -quiet not below")
	case s.cutFor <= 0 || s.cutFor >= s.cutEvery:
		return fmt.Errorf("-cut-for=%s: give a time above 0 and below that of -cut-every, %s", s.cutFor, s.cutEvery)
	}
	return nil
}

// eventTTL is how long events last here. By default it is an hour, for which one would have to wait at the end.
const eventTTL = 5 * time.Minute

// run runs the cluster, the warm-up and the load, and prints the result.
func (s *soak) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.build, 0o755); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "k8sm-soak-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	log, err := os.Create(filepath.Join(s.build, "km-up.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cluster, err = scratch.Start(ctx, scratch.Config{KM: s.km, Dir: s.dir, Out: log, Flags: []string{
		fmt.Sprintf("--nodes=%d", s.nodes), "--node-cidr=10.214.9.0/24", "--warm-nodes=all",
		"--kube-apiserver-arg=event-ttl=" + eventTTL.String(),
	}})
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		err = errors.Join(err, s.cluster.Stop(last))
	}()
	if err != nil {
		return err
	}
	if s.samples, err = newSamples(s.cluster, s.dir, filepath.Join(s.build, "samples.csv")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.samples.close()) }()
	return s.soak(ctx)
}

// soak does what lasts, on a cluster that runs.
func (s *soak) soak(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.under(ctx, s.warm, "warm-up"); err != nil {
		return err
	}
	before, err := s.idle(ctx, "idle before")
	if err != nil {
		return err
	}
	if err := s.under(ctx, s.long, "load"); err != nil {
		return err
	}
	after, err := s.idle(ctx, "idle after")
	if err != nil {
		return err
	}
	table := filepath.Join(s.build, "table.md")
	if err := s.samples.write(table); err != nil {
		return err
	}
	fmt.Printf("the samples are in %s, the table is in %s\n", s.samples.path, table)
	return judge(os.Stdout, before, after)
}

// idle waits for a while and takes a sample.
func (s *soak) idle(ctx context.Context, phase string) (sample, error) {
	select {
	case <-time.After(s.quiet):
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	return s.samples.take(ctx, phase)
}

// under puts the cluster under load for a time, with a sample now and then, and returns when all pods of the load are gone.
func (s *soak) under(ctx context.Context, long time.Duration, phase string) error {
	limited, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	l := s.startLoad(limited)
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for limited.Err() == nil {
		select {
		case <-tick.C:
			taken, err := s.samples.take(ctx, phase)
			if err != nil {
				fmt.Println(err) // a cut may be in its way; the next one comes
				continue
			}
			fmt.Printf("%s %s: %s; control plane %.0f MB, all %.0f MB\n", time.Now().Format(time.TimeOnly), phase, l, taken.values["memory up"], taken.values["memory total"])
		case <-limited.Done():
		}
	}
	err := l.stop(ctx)
	fmt.Printf("%s: %s\n", phase, l)
	return err
}
