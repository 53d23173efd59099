// Command masters runs a cluster with three control planes, each in a network namespace and on a small disk of its own, and harms one
// after the other: it kills it, stops it, cuts it off, fills its disk. It prints how long each kind of client waited, and fails if one
// waited for more than a limit, or if a request to a service was lost.
//
// Each master is an etcd, an API server with the cluster's DNS, and a scheduler. The agents are two of a local Mesos on the machine that
// the namespaces are bridged to.
//
// Start reading at run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	count  = 3
	bridge = "k8sm-masters"
	subnet = "10.217.9."
)

func main() {
	km := flag.String("km", "./km", "the program")
	faults := flag.String("faults", "kill,stop,cut,fill", "what to do to each master")
	limit := flag.Duration("limit", 15*time.Second, "how long a client may wait")
	keep := flag.Bool("keep", false, "keep the logs")
	nodes := flag.Bool("nodes", true, "run agents and schedulers too; without them, only clients of the API are measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path, err := filepath.Abs(*km)
	if err == nil {
		err = run(ctx, path, strings.Split(*faults, ","), *limit, options{*keep, *nodes})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "masters:", err)
		os.Exit(1)
	}
}

// options say what is run, and what is left.
type options struct{ keep, nodes bool }

// run starts the cluster, harms it, and takes it down.
func run(ctx context.Context, km string, faults []string, limit time.Duration, o options) (err error) {
	dir, err := os.MkdirTemp("", "k8sm-masters-")
	if err != nil {
		return err
	}
	c := &cluster{km: km, dir: dir, nodes: o.nodes}
	defer func() {
		if !o.keep {
			err = errors.Join(err, c.end(), os.RemoveAll(dir))
			return
		}
		err = errors.Join(err, c.end())
		fmt.Println("the logs are in", dir)
	}()
	if err := c.start(ctx); err != nil {
		return err
	}
	stopClient, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer stopClient()
	load := c.startLoad(ctx)
	var slow []string
	for _, fault := range faults {
		for _, m := range c.masters {
			got, err := c.harm(ctx, m, fault, limit)
			if err != nil {
				return fmt.Errorf("%s of master %d: %w", fault, m.number, err)
			}
			slow = append(slow, got...)
		}
	}
	sent, lost, longest := load.stop()
	if o.nodes {
		fmt.Printf("MASTERS service requests=%d lost=%d longest=%s\n", sent, len(lost), longest.Round(time.Millisecond))
	}
	if len(lost) > 0 {
		slow = append(slow, fmt.Sprintf("%d of %d requests to the service were lost, such as %s", len(lost), sent, lost[0]))
	}
	if len(slow) > 0 {
		return errors.New(strings.Join(slices.Compact(slow), "\n"))
	}
	return nil
}
