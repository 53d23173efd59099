package localmesos

import (
	"errors"
	"net/http"
	"syscall"

	"github.com/google/uuid"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/executor"
)

// Executor is an executor inside this program, instead of the command in its ExecutorInfo. It ends with its agent, or when it is
// shut down or killed.
type Executor interface {
	// Handle handles an event of the agent (https://mesos.apache.org/documentation/latest/executor-http-api/#events) and
	// returns status updates, which need only task and state. They are sent once. One goroutine calls it, and never after
	// SHUTDOWN.
	Handle(*executor.Event) []mesos.TaskStatus
}

// Hollow is an executor that runs nothing: tasks are running as soon as they are launched, and killed as soon as they get KILL.
type Hollow struct{}

// Handle implements Executor.
func (Hollow) Handle(e *executor.Event) []mesos.TaskStatus {
	switch e.Type {
	case executor.Event_LAUNCH:
		id := e.Launch.Task.TaskID
		return []mesos.TaskStatus{
			{TaskID: id, State: mesos.TASK_STARTING.Enum()}, {TaskID: id, State: mesos.TASK_RUNNING.Enum()},
		}
	case executor.Event_KILL:
		return []mesos.TaskStatus{{TaskID: e.Kill.TaskID, State: mesos.TASK_KILLED.Enum()}}
	}
	return nil
}

// startInside starts an executor in this program.
func (n *agentNode) startInside(run *executorRun) (process, error) {
	if run.command {
		return process{}, errors.New("this local Mesos runs executors inside its own program, and cannot run commands")
	}
	x, key := n.plan.Executors(run.info), run.key
	return n.processes.startInside(func(quit <-chan struct{}) int32 { return n.converse(key, x, quit) }), nil
}

// converse passes events and calls between an agent and an executor in this program, in place of HTTP. It returns a wait status, as
// a process would.
func (n *agentNode) converse(key executorKey, x Executor, quit <-chan struct{}) (status int32) {
	const killed = int32(syscall.SIGKILL)
	s := n.streams.add(0)
	defer n.streams.remove(s)
	subscription := executor.Call{Type: executor.Call_SUBSCRIBE, Subscribe: &executor.Call_Subscribe{}}
	if n.owner.ask(executorSubscribe{stream: s.id, call: key.sign(subscription)}).status != http.StatusOK {
		return killed
	}
	defer n.owner.post(streamClosed{s.id})
	for {
		select {
		case <-quit:
			return killed
		case <-n.owner.quit:
			return killed
		case <-s.events.ready:
		}
		for _, m := range s.events.take() {
			e, ok := m.(*executor.Event)
			if !ok {
				return 0 // the agent has hung up
			}
			for _, update := range x.Handle(e) {
				n.takeUpdate(key, update)
			}
			if e.Type == executor.Event_SHUTDOWN {
				return 0
			}
		}
	}
}

// takeUpdate passes an update of an executor in this program to the agent.
func (n *agentNode) takeUpdate(key executorKey, s mesos.TaskStatus) {
	id := uuid.New()
	s.UUID, s.Source = id[:], mesos.SOURCE_EXECUTOR.Enum()
	call := key.sign(executor.Call{Type: executor.Call_UPDATE, Update: &executor.Call_Update{Status: s}})
	n.hub.faults.pass(ExecutorToAgent, call.Type.String(), func() { n.owner.post(executorCall{call: call}) })
}

// sign sets the framework and executor ids in a call.
func (k executorKey) sign(call executor.Call) *executor.Call {
	call.FrameworkID, call.ExecutorID = mesos.FrameworkID{Value: string(k.framework)}, mesos.ExecutorID{Value: string(k.executor)}
	return &call
}
