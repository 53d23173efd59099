package localmesos

import (
	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// message is what master and agents send each other. In a real Mesos these are internal and not documented; the names
// follow mesos/src/messages/messages.proto. kind is the name that Faults know it by.
type message interface{ kind() string }

// Master to agent.
type (
	// registered gives a new agent its id, or tells one that came back that it is known again.
	registered struct{ agent api.AgentID }
	// runTask launches a task. launchExecutor says that its executor is to be started for it: the master knows of none. So it
	// is for each task with a command.
	runTask struct {
		framework      mesos.FrameworkInfo
		task           mesos.TaskInfo
		launchExecutor bool
	}
	killTask struct {
		framework api.FrameworkID
		task      api.TaskID
		policy    *mesos.KillPolicy
	}
	shutdownExecutor  struct{ executor executorKey }
	shutdownFramework struct{ framework api.FrameworkID }
	// updateFramework tells that the framework's scheduler (re)subscribed: what it has not acknowledged goes out again.
	updateFramework struct{ framework mesos.FrameworkInfo }
	acknowledge     struct {
		framework api.FrameworkID
		task      api.TaskID
		uuid      string
	}
	// drainAgent has all tasks killed.
	drainAgent struct{ config mesos.DrainConfig }
	// shutdownAgent ends all that the agent runs, and its id.
	shutdownAgent     struct{ forGood bool }
	messageToExecutor struct {
		executor executorKey
		data     []byte
	}
)

// Agent to master.
type (
	// register names all that the agent runs; a new agent has no id and nothing to name.
	register struct {
		info       mesos.AgentInfo
		frameworks []mesos.FrameworkInfo
		executors  []mesos.ExecutorInfo
		tasks      []agentTask
	}
	// update carries a status that waits for its acknowledgement, and the latest one, which may be newer.
	update struct {
		framework api.FrameworkID
		status    mesos.TaskStatus
		latest    mesos.TaskStatus
	}
	exitedExecutor struct {
		executor executorKey
		status   int32 // as wait(2) gives it, -1 if not known
	}
	messageToFramework struct {
		executor executorKey
		data     []byte
	}
)

// executorKey names an executor on one agent.
type executorKey struct {
	framework api.FrameworkID
	executor  api.ExecutorID
}

func (registered) kind() string         { return "REGISTERED" }
func (runTask) kind() string            { return "RUN_TASK" }
func (killTask) kind() string           { return "KILL_TASK" }
func (shutdownExecutor) kind() string   { return "SHUTDOWN_EXECUTOR" }
func (shutdownFramework) kind() string  { return "SHUTDOWN_FRAMEWORK" }
func (updateFramework) kind() string    { return "UPDATE_FRAMEWORK" }
func (acknowledge) kind() string        { return "ACKNOWLEDGE" }
func (drainAgent) kind() string         { return "DRAIN_AGENT" }
func (shutdownAgent) kind() string      { return "SHUTDOWN_AGENT" }
func (messageToExecutor) kind() string  { return "MESSAGE" }
func (register) kind() string           { return "REGISTER" }
func (update) kind() string             { return "UPDATE" }
func (exitedExecutor) kind() string     { return "EXITED_EXECUTOR" }
func (messageToFramework) kind() string { return "MESSAGE" }
