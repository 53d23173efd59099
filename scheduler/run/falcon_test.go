package run

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/scheduler"
)

// falconSink keeps what is pushed, and says when.
type falconSink struct {
	pushes []map[string]float64 // by metric and tags
	times  []time.Time
	ran    bool
}

func (f *falconSink) Push(at time.Time, elements []falcon.Element) {
	push := map[string]float64{}
	for _, e := range elements {
		push[string(e.CounterType)+" "+e.Metric+" "+e.Tags] = e.Value
	}
	f.pushes, f.times = append(f.pushes, push), append(f.times, at)
}

func (*falconSink) Step() time.Duration { return 40 * time.Second }

func (f *falconSink) Run(ctx context.Context) error {
	f.ran = true
	<-ctx.Done()
	return ctx.Err()
}

func TestLeadingSchedulerSendsItsFiguresEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaster(offered("o1"))
		parts := newParts(m, cluster{events: []scheduler.Event{
			scheduler.NodeSeen{Node: node()}, scheduler.PodSeen{Pod: pod("web")}, scheduler.PodSeen{Pod: pod("big")},
		}})
		sink := &falconSink{}
		parts.Falcon = sink
		ctx, stop := context.WithCancel(t.Context())
		ended, began := make(chan error, 1), time.Now()
		go func() { ended <- Run(ctx, testConfig(), parts) }()
		m.launched(t)
		time.Sleep(3*time.Minute - time.Since(began))
		stop()
		if err := <-ended; err != nil || !sink.ran {
			t.Errorf("%v; the pusher ran: %v", err, sink.ran)
		}
		var after []time.Duration
		for _, at := range sink.times {
			after = append(after, at.Sub(began))
		}
		if diff := cmp.Diff([]time.Duration{41 * time.Second, 81 * time.Second, 121 * time.Second, 161 * time.Second}, after); diff != "" {
			t.Fatalf("times of the pushes:\n%s", diff)
		}
		want := map[string]float64{"GAUGE k8sm.pods.waiting ": 0, "GAUGE k8sm.offers.live ": 0, "GAUGE k8sm.agents.alive ": 1}
		for _, state := range []string{
			"TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_FINISHED", "TASK_FAILED", "TASK_KILLED",
			"TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_UNREACHABLE", "TASK_GONE", "TASK_GONE_BY_OPERATOR", "TASK_UNKNOWN",
		} {
			want["GAUGE mesos.tasks state="+state] = 0
		}
		want["GAUGE mesos.tasks state=TASK_STAGING"] = 2
		if diff := cmp.Diff(want, sink.pushes[0]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPushesSkipTheTimeInWhichTheMachineWasSuspended(t *testing.T) {
	sink := &falconSink{}
	core, clock, now := scheduler.NewCore(testConfig().Config), falconClock{falcon: sink}, time.Now()
	for _, after := range []time.Duration{0, 39 * time.Second, 40 * time.Second, time.Hour, time.Hour + time.Second, time.Hour + 40*time.Second} {
		clock.tick(now.Add(after), core)
	}
	if diff := cmp.Diff([]time.Time{now.Add(40 * time.Second), now.Add(time.Hour), now.Add(time.Hour + 40*time.Second)}, sink.times); diff != "" {
		t.Error(diff)
	}
}
