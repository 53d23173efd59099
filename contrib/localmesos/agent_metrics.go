package localmesos

import (
	"context"
	"maps"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// agentCounters count since the agent started. This one has no errors in its recovery, because it does not start with any, and
// preempts nobody.
var agentCounters = []string{
	"slave/recovery_errors", "slave/tasks_finished", "slave/tasks_failed", "slave/tasks_killed", "slave/tasks_lost", "slave/tasks_gone",
	"slave/executors_terminated", "slave/executors_preempted", "slave/valid_status_updates", "slave/invalid_status_updates",
	"slave/valid_framework_messages", "slave/invalid_framework_messages", "slave/container_launch_errors",
	"containerizer/mesos/container_destroy_errors", "containerizer/fetcher/task_fetches_succeeded", "containerizer/fetcher/task_fetches_failed",
}

func newAgentCounts() metrics {
	m := metrics{}
	m.start("", agentCounters...)
	return m
}

// countEnd counts a task that ended. Those that no executor got do not count.
func (a *agent) countEnd(run *executorRun, state mesos.TaskState) {
	switch state {
	case mesos.TASK_FINISHED, mesos.TASK_FAILED, mesos.TASK_KILLED, mesos.TASK_LOST, mesos.TASK_GONE:
		if run.container != "" {
			a.counts.add("slave/" + tasksIn(state))
		}
	}
}

// metrics follows Slave's functions _tasks_staging to _resources_revocable_percent in src/slave/slave.cpp.
func (a *agent) metrics() metrics {
	out := maps.Clone(a.counts)
	out["slave/registered"], out["slave/frameworks_active"] = float64(boolToInt(a.isRegistered)), float64(len(a.frameworks))
	out.start("slave/", "tasks_staging", "tasks_starting", "tasks_running", "tasks_killing", "executors_registering", "executors_running", "executors_terminating")
	var used pool
	for _, run := range a.runs {
		switch run.phase {
		case starting, recovering:
			out.add("slave/executors_registering")
		case running:
			out.add("slave/executors_running")
		case terminating:
			out.add("slave/executors_terminating")
		}
		if run.phase != ended {
			used = used.plus(run.resources())
		}
		for _, t := range run.tasks {
			switch state := t.latest.GetState(); state {
			case mesos.TASK_STAGING, mesos.TASK_STARTING, mesos.TASK_RUNNING, mesos.TASK_KILLING:
				out.add("slave/" + tasksIn(state))
			}
		}
	}
	out.resources("slave/", a.plan.resources.plus(a.plan.oversubscribed), used)
	return out
}

// metrics returns those of the agent. If it does not answer within the timeout, only those that do not need it.
func (n *agentNode) metrics(ctx context.Context, timeout time.Duration) metrics {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out := metrics{}
	out.system()
	out["slave/uptime_secs"], out["slave/recovery_time_secs"] = time.Since(n.started).Seconds(), n.recovery.Seconds()
	seen, _ := see(ctx, n.owner, n.agent.metrics)
	maps.Copy(out, seen)
	return out
}
