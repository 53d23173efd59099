package executor

import (
	"fmt"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// State is a task's state in the executor's status updates (https://mesos.apache.org/documentation/latest/task-state-reasons/).
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

// Health is a task's health in Mesos: whether its pod is ready.
type Health int

// A pod's health is unknown until it was ready once, or one of its containers was restarted.
const (
	UnknownHealth Health = iota
	Healthy
	Unhealthy
)

// String names the health, for logs.
func (h Health) String() string { return [...]string{"", "healthy", "unhealthy"}[h] }

// Update is one status update. It keeps its id when it is sent again, so that the agent recognizes it.
type Update struct {
	ID    uuid.UUID
	Task  api.TaskID
	State State
	Report
}

// Report is the content of an update besides the state.
type Report struct {
	Message string
	Cause   Cause
	Health  Health // of a running task
}

// Action is something that the Core wants done. Perform actions in order.
type Action interface{ isAction() }

type (
	// Subscribe asks for a connection to the agent. It carries what the agent has not acknowledged: tasks, as Launch.Info, and
	// updates. The answer is Subscribed or Disconnected.
	Subscribe struct {
		Tasks   [][]byte
		Updates []Update
	}
	// SendUpdate sends an update to the agent. If that fails, drop the connection.
	SendUpdate struct{ Update Update }
	// DeletePod deletes a pod in the API server, with retries until that pod is gone. Grace, in seconds, overrides the pod's own
	// grace period unless nil.
	DeletePod struct {
		Pod   api.PodKey
		UID   types.UID
		Grace *int64
	}
	// StartNode comes once, after the first subscription: start what makes this machine a node.
	StartNode struct{ Registration Registration }
	// Leave is the last action: stop everything on the node, then exit.
	Leave struct{ Reason string }
)

func (Subscribe) isAction()  {}
func (SendUpdate) isAction() {}
func (DeletePod) isAction()  {}
func (StartNode) isAction()  {}
func (Leave) isAction()      {}
