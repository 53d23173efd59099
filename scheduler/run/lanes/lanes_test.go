package lanes

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type job struct {
	lane string
	n    int
}

func TestJobsOfALaneKeepTheirOrder(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var (
		mu    sync.Mutex // guards got
		got   = map[string][]int{}
		jobs  sync.WaitGroup
		ended = make(chan error, 1)
	)
	l := New(func(j job) string { return j.lane }, func(_ context.Context, j job) {
		defer jobs.Done()
		mu.Lock()
		defer mu.Unlock()
		got[j.lane] = append(got[j.lane], j.n)
	})
	want := map[string][]int{}
	add := func(n int) {
		jobs.Add(1)
		lane := fmt.Sprint("lane ", n%7)
		want[lane] = append(want[lane], n)
		l.Add(job{lane, n})
	}
	for n := range 500 {
		add(n)
	}
	go func() { ended <- l.Run(ctx, 4) }()
	for n := range 500 {
		add(500 + n)
	}
	jobs.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSlowLaneDoesNotBlockOtherLanes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	release, done := make(chan struct{}), make(chan struct{})
	l := New(func(name string) string { return name }, func(_ context.Context, name string) {
		if name == "slow" {
			<-release
			return
		}
		close(done)
	})
	ended := make(chan error, 1)
	l.Add("slow")
	go func() { ended <- l.Run(ctx, 2) }()
	l.Add("fast")
	<-done
	close(release)
	cancel()
	<-ended
}

func TestAddInsteadReplacesTheLastWaitingJob(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	var done []string
	finished := make(chan struct{})
	lanes := New(func(string) string { return "one" }, func(_ context.Context, job string) {
		if job == "a1" {
			close(begun)
			<-release
		}
		if done = append(done, job); job == "end" {
			close(finished)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var runner sync.WaitGroup
	runner.Go(func() {
		if err := lanes.Run(ctx, 1); err != nil {
			t.Error(err)
		}
	})
	add := func(job string) {
		lanes.AddInstead(job, func(waiting string) bool { return waiting[0] == job[0] })
	}
	add("a1")
	<-begun // a running job cannot be replaced
	for _, job := range []string{"a2", "a3", "b1", "a4", "a5", "end"} {
		add(job)
	}
	close(release)
	<-finished
	cancel()
	runner.Wait()
	if got := strings.Join(done, " "); got != "a1 a3 b1 a5 end" {
		t.Errorf("done: %s", got)
	}
}

func TestJobsThatWaitedWhenRunEndedAreNotRunLater(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var done []int
	l := New(func(int) string { return "one" }, func(_ context.Context, n int) {
		done = append(done, n)
		cancel()
	})
	l.Add(1)
	l.Add(2)
	if err := l.Run(ctx, 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	l.Add(3)
	if err := l.Run(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{1, 3}, done); diff != "" {
		t.Error(diff)
	}
}
