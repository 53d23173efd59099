package scheduler

import "slices"

// TaskState is a task state of Mesos (https://mesos.apache.org/documentation/latest/task-state-reasons/).
type TaskState int

// The task states of Mesos, those for PARTITION_AWARE frameworks included.
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

// String returns the name that Mesos has for the state.
func (s TaskState) String() string {
	return [numStates]string{
		"TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_FINISHED", "TASK_FAILED", "TASK_KILLED",
		"TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_UNREACHABLE", "TASK_GONE", "TASK_GONE_BY_OPERATOR", "TASK_UNKNOWN",
	}[s]
}

// ParseTaskState is the inverse of String; ok is false for a state that this build does not know.
func ParseTaskState(name string) (state TaskState, ok bool) {
	for s := range numStates {
		if s.String() == name {
			return s, true
		}
	}
	return 0, false
}

// unboundFate is what becomes of a pod that is not bound when its task says something.
type unboundFate int

const (
	unboundKeep  unboundFate = iota // wait for more
	unboundBind                     // the executor has the pod: bind it
	unboundRetry                    // the task ended: the pod waits again
)

// boundFate is what becomes of a bound pod when its task says something.
type boundFate int

const (
	boundKeep   boundFate = iota // the kubelet tells the pod's status, nothing to do
	boundOver                    // the executor ended the task, with the pod if the API agrees
	boundResume                  // the executor is gone without the pod: a new task on the same agent
	boundDoubt                   // Mesos does not know the task: as boundResume, once its agent is there
)

// agentFate is what becomes of the agent.
type agentFate int

const (
	agentKeep   agentFate = iota // the update tells nothing about it
	agentAlive                   // the update came from there
	agentAbsent                  // cut off; it may come back
	agentGone                    // it will not come back
)

// fate is a row of the table of task states.
type fate struct {
	unbound unboundFate
	bound   boundFate
	agent   agentFate
	running bool // there may be something to kill if the task is nobody's
}

// fates is the table of all task states: what becomes of an unbound pod, a bound pod, the agent's node.
var fates = [numStates]fate{
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

// executorEnded are the reasons with which an agent ends the tasks of an executor that is gone. The pods themselves
// need not have ended: their containers outlive the executor. An executor uses some of them for a pod that has ended.
var executorEnded = []string{
	"REASON_EXECUTOR_TERMINATED", "REASON_EXECUTOR_UNREGISTERED", "REASON_EXECUTOR_REGISTRATION_TIMEOUT",
	"REASON_EXECUTOR_REREGISTRATION_TIMEOUT", "REASON_CONTAINER_LAUNCH_FAILED", "REASON_CONTAINER_LIMITATION",
	"REASON_CONTAINER_LIMITATION_MEMORY", "REASON_CONTAINER_LIMITATION_DISK", "REASON_CONTAINER_UPDATE_FAILED",
	"REASON_CONTAINER_PREEMPTED", "REASON_AGENT_RESTARTED", "REASON_SLAVE_RESTARTED",
}

func fateOf(s TaskStatus) fate {
	if s.State == GoneByOperator && s.Reason == reasonDraining {
		return fates[Killed] // the agent is still there, and so may be others of its tasks
	}
	f := fates[s.State]
	if f.bound == boundOver && (s.unfit() || !s.ByExecutor && slices.Contains(executorEnded, s.Reason)) {
		f.bound = boundResume
	}
	return f
}

// unfit tells whether it is the executor that says that it is about to end: its minion cannot run pods there.
func (s TaskStatus) unfit() bool {
	return s.ByExecutor && s.State == Failed && s.Reason == "REASON_EXECUTOR_TERMINATED"
}
