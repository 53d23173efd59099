package localmesos

import (
	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// dropLaunch drops a launch that this agent cannot perform, and reports it. If the master expects a new executor, it also reports
// that executor as exited. It returns false if the launch may continue.
func (a *agent) dropLaunch(msg runTask, key executorKey) bool {
	reason, text := a.launchProblem(msg, key)
	if text == "" {
		return false
	}
	a.drop(key, msg.task, reason, text)
	run := a.executors[key]
	switch {
	case !msg.launchExecutor || msg.task.Executor == nil:
	case run == nil || run.phase == ended:
		a.sendExited(key, -1)
	case a.draining == nil:
		a.shutdown(run) // the master does not know it
	}
	if a.draining != nil {
		a.forgetFramework(key.framework)
	}
	return true
}

// launchProblem returns why a launch is dropped, in the words of Slave::__run in src/slave/slave.cpp, or "". An ended
// executor stays TERMINATED until its updates are acknowledged, but the master has already removed it and asks for a new one.
func (a *agent) launchProblem(msg runTask, key executorKey) (mesos.TaskStatus_Reason, string) {
	run := a.executors[key]
	switch {
	case a.draining != nil:
		return mesos.REASON_AGENT_DRAINING, "Task was received while agent was already draining"
	case msg.task.Executor == nil && run != nil:
		return mesos.REASON_TASK_INVALID, "Cannot reuse an already existing executor for a command task"
	case msg.task.Executor == nil:
	case msg.launchExecutor && run != nil:
		return mesos.REASON_EXECUTOR_TERMINATED, "Master wants to launch executor, but one already exists"
	case !msg.launchExecutor && run == nil:
		return mesos.REASON_EXECUTOR_TERMINATED, "No executor is expected to launch and there is none running"
	case run != nil && run.phase == terminating:
		return mesos.REASON_EXECUTOR_TERMINATED, "Executor terminating"
	case run != nil && run.phase == ended:
		return mesos.REASON_EXECUTOR_TERMINATED, "Executor terminated"
	}
	return 0, ""
}

// drop reports TASK_DROPPED. The update is resent until it is acknowledged or its framework has nothing left here. It is not
// checkpointed.
func (a *agent) drop(key executorKey, info mesos.TaskInfo, reason mesos.TaskStatus_Reason, text string) {
	id := api.TaskID(info.TaskID.Value)
	t := &agentTask{framework: key.framework, info: info}
	run := &executorRun{key: key, phase: ended, tasks: map[api.TaskID]*agentTask{id: t}, order: []api.TaskID{id}}
	a.dropped[taskKey{key.framework, id}] = run
	a.update(run, t, agentStatus(stateFor(a.frameworks[key.framework], mesos.TASK_DROPPED), reason, text))
}

// forgetDropped stops updates of a framework's dropped tasks when it has nothing left here.
func (a *agent) forgetDropped(id api.FrameworkID) {
	for key := range a.dropped {
		if key.framework == id {
			delete(a.dropped, key)
		}
	}
}

// sendExited reports the exit of an executor, after the updates of the same step.
func (a *agent) sendExited(key executorKey, status int32) {
	a.unsent = append(a.unsent, func() { a.do(sendMaster{exitedExecutor{key, status}}) })
}
