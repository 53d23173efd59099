package run

import (
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/scheduler"
)

// tracedPods is how many pods' spans a scheduler keeps: a pod's take less than a kilobyte.
const tracedPods = 2000

// NewTraces returns a book for Parts.
func NewTraces() *podtrace.Book { return podtrace.NewBook(tracedPods) }

// traces notes what the scheduler and Mesos do for pods, as spans. A pod has a page from its first launch on: why it waits before that is
// in the queue.
type traces struct {
	book             *podtrace.Book
	revived, offered time.Time // the last REVIVE, and the first offer after it; zero for none
}

// begin forgets what was under way.
func (t *traces) begin() { t.revived, t.offered = time.Time{}, time.Time{} }

func (t *traces) saw(now time.Time, ev scheduler.Event) {
	switch ev := ev.(type) {
	case scheduler.Offered:
		if !t.revived.IsZero() && t.offered.IsZero() {
			t.offered = now
		}
	case scheduler.TaskUpdated:
		pod, _, err := ev.Status.Task.Parse()
		switch {
		case err != nil:
		case ev.Status.State == scheduler.Starting:
			t.book.End(pod, podtrace.Launch, now, false)
		case ev.Status.State == scheduler.Running:
			t.book.Moment(pod, podtrace.Scheduler, podtrace.Running, now)
		case ev.Status.State != scheduler.Staging:
			t.book.End(pod, podtrace.Launch, now, true)
		}
	case scheduler.BindDone:
		if pod, _, err := ev.Task.Parse(); err == nil && ev.Outcome != scheduler.BindFailed {
			t.book.End(pod, podtrace.Bind, now, ev.Outcome != scheduler.BindOK)
		}
	}
}

// did notes an action. waiting says since when a pod has been waiting, if it was not launched before.
func (t *traces) did(now time.Time, act scheduler.Action, waiting func(scheduler.NewTask) time.Time) {
	switch act := act.(type) {
	case scheduler.Revive:
		t.revived, t.offered = now, time.Time{}
	case scheduler.Launch:
		for _, task := range act.Tasks {
			if task.Pod != nil {
				t.launch(now, waiting(task), task)
			}
		}
	case scheduler.Bind:
		if pod, _, err := act.Task.Parse(); err == nil {
			t.book.Runs(pod, act.Node)
			t.book.Start(pod, podtrace.Scheduler, podtrace.Bind, now)
		}
	}
}

func (t *traces) launch(now, since time.Time, task scheduler.NewTask) {
	pod := task.Pod.UID
	t.book.Open(podtrace.Pod{PodKey: api.PodKey{Namespace: task.Pod.Namespace, Name: task.Pod.Name}, UID: pod})
	if !since.IsZero() {
		t.book.Add(pod, podtrace.Span{Who: podtrace.Scheduler, What: podtrace.Place, Begin: since, End: now})
		if !t.revived.Before(since) && !t.offered.IsZero() {
			t.book.Add(pod, podtrace.Span{Who: podtrace.Mesos, What: podtrace.Offer, Begin: t.revived, End: t.offered})
		}
	}
	t.book.Start(pod, podtrace.Mesos, podtrace.Launch, now)
}
