package minion

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/executor"
)

// sendsTo is an agent whose Update returns an error.
type sendsTo struct {
	executor.Agent
	err error
}

// Update implements executor.Agent.
func (s sendsTo) Update(context.Context, executor.Update) error { return s.err }

func TestMinionTracesPods(t *testing.T) {
	key := api.PodKey{Namespace: "default", Name: "web"}
	const uid = "4c9bff6e-9d8c-4f9c-8d2b-6a4b8a3f2b10"
	task := api.NewTaskID(uid, 1)
	launch := executor.Launch{Task: task, Pod: key, UID: uid}
	is := func(phase corev1.PodPhase, ready bool) executor.Event {
		return executor.PodChanged{Pod: executor.Pod{Key: key, UID: uid, Phase: phase, Ready: ready}}
	}
	pending, running, ready := is(corev1.PodPending, false), is(corev1.PodRunning, false), is(corev1.PodRunning, true)
	starting := executor.Update{Task: task, State: executor.Starting}
	for name, test := range map[string]struct {
		steps []any
		fails error
		want  string
	}{
		"all goes well": {[]any{launch, starting, pending, pending, running, ready, ready}, nil,
			"executor: take the task, API server: pod is bound, API server: pod runs, API server: pod is ready"},
		"the agent does not answer":      {[]any{launch, starting}, errors.New("no"), "executor: take the task in vain"},
		"it is not answered yet":         {[]any{launch}, nil, "executor: take the task …"},
		"it ran before the minion began": {[]any{running, ready}, nil, ""},
		"a task without a pod":           {[]any{executor.Launch{Task: "warm-a1.1", UID: uid, Pod: key, Warm: true}, starting}, nil, ""},
		"a task that cannot run":         {[]any{executor.Launch{Task: task, UID: uid, Pod: key, Problem: "no"}}, nil, ""},
	} {
		book := podtrace.NewBook(10)
		posted := 0
		post := traced(book, func(executor.Event) { posted++ })
		agent, events := tracedAgent{sendsTo{err: test.fails}, book}, 0
		for _, step := range test.steps {
			switch step := step.(type) {
			case executor.Update:
				if err := agent.Update(t.Context(), step); !errors.Is(err, test.fails) {
					t.Errorf("%s: the agent's answer is %v, want %v", name, err, test.fails)
				}
			case executor.Event:
				post(step)
				events++
			}
		}
		if posted != events {
			t.Errorf("%s: %d of %d events were passed on", name, posted, events)
		}
		var got []string
		for _, trace := range book.Of(key) {
			for _, s := range trace.Spans {
				text := fmt.Sprintf("%s: %s", s.Who, s.What)
				if s.End.IsZero() {
					text += " …"
				}
				if s.Failed {
					text += " in vain"
				}
				got = append(got, text)
			}
		}
		if text := strings.Join(got, ", "); text != test.want {
			t.Errorf("%s: got %s, want %s", name, text, test.want)
		}
	}
}
