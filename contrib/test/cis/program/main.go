// Command program starts a cluster in a scratch directory, checks it against the CIS Kubernetes Benchmark, and stops it. It fails if an
// item fails that could pass. `make cis` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/cis"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

func main() {
	km := flag.String("km", "./km", "the km `program`")
	limit := flag.Duration("timeout", 5*time.Minute, "give up after this `time`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx, *km); err != nil {
		fmt.Fprintf(os.Stderr, "cis: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, km string) (err error) {
	dir, err := os.MkdirTemp("", "k8sm-cis-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// kube-controller-manager listens nowhere unless it is told to, and nodes run no kubelet before the first pod.
	port, err := scratch.FreePort()
	if err != nil {
		return err
	}
	c, err := scratch.Start(ctx, scratch.Config{KM: km, Dir: dir, Flags: []string{"--warm-nodes=1", fmt.Sprintf("--kube-controller-manager-arg=secure-port=%d", port)}})
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, c.Stop(last))
	}()
	if err != nil {
		return err
	}
	findings, err := cis.Check(ctx, cis.Target{
		Dir: statedir.Dir(dir), REST: c.REST, Kube: c.Kube, ControllerManager: fmt.Sprintf("127.0.0.1:%d", port), Status: c.StatusAddress(),
	})
	if err != nil {
		return err
	}
	if bad := cis.Print(os.Stdout, findings); len(bad) > 0 {
		return fmt.Errorf("%d items fail that could pass, the first is %s", len(bad), bad[0].ID)
	}
	return nil
}
