package run

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
)

// traced plays a pod's way, each step a second after the one before, and returns the pod's spans.
func traced(t *testing.T, steps ...any) string {
	t.Helper()
	book := NewTraces()
	s := newStages(prometheus.NewPedanticRegistry(), book)
	begin := time.Unix(1000, 0)
	for i, step := range steps {
		now := begin.Add(time.Duration(i) * time.Second)
		switch step := step.(type) {
		case scheduler.Event:
			s.saw(now, step)
		case scheduler.Action:
			s.did(now, step)
		}
	}
	var all []string
	for _, trace := range book.Of(api.PodKey{Namespace: pod("web").Namespace, Name: "web"}) {
		for _, s := range trace.Spans {
			end := "…"
			if !s.End.IsZero() {
				end = fmt.Sprint(s.End.Unix() - 1000)
			}
			if s.Failed {
				end += " in vain"
			}
			all = append(all, fmt.Sprintf("%s: %s %d-%s", s.Who, s.What, s.Begin.Unix()-1000, end))
		}
		all = append(all, "on "+trace.Node)
	}
	return strings.Join(all, "\n")
}

func TestSchedulerTracesPods(t *testing.T) {
	web := pod("web")
	web.UID = "4c9bff6e-9d8c-4f9c-8d2b-6a4b8a3f2b10"
	task := api.NewTaskID(web.UID, 1)
	again := api.NewTaskID(web.UID, 2)
	launch := func(id api.TaskID) scheduler.Action {
		return scheduler.Launch{Agent: "a1", Tasks: []scheduler.NewTask{{ID: id, Pod: web}}}
	}
	is := func(id api.TaskID, state scheduler.TaskState) scheduler.Event {
		return scheduler.TaskUpdated{Status: scheduler.TaskStatus{Task: id, Agent: "a1", State: state}}
	}
	seen, offered := scheduler.PodSeen{Pod: web}, scheduler.Offered{Offers: []offers.Offer{{ID: "o1"}}}
	bind := scheduler.Bind{Task: task, Node: "n1"}
	done := func(o scheduler.BindOutcome) scheduler.Event { return scheduler.BindDone{Task: task, Outcome: o} }
	for name, test := range map[string]struct {
		steps []any
		want  string
	}{
		"all goes well": {
			[]any{seen, scheduler.Revive{}, offered, offered, launch(task), is(task, scheduler.Starting), bind, done(scheduler.BindOK), is(task, scheduler.Running)}, `
scheduler: find an agent and an offer 0-4
Mesos: offer resources 1-2
Mesos: launch the task 4-5
scheduler: bind the pod 6-7
scheduler: pod runs 8-8
on n1`},
		"an offer was held": {
			[]any{scheduler.Revive{}, offered, seen, launch(task), is(task, scheduler.Starting)}, `
scheduler: find an agent and an offer 2-3
Mesos: launch the task 3-4
on `},
		"the launch fails": {
			[]any{seen, launch(task), is(task, scheduler.Dropped), seen, launch(again), is(again, scheduler.Starting)}, `
scheduler: find an agent and an offer 0-1
Mesos: launch the task 1-2 in vain
Mesos: launch the task 4-5
on `},
		"binding is tried again": {
			[]any{seen, launch(task), is(task, scheduler.Starting), bind, done(scheduler.BindFailed), bind, done(scheduler.BindOK)}, `
scheduler: find an agent and an offer 0-1
Mesos: launch the task 1-2
scheduler: bind the pod 3-6
on n1`},
		"it waits":                      {[]any{seen, scheduler.Revive{}}, ""},
		"another scheduler launched it": {[]any{is(task, scheduler.Running), bind, done(scheduler.BindOK)}, ""},
		"an update of another task":     {[]any{is("warm-a1.1", scheduler.Running)}, ""},
	} {
		if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), traced(t, test.steps...)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}
