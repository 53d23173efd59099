package run

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// measured plays a pod's way, each step a second after the one before, and returns the sums of the stages in seconds and the failures.
func measured(t *testing.T, steps ...any) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	s := newStages(registry, nil)
	now := time.Unix(1000, 0)
	for _, step := range steps {
		now = now.Add(time.Second)
		switch step := step.(type) {
		case scheduler.Event:
			s.saw(now, step)
		case scheduler.Action:
			s.did(now, step)
		case string:
			s.begin()
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range families {
		name := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "k8sm_scheduler_"), "_duration_seconds")
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h.GetSampleCount() > 0 {
				all = append(all, name+" "+time.Duration(h.GetSampleSum()*float64(time.Second)).String())
			}
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			if m.GetCounter() != nil {
				all = append(all, name)
			}
		}
	}
	if lint, err := testutil.GatherAndLint(registry); err != nil || len(lint) > 0 {
		t.Errorf("%v %v", lint, err)
	}
	return strings.Join(all, ", ")
}

func TestStagesOfAPodAreMeasured(t *testing.T) {
	const task = api.TaskID("web.1")
	web, gated, bound := pod("web"), pod("web"), pod("web")
	gated.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "closed"}}
	bound.Spec.NodeName = "n1"
	seen := scheduler.PodSeen{Pod: web}
	launch := scheduler.Launch{Agent: "a1", Tasks: []scheduler.NewTask{{ID: task, Pod: web}}}
	is := func(state scheduler.TaskState, reason string, byExecutor bool) scheduler.Event {
		return scheduler.TaskUpdated{Status: scheduler.TaskStatus{Task: task, Agent: "a1", State: state, Reason: reason, ByExecutor: byExecutor}}
	}
	starting, running := is(scheduler.Starting, "", true), is(scheduler.Running, "", true)
	bind := scheduler.Bind{Task: task}
	done := func(o scheduler.BindOutcome) scheduler.Event { return scheduler.BindDone{Task: task, Outcome: o} }
	for name, test := range map[string]struct {
		steps []any
		want  string
	}{
		"all goes well":                 {[]any{seen, seen, launch, starting, bind, done(scheduler.BindOK), running}, "bind 1s, launch 1s, placement 2s"},
		"gates do not count":            {[]any{scheduler.PodSeen{Pod: gated}, seen, launch}, "placement 1s"},
		"a pod that has its node":       {[]any{scheduler.PodSeen{Pod: bound}, launch, starting}, "launch 1s"},
		"an update comes twice":         {[]any{seen, launch, starting, starting}, "launch 1s, placement 1s"},
		"binding is tried again":        {[]any{bind, done(scheduler.BindFailed), bind, done(scheduler.BindOK)}, "bind 3s"},
		"the pod goes before the bind":  {[]any{bind, done(scheduler.BindGone), done(scheduler.BindOK)}, ""},
		"it runs before the bind's end": {[]any{launch, starting, bind, running, done(scheduler.BindOK)}, "bind 2s, launch 1s"},
		"the agent ends the task":       {[]any{seen, launch, is(scheduler.Failed, "REASON_CONTAINER_LAUNCH_FAILED", false)}, "launch_failures_total a1 REASON_CONTAINER_LAUNCH_FAILED, placement 1s"},
		"it ends while it starts":       {[]any{launch, starting, is(scheduler.Lost, "", false), starting}, "launch 1s, launch_failures_total a1 TASK_LOST"},
		"the pod itself fails":          {[]any{launch, is(scheduler.Failed, "", true)}, ""},
		"it fails after it ran":         {[]any{launch, running, is(scheduler.Failed, "REASON_EXECUTOR_TERMINATED", false)}, ""},
		"it is killed":                  {[]any{launch, is(scheduler.Killed, "", false)}, ""},
		"its agent is away for a while": {[]any{launch, is(scheduler.Unreachable, "", false), starting}, "launch 2s"},
		"a second try is no placement":  {[]any{seen, launch, is(scheduler.Dropped, "", false), seen, launch}, "launch_failures_total a1 TASK_DROPPED, placement 1s"},
		"another pod of that name":      {[]any{seen, scheduler.PodGone{UID: web.UID}, launch}, ""},
		"a warm node":                   {[]any{scheduler.Launch{Agent: "a1", Tasks: []scheduler.NewTask{{ID: "warm-a1.1"}}}, starting}, ""},
		"the lead is lost":              {[]any{seen, launch, bind, "begin", starting, done(scheduler.BindOK)}, "placement 1s"},
	} {
		if got := measured(t, test.steps...); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
