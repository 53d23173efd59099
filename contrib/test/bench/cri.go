package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// criPods are the pods that live through each contender in a round.
	criPods = 10
	// listSandboxes of listSize containers each run all the time, of ours and of the peer: 100 containers are in a list.
	listSandboxes, listSize = 10, 10
	// criWarmup are pods that live before the first round and are not measured.
	criWarmup = 2
)

// podLife is the state of one pod in the sequence of calls.
type podLife struct {
	number             int // unique
	sandbox, container string
}

func (p *podLife) name() string { return "bench-" + strconv.Itoa(p.number) }

// call is one request to a runtime.
type call struct {
	name string // CRI's
	do   func(context.Context, *podLife) error
}

// podRunner is one way to run pods on Docker Engine. All runners have the same calls, in the same order.
type podRunner struct {
	name  string
	calls []call
}

// times of one runner's calls in a round, by name.
type times map[string][]time.Duration

// criCalls compares each CRI call with cri-dockerd's and with the equivalent bare Engine calls, all on one Engine. The peers use its
// default bridge, ours minion/network. A value is the median over a round's pods. The runners take turns.
func (b *bench) criCalls(ctx context.Context) (err error) {
	arena := &criArena{build: "build"}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, arena.stop(last))
	}()
	if err := arena.start(ctx, b.image); err != nil {
		return err
	}
	runners := arena.runners()
	if err := arena.fill(ctx, runners); err != nil {
		return err
	}
	ours := runners[0]
	figures := map[string]*figure{} // by call and peer
	for round := range b.rounds {
		measured, err := arena.round(ctx, runners, round)
		if err != nil {
			return err
		}
		for _, c := range ours.calls {
			for i, peer := range runners[1:] {
				key := c.name + "_beside_" + peer.name
				if figures[key] == nil {
					figures[key] = &figure{name: key, unit: "ms"}
				}
				figures[key].rounds = append(figures[key].rounds, measured[0].median(c.name))
				figures[key].peer = append(figures[key].peer, measured[i+1].median(c.name))
			}
		}
	}
	for _, peer := range runners[1:] {
		for _, c := range ours.calls {
			figures[c.name+"_beside_"+peer.name].print(os.Stdout)
		}
	}
	return nil
}

// median of one call's times, in milliseconds.
func (t times) median(name string) float64 {
	var values []float64
	for _, d := range t[name] {
		values = append(values, milliseconds(d))
	}
	return median(values)
}

// fill starts the containers to list, for all runners but the last, and runs the warm-up pods.
func (a *criArena) fill(ctx context.Context, runners []podRunner) error {
	for _, r := range runners[:len(runners)-1] {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(4)
		for range listSandboxes {
			first := a.newPod()
			group.Go(func() error { return fillSandbox(ctx, r, first) })
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("cannot run what is to be listed by %s: %w", r.name, err)
		}
	}
	for range criWarmup {
		for _, r := range runners {
			if err := a.live(ctx, r, times{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// fillSandbox runs a sandbox with all its containers.
func fillSandbox(ctx context.Context, r podRunner, pod *podLife) error {
	do := map[string]func(context.Context, *podLife) error{}
	for _, c := range r.calls {
		do[c.name] = c.do
	}
	if err := do["RunPodSandbox"](ctx, pod); err != nil {
		return err
	}
	for i := range listSize {
		// A container's name is its pod's number.
		member := &podLife{number: pod.number*1000 + i, sandbox: pod.sandbox}
		if err := errors.Join(do["CreateContainer"](ctx, member)); err != nil {
			return err
		}
		if err := do["StartContainer"](ctx, member); err != nil {
			return err
		}
	}
	return nil
}

// round runs pods on each runner, one at a time, in alternating order.
func (a *criArena) round(ctx context.Context, runners []podRunner, round int) ([]times, error) {
	measured := make([]times, len(runners))
	for i := range measured {
		measured[i] = times{}
	}
	for pod := range criPods {
		for i := range runners {
			turn := (i + pod + round) % len(runners)
			if err := a.live(ctx, runners[turn], measured[turn]); err != nil {
				return nil, err
			}
		}
	}
	return measured, nil
}

// live runs one pod, and records the time of each call.
func (a *criArena) live(ctx context.Context, r podRunner, measured times) error {
	pod := a.newPod()
	for _, c := range r.calls {
		begin := time.Now()
		if err := c.do(ctx, pod); err != nil {
			return fmt.Errorf("%s of %s: %w", c.name, r.name, err)
		}
		measured[c.name] = append(measured[c.name], time.Since(begin))
	}
	return nil
}

// newPod may be called by one goroutine at a time.
func (a *criArena) newPod() *podLife {
	a.pods++
	return &podLife{number: a.pods}
}

// sameCalls reports whether all runners have the same calls.
func sameCalls(runners []podRunner) bool {
	names := func(r podRunner) (all []string) {
		for _, c := range r.calls {
			all = append(all, c.name)
		}
		return all
	}
	return !slices.ContainsFunc(runners, func(r podRunner) bool { return !slices.Equal(names(r), names(runners[0])) })
}
