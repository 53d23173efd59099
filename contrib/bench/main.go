// Command bench measures a cluster that it starts itself, and prints one line a figure:
//
//	BENCH <name> <value> <unit> [peer=<value> ratio=<value>] rounds=<n> min=<value> max=<value>
//
// A value is the median of its rounds. A peer is measured in the same run, on the same machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var b bench
	flag.StringVar(&b.km, "km", "./km", "the km `program`")
	flag.StringVar(&b.image, "image", "build/web", "the static `program` that the example's image is made of")
	flag.StringVar(&b.manifest, "pod", "contrib/examples/web.json", "the pod to run, a JSON `file`")
	flag.IntVar(&b.rounds, "rounds", 5, "how many `rounds` a median is taken of")
	limit := flag.Duration("timeout", 30*time.Minute, "give up after this `time`")
	flag.Parse()
	if b.rounds < 1 {
		fmt.Fprintln(os.Stderr, "bench: --rounds must be at least 1")
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := b.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}
