package lanes

import (
	"context"
	"fmt"
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

func TestASlowLaneHoldsUpNoOther(t *testing.T) {
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
