package scheduler

import "slices"

// TaskState is a task state of Mesos (https://mesos.apache.org/documentation/latest/task-state-reasons/).
type TaskState int

// The task states of Mesos, including those for PARTITION_AWARE frameworks.
const (
	Staging TaskState = iota
	Starting
	Running
	Killing
	Finished
	Failed
	Killed
	Errored
	Lost
	Dropped
	Unreachable
	Gone
	GoneByOperator
	Unknown

	numStates
)

// String returns the state's name in Mesos.
func (s TaskState) String() string {
	return [numStates]string{
		"TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_FINISHED", "TASK_FAILED", "TASK_KILLED",
		"TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_UNREACHABLE", "TASK_GONE", "TASK_GONE_BY_OPERATOR", "TASK_UNKNOWN",
	}[s]
}

// ParseTaskState is the inverse of String; ok is false for an unknown state.
func ParseTaskState(name string) (state TaskState, ok bool) {
	for s := range numStates {
		if s.String() == name {
			return s, true
		}
	}
	return 0, false
}

// unboundReaction is the reaction to a task's update for a pod that is not bound.
type unboundReaction int

const (
	unboundKeep  unboundReaction = iota // wait for the next update
	unboundBind                         // the executor has the pod: bind it
	unboundRetry                        // the task ended: requeue the pod
)

// boundReaction is the reaction to a task's update for a bound pod.
type boundReaction int

const (
	boundKeep   boundReaction = iota // nothing to do: the kubelet writes the pod's status
	boundOver                        // the executor ended the task; the API will show whether the pod ended, too
	boundResume                      // the executor ended but not the pod: launch a new task on the same agent
	boundDoubt                       // Mesos does not know the task: as boundResume, once its agent is there
)

// agentReaction is what an update says about the agent.
type agentReaction int

const (
	agentKeep   agentReaction = iota // nothing
	agentAlive                       // the agent sent the update
	agentAbsent                      // the agent is unreachable and may come back
	agentGone                        // the agent will not come back
)

// reaction is a row of the table of task states.
type reaction struct {
	unbound unboundReaction
	bound   boundReaction
	agent   agentReaction
	running bool // the task may still run
}

// reactions is the table of all task states: the reactions for an unbound pod, a bound pod and the agent.
var reactions = [numStates]reaction{
	Staging:        {unboundKeep, boundKeep, agentKeep, true},
	Starting:       {unboundBind, boundKeep, agentAlive, true},
	Running:        {unboundBind, boundKeep, agentAlive, true},
	Killing:        {unboundKeep, boundKeep, agentAlive, true},
	Finished:       {unboundRetry, boundOver, agentAlive, false},
	Failed:         {unboundRetry, boundOver, agentAlive, false},
	Killed:         {unboundRetry, boundOver, agentAlive, false},
	Errored:        {unboundRetry, boundResume, agentKeep, false},
	Lost:           {unboundRetry, boundDoubt, agentKeep, false},
	Dropped:        {unboundRetry, boundDoubt, agentKeep, false},
	Unreachable:    {unboundRetry, boundKeep, agentAbsent, false},
	Gone:           {unboundRetry, boundDoubt, agentKeep, false},
	GoneByOperator: {unboundRetry, boundDoubt, agentGone, false},
	Unknown:        {unboundRetry, boundDoubt, agentKeep, false},
}

// executorEnded are the reasons in an agent's updates when a task ended with its executor. The pods have not necessarily ended:
// their containers outlive the executor. An executor itself sends some of these reasons for a pod that has ended.
var executorEnded = []string{
	"REASON_EXECUTOR_TERMINATED", "REASON_EXECUTOR_UNREGISTERED", "REASON_EXECUTOR_REGISTRATION_TIMEOUT",
	"REASON_EXECUTOR_REREGISTRATION_TIMEOUT", "REASON_CONTAINER_LAUNCH_FAILED", "REASON_CONTAINER_LIMITATION",
	"REASON_CONTAINER_LIMITATION_MEMORY", "REASON_CONTAINER_LIMITATION_DISK", "REASON_CONTAINER_UPDATE_FAILED",
	"REASON_CONTAINER_PREEMPTED", "REASON_AGENT_RESTARTED", "REASON_SLAVE_RESTARTED",
}

// reactionTo returns the reactions to an update.
func reactionTo(s TaskStatus) reaction {
	if s.State == GoneByOperator && s.Reason == reasonDraining {
		return reactions[Killed] // the agent is still there, and may have other tasks
	}
	r := reactions[s.State]
	if r.bound == boundOver && (s.unfit() || !s.ByExecutor && slices.Contains(executorEnded, s.Reason)) {
		r.bound = boundResume
	}
	return r
}

// unfit reports whether the executor says that it ends because its minion cannot run pods there.
func (s TaskStatus) unfit() bool {
	return s.ByExecutor && s.State == Failed && s.Reason == "REASON_EXECUTOR_TERMINATED"
}
