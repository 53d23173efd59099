package run

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/scheduler"
)

// stages measure how long pods take from one stage to the next on their way to a node, and count the tasks that do not get there. They
// watch the events and actions of the loop that owns them. What a term has begun to measure ends with it.
type stages struct {
	placement, launch, bind prometheus.Histogram
	failures                *prometheus.CounterVec // by agent and reason

	waiting  map[types.UID]time.Time  // pods without a node, since when the scheduler has known of them
	launched map[api.TaskID]time.Time // tasks of pods until they run; zero once they are starting
	binding  map[api.TaskID]time.Time
	traces   traces
}

// stageBuckets end at two minutes: 1 ms, 2 ms, 4 ms …
var stageBuckets = prometheus.ExponentialBuckets(.001, 2, 18)

func newStages(registry prometheus.Registerer, book *podtrace.Book) *stages {
	histogram := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "k8sm", Subsystem: "scheduler", Name: name, Help: help, Buckets: stageBuckets,
		})
		registry.MustRegister(h)
		return h
	}
	s := &stages{
		traces:    traces{book: book},
		placement: histogram("placement_duration_seconds", "From when a leading scheduler first sees that a pod needs a node until it launches a task for it."),
		launch:    histogram("launch_duration_seconds", "From the launch of a pod's task until its executor says that it is starting."),
		bind:      histogram("bind_duration_seconds", "From when a pod's task is starting until the pod is bound to its node."),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "k8sm", Subsystem: "scheduler", Name: "launch_failures_total",
			Help: "Tasks of pods that Mesos ended before they ran, by its agent and reason.",
		}, []string{"agent", "reason"}),
	}
	registry.MustRegister(s.failures)
	s.begin()
	return s
}

// begin forgets what was under way.
func (s *stages) begin() {
	s.waiting, s.launched, s.binding = map[types.UID]time.Time{}, map[api.TaskID]time.Time{}, map[api.TaskID]time.Time{}
	s.traces.begin()
}

// saw notes an event.
func (s *stages) saw(now time.Time, ev scheduler.Event) {
	s.traces.saw(now, ev)
	switch ev := ev.(type) {
	case scheduler.PodSeen:
		s.sawPod(now, ev.Pod)
	case scheduler.PodGone:
		delete(s.waiting, ev.UID)
	case scheduler.TaskUpdated:
		s.sawTask(now, ev.Status)
	case scheduler.BindDone:
		if began, ok := s.binding[ev.Task]; ok && ev.Outcome == scheduler.BindOK {
			s.bind.Observe(now.Sub(began).Seconds())
		}
		if ev.Outcome != scheduler.BindFailed { // which is tried again
			delete(s.binding, ev.Task)
		}
	}
}

func (s *stages) sawPod(now time.Time, pod *v1.Pod) {
	if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil || len(pod.Spec.SchedulingGates) > 0 {
		delete(s.waiting, pod.UID)
		return
	}
	if _, known := s.waiting[pod.UID]; !known {
		s.waiting[pod.UID] = now
	}
}

func (s *stages) sawTask(now time.Time, status scheduler.TaskStatus) {
	began, ok := s.launched[status.Task]
	if !ok {
		return
	}
	switch status.State {
	case scheduler.Starting:
		if !began.IsZero() {
			s.launch.Observe(now.Sub(began).Seconds())
			s.launched[status.Task] = time.Time{}
		}
		return
	case scheduler.Running, scheduler.Finished, scheduler.Killed:
	case scheduler.Failed, scheduler.Errored, scheduler.Lost, scheduler.Dropped, scheduler.Gone, scheduler.GoneByOperator:
		if !status.ByExecutor {
			s.failures.WithLabelValues(string(status.Agent), reason(status)).Inc()
		}
		delete(s.binding, status.Task)
	default: // it may run yet
		return
	}
	delete(s.launched, status.Task)
}

// reason returns the reason that Mesos gives, or the state if it gives none.
func reason(status scheduler.TaskStatus) string {
	if status.Reason == "" {
		return status.State.String()
	}
	return status.Reason
}

// did notes an action.
func (s *stages) did(now time.Time, act scheduler.Action) {
	s.traces.did(now, act, func(task scheduler.NewTask) time.Time { return s.waiting[task.Pod.UID] })
	switch act := act.(type) {
	case scheduler.Launch:
		for _, task := range act.Tasks {
			if task.Pod == nil {
				continue
			}
			s.launched[task.ID] = now
			if since, ok := s.waiting[task.Pod.UID]; ok && !since.IsZero() {
				s.placement.Observe(now.Sub(since).Seconds())
				s.waiting[task.Pod.UID] = time.Time{} // measured
			}
		}
	case scheduler.Bind:
		if _, again := s.binding[act.Task]; !again {
			s.binding[act.Task] = now
		}
	}
}
