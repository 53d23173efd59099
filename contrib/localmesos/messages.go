package localmesos

import (
	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// message is a message between master and agent. In Mesos these are internal; the names follow
// mesos/src/messages/messages.proto. kind is its name in Fault.Kind.
type message interface{ kind() string }

// Master to agent.
type (
	// registered gives a new agent its id, or confirms the registration of a returning one.
	registered struct{ agent api.AgentID }
	// runTask launches a task. launchExecutor is true if the master knows no executor for it, so that the agent must start one.
	// It is always true for a task with a command.
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
	// updateFramework: the framework's scheduler has (re)subscribed, so the agent resends unacknowledged updates.
	updateFramework struct{ framework mesos.FrameworkInfo }
	acknowledge     struct {
		framework api.FrameworkID
		task      api.TaskID
		uuid      string
	}
	// drainAgent kills all tasks.
	drainAgent struct{ config mesos.DrainConfig }
	// shutdownAgent ends everything the agent runs, and its id.
	shutdownAgent     struct{ forGood bool }
	messageToExecutor struct {
		executor executorKey
		data     []byte
	}
)

// Agent to master.
type (
	// register lists everything the agent runs. A new agent has no id and an empty list.
	register struct {
		info       mesos.AgentInfo
		frameworks []mesos.FrameworkInfo
		executors  []mesos.ExecutorInfo
		tasks      []agentTask
	}
	// update has the oldest unacknowledged status and the latest one.
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

// executorKey identifies an executor on one agent.
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
