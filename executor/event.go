package executor

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

// Event is something that happened to the executor. The agent's events are described at
// https://mesos.apache.org/documentation/latest/executor-http-api/.
type Event interface{ isEvent() }

// Registration is the agent's answer to the first subscription.
type Registration struct {
	Agent api.AgentID
	// Data is ExecutorInfo.data: an api.Bootstrap as JSON.
	Data []byte
	// AgentResources are the agent's total scalar resources, ExecutorResources those of the executor itself, both by Mesos' names
	// ("cpus", "mem" and "disk" in MB).
	AgentResources, ExecutorResources map[string]float64
}

// Events of the connection to the agent.
type (
	// Started is the first event.
	Started struct{}
	// Subscribed says that the agent has accepted the last Subscribe.
	Subscribed struct{ Registration Registration }
	// Disconnected says that the last Subscribe failed or that its stream of events has ended.
	Disconnected struct{ Reason string }
	// Configured brings the cluster's configuration, which is known only after the registration; see CoreConfig.
	Configured struct{ IdleTimeout time.Duration }
	// Unfit says why this machine cannot run pods; with an empty reason, that it can again. Tasks that have not begun to run fail,
	// and so do new ones: they may run elsewhere.
	Unfit struct{ Reason string }
	// Shutdown says that the agent, or its operator, wants this executor to exit.
	Shutdown struct{}
)

// Events of tasks, from the agent.
type (
	// Launch asks for a task. Make one with NewLaunch.
	Launch struct {
		Task api.TaskID
		Pod  api.PodKey
		UID  types.UID
		// Warm says that the task has no pod: it only keeps this executor running until it is killed. UID is then the task's own.
		Warm bool
		// Info is the agent's own description of the task. It is sent back until the agent has acknowledged an update of the task.
		Info []byte
		// Problem says why the task can never run; empty if it can.
		Problem string
	}
	// Kill asks to end a task. Grace, in seconds, overrides the pod's own grace period unless nil.
	Kill struct {
		Task  api.TaskID
		Grace *int64
	}
	// Acknowledged says that the agent has accepted the update with this id.
	Acknowledged struct {
		Task   api.TaskID
		Update uuid.UUID
	}
)

// Events of the API server: pods that are bound to this node.
type (
	// PodChanged is a pod's new state; the same state may come more than once.
	PodChanged struct{ Pod Pod }
	// PodGone says that the pod's object was removed.
	PodGone struct{ UID types.UID }
)

// Tick says that time has passed; see Core.Deadline.
type Tick struct{}

func (Started) isEvent()      {}
func (Subscribed) isEvent()   {}
func (Disconnected) isEvent() {}
func (Configured) isEvent()   {}
func (Unfit) isEvent()        {}
func (Shutdown) isEvent()     {}
func (Launch) isEvent()       {}
func (Kill) isEvent()         {}
func (Acknowledged) isEvent() {}
func (PodChanged) isEvent()   {}
func (PodGone) isEvent()      {}
func (Tick) isEvent()         {}

// NewLaunch decodes a task that the scheduler made: an id of ours, and the pod as JSON. An error becomes the event's Problem,
// because every launch needs an answer.
func NewLaunch(id api.TaskID, podJSON, info []byte) Launch {
	launch := Launch{Task: id, Info: info}
	uid, _, err := id.Parse()
	if err != nil {
		launch.Problem = err.Error()
		return launch
	}
	if _, warm := id.Warm(); warm {
		launch.UID, launch.Warm = uid, true
		return launch
	}
	var pod corev1.Pod
	switch err := json.Unmarshal(podJSON, &pod); {
	case err != nil:
		launch.Problem = fmt.Sprintf("cannot read the task's pod: %s", err)
	case pod.UID != uid:
		launch.Problem = fmt.Sprintf("the task is for pod UID %s but carries a pod with UID %q", uid, pod.UID)
	case pod.Name == "" || pod.Namespace == "":
		launch.Problem = "the task's pod has no name or no namespace"
	}
	launch.UID, launch.Pod = uid, api.PodKey{Namespace: pod.Namespace, Name: pod.Name}
	return launch
}
