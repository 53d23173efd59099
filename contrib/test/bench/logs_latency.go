package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/contrib/logs/client"
	"github.com/k8sm/k8sm/contrib/logs/read"
)

const (
	// steadyRate is how many lines a second one pod writes, steadyAtOnce at a time, for steadyTime.
	steadyRate, steadyAtOnce = 1_000, 10
	steadyTime               = time.Minute
	// steadyAsk is the pause between two queries for them.
	steadyAsk = 20 * time.Millisecond
	// steadyPatience is how long the last line may take.
	steadyPatience = 30 * time.Second
)

// latency measures how long it takes from the write of a line until a query finds it, and until it comes from a request that follows, as
// that of `km logs -f` does.
func (l *logsBench) latency(ctx context.Context) error {
	const lines = steadyRate * int(steadyTime/time.Second)
	ctx, cancel := context.WithTimeout(ctx, steadyTime+steadyPatience)
	defer cancel()
	pod := l.pods[logWriters]
	w := &steadyWriter{path: l.path(pod, logContainer), wrote: make([]time.Time, lines)}
	var found, came []time.Duration
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.run(ctx) })
	group.Go(func() (err error) {
		found, err = l.seenBy(ctx, w, pod)
		return err
	})
	group.Go(func() (err error) {
		came, err = l.cameTo(ctx, w, pod)
		return err
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("lines at a steady rate: %w", err)
	}
	printAll(
		single("logs_write_to_query_p50", "ms", percentile(found, 50)), single("logs_write_to_query_p99", "ms", percentile(found, 99)),
		single("logs_write_to_follow_p50", "ms", percentile(came, 50)), single("logs_write_to_follow_p99", "ms", percentile(came, 99)),
	)
	return nil
}

// steadyWriter writes lines to a file.
type steadyWriter struct {
	path string

	mu    sync.Mutex // guards all below
	wrote []time.Time
	count int
}

// run writes all the lines.
func (w *steadyWriter) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(w.path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(w.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	tick := time.NewTicker(time.Second * steadyAtOnce / steadyRate)
	defer tick.Stop()
	for i := 0; i < len(w.wrote); i += steadyAtOnce {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		var text []byte
		at := time.Now()
		for k := range steadyAtOnce {
			text = fmt.Appendf(append(at.UTC().AppendFormat(text, time.RFC3339Nano), " stdout F "...), "%0*d\n", lineSize, i+k)
		}
		w.mu.Lock()
		for k := range steadyAtOnce {
			w.wrote[i+k] = at
		}
		w.count = i + steadyAtOnce
		w.mu.Unlock()
		if _, err := file.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// since returns how long ago the lines from one to another were written.
func (w *steadyWriter) since(from, to int, now time.Time) (all []time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if to > w.count {
		return nil, fmt.Errorf("%d lines were found, and %d written", to, w.count)
	}
	for _, at := range w.wrote[from:to] {
		all = append(all, now.Sub(at))
	}
	return all, nil
}

// seenBy asks again and again how many lines there are, and returns how long each took until an answer had it.
func (l *logsBench) seenBy(ctx context.Context, w *steadyWriter, pod logPod) (all []time.Duration, err error) {
	for len(all) < len(w.wrote) {
		n, err := l.count(ctx, fmt.Sprintf("{pod=%q}", pod.name))
		if err != nil {
			return nil, fmt.Errorf("%d of %d lines were found: %w", len(all), len(w.wrote), err)
		}
		fresh, err := w.since(len(all), max(n, len(all)), time.Now())
		if err != nil {
			return nil, err
		}
		all = append(all, fresh...)
		select {
		case <-time.After(steadyAsk):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return all, nil
}

// errAll says that all lines have come.
var errAll = errors.New("all lines are here")

// cameTo follows the pod's log, and returns how long each line took.
func (l *logsBench) cameTo(ctx context.Context, w *steadyWriter, pod logPod) (all []time.Duration, err error) {
	follow := url.Values{read.ParamFollow: {"true"}}
	err = l.client.Lines(ctx, client.Place{Resource: "pods", Namespace: logNamespace, Pod: pod.name}, follow, nil, func(read.Line) error {
		fresh, err := w.since(len(all), len(all)+1, time.Now())
		all = append(all, fresh...)
		if err == nil && len(all) == len(w.wrote) {
			err = errAll
		}
		return err
	})
	if !errors.Is(err, errAll) {
		return nil, fmt.Errorf("%d of %d lines came to who follows: %w", len(all), len(w.wrote), err)
	}
	return all, nil
}
