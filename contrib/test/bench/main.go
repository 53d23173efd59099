// Command bench compares k8sm's scheduler with the stock kube-scheduler, by decisions alone and by pods bound on hollow nodes, and
// measures whole clusters that it starts. It prints one line per figure:
//
//	BENCH <name> <value> <unit> [peer=<value> ratio=<value>] rounds=<n> min=<value> max=<value>
//
// A value is the median of its rounds. The peer is measured in the same run on the same machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// part is something that can be measured by itself.
type part struct {
	name string
	do   func(*bench, context.Context) error
}

// parts are all of them, in the order in which they are measured.
func parts() []part {
	return []part{
		{"decision", (*bench).decide}, {"hollow", (*bench).endToEnd}, {"scale", (*bench).flatness}, {"cri", (*bench).criCalls},
		{"network", (*bench).podNetwork}, {"services", (*bench).services}, {"pod", (*bench).onePod}, {"node", (*bench).load},
		{"burst", (*bench).bursts}, {"cold", (*bench).coldNodes}, {"metrics", (*bench).storedMetrics}, {"logs", (*bench).storedLogs}, {"ui", (*bench).webPage},
		{"storage", (*bench).storedObjects}, {"watches", (*bench).minionWatches}, {"cluster", (*bench).run},
	}
}

// partNames are their names.
func partNames() (names []string) {
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

// roles are what this program does in processes that it starts of itself, by the variable that says how.
var roles = map[string]func(string) error{
	minionVariable: playMinion, pageVariable: servePage, mesosVariable: playMesos, stockVariable: playKubeScheduler,
}

func main() {
	for variable, play := range roles {
		text := os.Getenv(variable)
		if text == "" {
			continue
		}
		if err := play(text); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(1)
		}
		return
	}
	b, o, err := options(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	if err := b.profiled(ctx, o.only, o.profile); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// runOptions say what of a benchmark runs, and for how long.
type runOptions struct {
	only, profile string
	limit         time.Duration
}

// options reads the flags. Errors are told to out. Libraries register flags of their own in flag.CommandLine: those are not read.
func options(args []string, out io.Writer) (b bench, o runOptions, err error) {
	b = bench{proxyModes: []string{"iptables", "nftables"}, serviceCounts: []int{100, 5000, 10_000}, scaleNodes: []int{1000, 5000}}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&b.km, "km", "./km", "the km `program`")
	fs.StringVar(&b.image, "image", "build/web", "the static `program` that the example's image is made of")
	fs.StringVar(&b.manifest, "pod", "contrib/examples/web.json", "the pod to run, a JSON `file`")
	fs.IntVar(&b.rounds, "rounds", 5, "how many `rounds` a median is taken of")
	fs.IntVar(&b.logLines, "logs-lines", 10_000_000, "how many `lines` the log store gets, of 200 bytes each: ten million take 3 GB of disk in $TMPDIR")
	fs.StringVar(&b.logMixDir, "logs-mix", "", "a `directory` with real log files, such as the state directory of a cluster that has run (default: those of a control plane that gets 500 pods)")
	fs.IntVar(&b.minutes, "minutes", 10, "for how many `minutes` the pods change that the web page shows")
	fs.Func("proxy-modes", "the `modes` of kube-proxy that services are measured in (default iptables,nftables)", b.setModes)
	fs.Func("service-counts", "`how many` services there are when one of them changes, ascending (default 100,5000,10000)", counts(&b.serviceCounts))
	fs.Func("scale-nodes", "`how many` hollow nodes the clusters have that part scale compares, ascending (default 1000,5000); each gets ten pods", counts(&b.scaleNodes))
	fs.StringVar(&o.only, "only", "", "take only these `measurements`: "+strings.Join(partNames(), ", "))
	fs.StringVar(&o.profile, "cpu-profile", "", "write where this program's processor time goes to this `file`")
	fs.IntVar(&b.usual.nodes, "nodes", hollowNodes, "how many hollow `nodes` there are")
	fs.IntVar(&b.usual.pods, "pods", hollowPods, "how many `pods` hollow nodes get")
	fs.StringVar(&b.profiles, "profiles", "", "a `directory` for profiles of the API server and the scheduler while they bind pods to hollow nodes, of the kubelet in a burst, and for the logs of cold nodes (default: none are kept)")
	fs.DurationVar(&o.limit, "timeout", time.Hour, "give up after this `time`")
	if err := fs.Parse(args); err != nil {
		return b, o, err
	}
	switch {
	case b.rounds < 1 || b.minutes < 1:
		err = errors.New("--rounds and --minutes must be at least 1")
	case b.logLines < 1000:
		err = errors.New("--logs-lines must be at least 1000")
	case o.only != "" && !slices.Contains(partNames(), o.only):
		err = fmt.Errorf("--only=%s is none of %s", o.only, strings.Join(partNames(), ", "))
	}
	if err != nil {
		fmt.Fprintln(out, "bench:", err)
	}
	return b, o, err
}

func (b *bench) setModes(list string) error {
	b.proxyModes = strings.Split(list, ",")
	return nil
}

// counts sets numbers to a list of them.
func counts(to *[]int) func(list string) error {
	return func(list string) error {
		*to = nil
		for text := range strings.SplitSeq(list, ",") {
			count, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			if count < 1 || len(*to) > 0 && count <= slices.Max(*to) {
				return fmt.Errorf("%d is not more than what is before it", count)
			}
			*to = append(*to, count)
		}
		return nil
	}
}

// profiled measures, and writes a profile if a file for it is named.
func (b *bench) profiled(ctx context.Context, only, profile string) error {
	if profile == "" {
		return b.measure(ctx, only)
	}
	out, err := os.Create(profile)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return errors.Join(fmt.Errorf("cannot profile: %w", err), out.Close())
	}
	err = b.measure(ctx, only)
	pprof.StopCPUProfile()
	return errors.Join(err, out.Close())
}

// measure runs the benchmarks that only names; all if it is empty.
func (b *bench) measure(ctx context.Context, only string) error {
	for _, p := range parts() {
		if only != "" && only != p.name {
			continue
		}
		if err := p.do(b, ctx); err != nil {
			return err
		}
	}
	return nil
}

// decide measures what the scheduler does without others.
func (b *bench) decide(ctx context.Context) error {
	b.offerStorage()
	return b.decisions(ctx)
}
