package mesos

import (
	"fmt"

	"github.com/google/uuid"
	mesosapi "github.com/mesos/mesos-go/api/v1/lib"
	mesosexec "github.com/mesos/mesos-go/api/v1/lib/executor"
	"github.com/mesos/mesos-go/api/v1/lib/executor/calls"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/executor"
)

// translate converts an event of the agent. This executor ignores framework messages.
func translate(event *mesosexec.Event) []executor.Event {
	switch event.Type {
	case mesosexec.Event_SUBSCRIBED:
		return []executor.Event{executor.Subscribed{Registration: registration(event.GetSubscribed())}}
	case mesosexec.Event_LAUNCH:
		return []executor.Event{launch(event.GetLaunch().GetTask())}
	case mesosexec.Event_LAUNCH_GROUP:
		var launches []executor.Event
		for _, task := range event.GetLaunchGroup().GetTaskGroup().Tasks {
			launches = append(launches, launch(task))
		}
		return launches
	case mesosexec.Event_KILL:
		return []executor.Event{kill(event.GetKill())}
	case mesosexec.Event_ACKNOWLEDGED:
		id, err := uuid.FromBytes(event.GetAcknowledged().GetUUID())
		if err != nil {
			return nil // not an id of our updates
		}
		return []executor.Event{executor.Acknowledged{Task: api.TaskID(event.GetAcknowledged().GetTaskID().Value), Update: id}}
	case mesosexec.Event_SHUTDOWN:
		return []executor.Event{executor.Shutdown{}}
	}
	return nil
}

func registration(s *mesosexec.Event_Subscribed) executor.Registration {
	agent, info := s.GetAgentInfo(), s.GetExecutorInfo()
	return executor.Registration{
		Agent:             api.AgentID(agent.GetID().GetValue()),
		Data:              info.GetData(),
		AgentResources:    scalars(agent.Resources),
		ExecutorResources: scalars(info.Resources),
	}
}

// scalars adds up the scalar resources by name, over all roles.
func scalars(resources []mesosapi.Resource) map[string]float64 {
	sums := map[string]float64{}
	for _, r := range resources {
		if r.GetScalar() != nil {
			sums[r.GetName()] += r.GetScalar().GetValue()
		}
	}
	return sums
}

func launch(task mesosapi.TaskInfo) executor.Launch {
	id := api.TaskID(task.TaskID.Value)
	info, err := task.Marshal()
	if err != nil { // cannot happen: it was unmarshalled from the same type
		return executor.Launch{Task: id, Problem: fmt.Sprintf("cannot keep the task's description: %s", err)}
	}
	return executor.NewLaunch(id, task.Data, info)
}

func kill(k *mesosexec.Event_Kill) executor.Kill {
	event := executor.Kill{Task: api.TaskID(k.GetTaskID().Value)}
	if period := k.GetKillPolicy().GetGracePeriod(); period != nil {
		seconds := period.Nanoseconds / 1e9
		event.Grace = &seconds
	}
	return event
}

// subscription encodes a SUBSCRIBE call.
func (a *Agent) subscription(s executor.Subscribe) (*mesosexec.Call, error) {
	tasks := make([]mesosapi.TaskInfo, len(s.Tasks))
	for i, info := range s.Tasks {
		if err := tasks[i].Unmarshal(info); err != nil {
			return nil, fmt.Errorf("cannot decode a task's description: %w", err)
		}
	}
	var updates []mesosexec.Call_Update
	for _, u := range s.Updates {
		updates = append(updates, mesosexec.Call_Update{Status: a.status(u)})
	}
	return calls.Subscribe(tasks, updates), nil
}

var states = map[executor.State]mesosapi.TaskState{
	executor.Starting: mesosapi.TASK_STARTING,
	executor.Running:  mesosapi.TASK_RUNNING,
	executor.Finished: mesosapi.TASK_FINISHED,
	executor.Failed:   mesosapi.TASK_FAILED,
	executor.Killed:   mesosapi.TASK_KILLED,
	executor.Error:    mesosapi.TASK_ERROR,
}

// status encodes an update.
func (a *Agent) status(u executor.Update) mesosapi.TaskStatus {
	status := mesosapi.TaskStatus{
		TaskID:     mesosapi.TaskID{Value: string(u.Task)},
		State:      states[u.State].Enum(),
		Source:     mesosapi.SOURCE_EXECUTOR.Enum(),
		ExecutorID: &mesosapi.ExecutorID{Value: a.cfg.ExecutorID},
		UUID:       u.ID[:],
	}
	if u.Message != "" {
		status.Message = &u.Message
	}
	if reason, ok := reasonOf(u); ok {
		status.Reason = &reason
	}
	if u.Health != executor.UnknownHealth {
		healthy := u.Health == executor.Healthy
		status.Healthy = &healthy
	}
	return status
}

// reasons are Mesos' reasons for our causes (https://mesos.apache.org/documentation/latest/task-state-reasons/). They are named
// after agents and containers; the update's source says that the executor sent them for a pod.
var reasons = map[executor.Cause]mesosapi.TaskStatus_Reason{
	executor.NotLaunched: mesosapi.REASON_CONTAINER_LAUNCH_FAILED,
	executor.OutOfMemory: mesosapi.REASON_CONTAINER_LIMITATION_MEMORY,
	executor.Displaced:   mesosapi.REASON_CONTAINER_PREEMPTED,
	executor.TooLong:     mesosapi.REASON_MAX_COMPLETION_TIME_REACHED,
	executor.NoNode:      mesosapi.REASON_EXECUTOR_TERMINATED, // it is about to exit
}

// reasonOf returns Mesos' reason for an update, if there is one.
func reasonOf(u executor.Update) (reason mesosapi.TaskStatus_Reason, ok bool) {
	switch {
	case u.State == executor.Error:
		return mesosapi.REASON_TASK_INVALID, true
	case u.State == executor.Running && u.Health != executor.UnknownHealth:
		return mesosapi.REASON_TASK_HEALTH_CHECK_STATUS_UPDATED, true
	}
	reason, ok = reasons[u.Cause]
	return reason, ok
}
