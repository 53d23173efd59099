package executor

import (
	"fmt"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// State is a task's state as the executor tells it (https://mesos.apache.org/documentation/latest/task-state-reasons/).
type State int

// The states that an executor sends. The last four are terminal.
const (
	Starting State = iota + 1
	Running
	Finished
	Failed
	Killed
	Error
)

// String returns Mesos' name of the state.
func (s State) String() string {
	names := map[State]string{
		Starting: "TASK_STARTING", Running: "TASK_RUNNING", Finished: "TASK_FINISHED",
		Failed: "TASK_FAILED", Killed: "TASK_KILLED", Error: "TASK_ERROR",
	}
	if name, ok := names[s]; ok {
		return name
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Health is what Mesos calls a task's health: whether its pod is ready.
type Health int

// A pod's health is unknown until it was ready for the first time, or one of its containers had to be started again.
const (
	UnknownHealth Health = iota
	Healthy
	Unhealthy
)

// String names the health, for logs.
func (h Health) String() string { return [...]string{"", "healthy", "unhealthy"}[h] }

// Update is one status update. Its id stays the same however often it is sent, so that the agent knows it again.
type Update struct {
	ID    uuid.UUID
	Task  api.TaskID
	State State
	Report
}

// Report is what an update says beside the state.
type Report struct {
	Message string
	Cause   Cause
	Health  Health // of a running task
}

// Action is something that the Core wants done. Actions are to be performed in their order.
type Action interface{ isAction() }

type (
	// Subscribe asks for a connection to the agent. It carries what the agent has not acknowledged: the tasks, as Launch.Info,
	// and the updates. Subscribed or Disconnected answers it.
	Subscribe struct {
		Tasks   [][]byte
		Updates []Update
	}
	// SendUpdate sends an update to the agent. If that fails the connection has to be given up.
	SendUpdate struct{ Update Update }
	// DeletePod deletes a pod in the API server, until it worked or that very pod is no more. Grace, in seconds, overrides the
	// pod's own grace period unless nil.
	DeletePod struct {
		Pod   api.PodKey
		UID   types.UID
		Grace *int64
	}
	// StartNode comes once, after the first subscription: what makes this machine a node may be started.
	StartNode struct{ Registration Registration }
	// Leave is the last action: stop what runs on the node, then end.
	Leave struct{ Reason string }
)

func (Subscribe) isAction()  {}
func (SendUpdate) isAction() {}
func (DeletePod) isAction()  {}
func (StartNode) isAction()  {}
func (Leave) isAction()      {}
