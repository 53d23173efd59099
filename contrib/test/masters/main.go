// Command masters runs three control planes on one etcd, each in a network namespace of its own, and harms one after the other: it kills
// it, stops it, cuts it off, fills its disk. It prints how long each kind of client was away, and fails if one was away for more than a
// limit, or if a request to a service was lost.
//
// Each master is an etcd, an API server with the cluster's DNS, and a scheduler. Each of two agents of a local Mesos is in a namespace with
// a Docker Engine of its own. With -addons, one more machine has a server of each add-on. The namespaces are bridged to this machine, which has the Mesos master and the clients.
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
	limit := flag.Duration("limit", 15*time.Second, "how long a client may be away")
	keep := flag.Bool("keep", false, "keep the logs")
	nodes := flag.Bool("nodes", true, "run agents and schedulers too; without them, only clients of the API are measured")
	addOns := flag.Bool("addons", false, "run metrics, logs, the web page and v1beta1 too, and all add-ons on a machine without an API server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path, err := filepath.Abs(*km)
	if err == nil && *addOns && !*nodes {
		err = errors.New("cannot use -addons with -nodes=false: their metrics and logs are those of nodes")
	}
	if err == nil {
		err = run(ctx, path, strings.Split(*faults, ","), options{*keep, *nodes, *addOns, *limit})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "masters:", err)
		os.Exit(1)
	}
}

// options say what is run, what is left, and how long a client may be away.
type options struct {
	keep, nodes, addOns bool
	limit               time.Duration
}

// run starts the cluster, harms it, and takes it down, also when it is interrupted.
func run(ctx context.Context, km string, faults []string, o options) (err error) {
	dir, err := os.MkdirTemp("", "k8sm-masters-")
	if err != nil {
		return err
	}
	c := &cluster{km: km, dir: dir, nodes: o.nodes}
	if o.addOns {
		c.addOns = &addOns{master: master{machine: c.machine("extra", 30, 1)}}
	}
	defer func() {
		err = errors.Join(err, c.end())
		if o.keep {
			fmt.Println("the logs are in", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
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
	results := results{limit: o.limit}
	for _, fault := range faults {
		for _, m := range c.masters {
			result, err := c.harm(ctx, m, fault, load)
			if err != nil {
				load.stop()
				return fmt.Errorf("%s of master %d: %w", fault, m.number, err)
			}
			results.add(result)
		}
	}
	load.stop()
	results.print(os.Stdout)
	return results.err(load)
}
