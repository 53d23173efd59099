package scheduler

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api"
)

// recorder is a Master that notes when tasks are launched.
type recorder struct{ launches chan time.Time }

func (r recorder) Run(context.Context, api.FrameworkID, Sink) error { return nil }

func (r recorder) Do(action MesosAction) {
	if _, ok := action.(Launch); ok {
		r.launches <- time.Now()
	}
}

// TestLoopLaunchesWhenTheGatheringIsOver: the owner loop wakes the core, without waiting for the next tick.
func TestLoopLaunchesWhenTheGatheringIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Gather = 30 * time.Millisecond
		p := &player{t: t, core: NewCore(cfg), now: time.Now()}
		for _, line := range []string{"synced", "subscribed", "node n1 a1", "offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours"} {
			p.step(line)
		}
		p.core.Step(p.now, p.executor("a1", "charged"))
		ctx, stop := context.WithCancel(t.Context())
		master := recorder{make(chan time.Time, 1)}
		l := &loop{core: p.core, parts: Parts{Master: master}, events: make(chan Event)}
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return l.own(ctx, group) })
		begin := time.Now()
		l.events <- PodSeen{Pod: p.pod("web", map[string]string{})}
		if took := (<-master.launches).Sub(begin); took != cfg.Gather {
			t.Errorf("launched after %s, want %s", took, cfg.Gather)
		}
		stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestManyAgentsAreCalledForLessOften(t *testing.T) {
	for agents, want := range map[int]time.Duration{
		1: 100 * time.Millisecond, 100: 100 * time.Millisecond, 400: 400 * time.Millisecond, 50_000: time.Second,
	} {
		if got := reviveFirst(agents); got != want {
			t.Errorf("%d agents: %s, want %s", agents, got, want)
		}
	}
}

func TestPodsAreNotGatheredForLongerThanMesosTakesToOffer(t *testing.T) {
	cfg := testConfig()
	for gather, ok := range map[time.Duration]bool{-1: false, 0: true, time.Second: true, 2 * time.Second: false} {
		cfg.Gather = gather
		if err := cfg.Validate(); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "--gather") {
			t.Errorf("%s: %v", gather, err)
		}
	}
}
