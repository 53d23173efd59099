// Command power runs a cluster on a machine with a kernel of its own, and takes away the machine's power again and again. The machine is
// user-mode Linux (https://docs.kernel.org/virt/uml/user_mode_linux_howto_v2.html) with Debian 13: systemd, cgroup v2, Docker Engine 26.1. To take its power away is to kill it: what its kernel
// had not yet written to its disk is lost.
//
// On the machine contrib/test/power/guest brings the cluster up and writes: objects to etcd, lines to a pod's volume and to its log. Of what
// is acknowledged it leaves a note outside of the machine. When the machine has booted again, it looks for all that it has noted, and
// for a cluster that came back by itself.
//
// Start reading at run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/k8sm/k8sm/contrib/test/power/notes"
)

// settings are the flags.
type settings struct {
	km, guest, kernel, build string
	cuts, memory             int
	limit                    time.Duration
}

func main() {
	var s settings
	flag.StringVar(&s.km, "km", "./km", "the km `program`")
	flag.StringVar(&s.guest, "guest", "build/power/guest", "what runs on the machine, the `program` of contrib/test/power/guest")
	flag.StringVar(&s.kernel, "kernel", "/usr/bin/linux.uml", "user-mode Linux, a `program`")
	flag.StringVar(&s.build, "build", "build/power", "the `directory` with the machine's disk, base.ext4, for the logs too")
	flag.IntVar(&s.cuts, "cuts", 20, "how `often` the power goes")
	flag.IntVar(&s.memory, "memory", 6, "the machine's memory in `GiB`")
	flag.DurationVar(&s.limit, "limit", 6*time.Minute, "how long the cluster may take to come back, a `time`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "power: %v\n", err)
		os.Exit(1)
	}
}

// run boots the machine, and again after each cut.
func (s settings) run(ctx context.Context) (err error) {
	m, err := s.newMachine()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.remove()) }()
	var failed error
	for cut := range s.cuts + 1 {
		begin := time.Now()
		if err := m.boot(); err != nil {
			return err
		}
		back, err := m.await(ctx, s.limit, func(n notes.Notes) bool { return n.Back > cut })
		if err != nil {
			return fmt.Errorf("after %d cuts the cluster did not come back: %w; see %s", cut, err, m.share)
		}
		took := time.Since(begin)
		fmt.Printf("cut %d: the cluster was back %.0f s after power came; acknowledged before: %s\n", cut, took.Seconds(), back)
		for _, problem := range back.Problems[m.seen:] {
			fmt.Printf("cut %d: %s\n", cut, problem)
			failed = errors.New("something was lost")
		}
		m.seen = len(back.Problems)
		if cut == s.cuts {
			break
		}
		// All kinds of acknowledgements go on before the next one.
		if _, err := m.await(ctx, s.limit, func(n notes.Notes) bool { return n.Further(back) }); err != nil {
			return fmt.Errorf("after %d cuts writes do not go on: %w; see %s", cut, err, m.share)
		}
		select {
		case <-time.After(rand.N(10 * time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := m.cut(); err != nil {
			return err
		}
	}
	if failed == nil {
		fmt.Printf("power: %d cuts, nothing lost\n", s.cuts)
	}
	return failed
}

// path returns a path of what stays after the run.
func (s settings) path(name string) string { return filepath.Join(s.build, name) }
