package minion

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/executor"
)

// tracedPods is how many pods' spans a minion keeps. A kubelet takes 110 pods at a time.
const tracedPods = 220

// traced returns a post that notes in the book what becomes of pods. The pods that run already when the minion starts get no page.
func traced(book *podtrace.Book, post func(executor.Event)) func(executor.Event) {
	return func(event executor.Event) {
		now := time.Now()
		switch e := event.(type) {
		case executor.Launch:
			if !e.Warm && e.Problem == "" {
				book.Open(podtrace.Pod{PodKey: e.Pod, UID: e.UID})
				book.Start(e.UID, podtrace.Executor, podtrace.Take, now)
			}
		case executor.PodChanged:
			notePod(book, e.Pod, now)
		}
		post(event)
	}
}

func notePod(book *podtrace.Book, pod executor.Pod, now time.Time) {
	switch {
	case pod.Phase == corev1.PodPending:
		book.Open(podtrace.Pod{PodKey: pod.Key, UID: pod.UID})
		book.Moment(pod.UID, podtrace.APIServer, podtrace.Bound, now)
	case pod.Phase == corev1.PodRunning:
		book.Moment(pod.UID, podtrace.APIServer, podtrace.Running, now)
	}
	if pod.Ready {
		book.Moment(pod.UID, podtrace.APIServer, podtrace.Ready, now)
	}
}

// tracedAgent notes in the book when the agent has heard that the executor has taken a task.
type tracedAgent struct {
	executor.Agent
	book *podtrace.Book
}

// Update implements executor.Agent.
func (a tracedAgent) Update(ctx context.Context, u executor.Update) error {
	err := a.Agent.Update(ctx, u)
	if pod, _, malformed := u.Task.Parse(); malformed == nil && u.State == executor.Starting {
		a.book.End(pod, podtrace.Take, time.Now(), err != nil)
	}
	return err
}
