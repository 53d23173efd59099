package cri

import (
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/google/go-cmp/cmp"
)

func TestEventsThatTheEngineDidNotSendAreWorkedOutFromWhatIsThere(t *testing.T) {
	listed := func(id string, state container.ContainerState) container.Summary {
		return container.Summary{ID: id, State: state, Labels: map[string]string{labelKind: kindContainer, labelSandbox: "pod"}}
	}
	for name, c := range map[string]struct {
		known lives
		list  []container.Summary
		want  []string
	}{
		"nothing happened":          {lives{"a": {phase: started}}, []container.Summary{listed("a", container.StateRunning)}, nil},
		"it ended":                  {lives{"a": {phase: started}}, []container.Summary{listed("a", container.StateExited)}, []string{"die a"}},
		"it lived and died":         {lives{"a": {phase: created}}, []container.Summary{listed("a", container.StateExited)}, []string{"start a", "die a"}},
		"it is new":                 {lives{}, []container.Summary{listed("a", container.StateRunning)}, []string{"create a", "start a"}},
		"it was removed":            {lives{"a": {phase: ended}}, nil, []string{"destroy a"}},
		"it was killed and removed": {lives{"a": {phase: started}}, nil, []string{"die a", "destroy a"}},
		"it was removed unstarted":  {lives{"a": {phase: created}}, nil, []string{"destroy a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, m := range c.known.missed(c.list, time.Unix(1, 0)) {
				got = append(got, string(m.Action)+" "+m.Actor.ID)
				if !c.known.note(m) {
					t.Errorf("%s is no news", got[len(got)-1])
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if again := c.known.missed(c.list, time.Unix(2, 0)); len(again) > 0 {
				t.Errorf("the second time: %v", again)
			}
		})
	}
}

func TestEventThatWasWorkedOutAlreadyIsNoNews(t *testing.T) {
	known := lives{"a": {phase: started}}
	die, destroy := message(events.ActionDie), message(events.ActionDestroy)
	for i, step := range []struct {
		m    events.Message
		news bool
	}{{message(events.ActionStart), false}, {die, true}, {die, false}, {destroy, true}, {die, false}, {destroy, false}} {
		if got := known.note(step.m); got != step.news {
			t.Errorf("step %d, %s: news %v; want %v", i, step.m.Action, got, step.news)
		}
	}
}

func message(action events.Action) events.Message {
	return events.Message{Action: action, Actor: events.Actor{ID: "a"}}
}
