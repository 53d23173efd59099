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

// Event is something that happened to the executor. The events of the agent are those of
// https://mesos.apache.org/documentation/latest/executor-http-api/.
type Event interface{ isEvent() }

// Registration is what an agent tells an executor that subscribed.
type Registration struct {
	Agent api.AgentID
	// Data is ExecutorInfo.data: an api.Bootstrap as JSON.
	Data []byte
	// AgentResources are the scalars of all that the agent has, ExecutorResources those that the executor itself takes,
	// both by Mesos' names ("cpus", "mem" and "disk" in MB).
	AgentResources, ExecutorResources map[string]float64
}

// Events of the connection to the agent.
type (
	// Started is the first event of all.
	Started struct{}
	// Subscribed says that the agent has accepted the last Subscribe.
	Subscribed struct{ Registration Registration }
	// Disconnected says that the last Subscribe failed or that its stream of events has ended.
	Disconnected struct{ Reason string }
	// Configured brings what the cluster says, which is known only after the registration; see CoreConfig.
	Configured struct{ SuicideTimeout time.Duration }
	// Unfit says why this machine cannot run pods, or with an empty reason that it can again. Tasks that have not begun to run
	// fail, and so do those that come: elsewhere they may run.
	Unfit struct{ Reason string }
	// Shutdown says that the agent, or whoever runs the agent, wants this executor to end.
	Shutdown struct{}
)

// Events of tasks, from the agent.
type (
	// Launch asks for a task. Make one with NewLaunch.
	Launch struct {
		Task api.TaskID
		Pod  api.PodKey
		UID  types.UID
		// Warm says that the task has no pod: it only keeps this executor up, until it is killed. UID is then its own name.
		Warm bool
		// Info is the agent's own description of the task, given back to it for as long as it has acknowledged nothing of it.
		Info []byte
		// Problem says why the task can never run; empty for a good one.
		Problem string
	}
	// Kill asks for the end of a task. Grace, in seconds, overrides the pod's own grace period unless nil.
	Kill struct {
		Task  api.TaskID
		Grace *int64
	}
	// Acknowledged says that the agent has taken over the update with this id.
	Acknowledged struct {
		Task   api.TaskID
		Update uuid.UUID
	}
)

// Events of the API server: pods that are bound to this node.
type (
	// PodChanged is a pod's new state; the same state may come more than once.
	PodChanged struct{ Pod Pod }
	// PodGone says that the pod's object is no more.
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

// NewLaunch reads a task as the scheduler made it: an id of ours and the pod as JSON. What is wrong with it becomes the
// event's Problem, because a launch needs an answer all the same.
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
		launch.Problem = fmt.Sprintf("the task is for the pod with UID %s but carries the one with UID %q", uid, pod.UID)
	case pod.Name == "" || pod.Namespace == "":
		launch.Problem = "the task's pod has no name or no namespace"
	}
	launch.UID, launch.Pod = uid, api.PodKey{Namespace: pod.Namespace, Name: pod.Name}
	return launch
}
