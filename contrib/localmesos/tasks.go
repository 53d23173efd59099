package localmesos

import (
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// completedKept is how many ended tasks of a framework the operator API shows.
const completedKept = 100

// task is what the master knows of one task.
type task struct {
	info      mesos.Task // as the operator API shows it
	latest    mesos.TaskStatus
	executor  executorKey
	used      pool // without its executor; empty after its end
	framework *framework
	agent     *agentEntry
}

func (t *task) id() api.TaskID { return api.TaskID(t.info.TaskID.Value) }
func (t *task) key() taskKey   { return taskKey{t.framework.id, t.id()} }
func (t *task) terminal() bool { return terminal(t.latest.GetState()) }
func (m *master) seconds() *float64 {
	s := float64(m.now.UnixNano()) / float64(time.Second)
	return &s
}

// terminal reports whether a task in this state has ended.
func terminal(s mesos.TaskState) bool {
	switch s {
	case mesos.TASK_FINISHED, mesos.TASK_FAILED, mesos.TASK_KILLED, mesos.TASK_ERROR, mesos.TASK_LOST, mesos.TASK_DROPPED,
		mesos.TASK_GONE, mesos.TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}

// masterStatus is a status from the master itself. It has no uuid, because frameworks must not acknowledge it.
func masterStatus(state mesos.TaskState, reason mesos.TaskStatus_Reason, text string) mesos.TaskStatus {
	return mesos.TaskStatus{State: state.Enum(), Source: mesos.SOURCE_MASTER.Enum(), Reason: reason.Enum(), Message: &text}
}

func (m *master) tellStatus(f *framework, s mesos.TaskStatus) {
	if s.Timestamp == nil {
		s.Timestamp = m.seconds()
	}
	m.tell(f, &scheduler.Event{Type: scheduler.Event_UPDATE, Update: &scheduler.Event_Update{Status: s}})
}

// addTask records a task.
func (m *master) addTask(f *framework, a *agentEntry, info mesos.TaskInfo, latest mesos.TaskStatus) *task {
	state := latest.GetState()
	t := &task{
		framework: f, agent: a, latest: latest, used: poolOf(info.Resources),
		executor: executorKey{f.id, api.ExecutorID(info.TaskID.Value)},
		info: mesos.Task{
			Name: info.Name, TaskID: info.TaskID, FrameworkID: mesos.FrameworkID{Value: string(f.id)}, AgentID: info.AgentID,
			State: &state, Resources: info.Resources, Labels: info.Labels, Discovery: info.Discovery, Container: info.Container,
			HealthCheck: info.HealthCheck, KillPolicy: info.KillPolicy,
		},
	}
	if info.Executor != nil {
		id := info.Executor.ExecutorID
		t.info.ExecutorID, t.executor.executor = &id, api.ExecutorID(id.Value)
	}
	f.tasks[t.id()], a.tasks[t.key()] = t, t
	m.publishTaskAdded(t)
	return t
}

// giveBack frees the resources of an ended task. It may be called again.
func (m *master) giveBack(a *agentEntry, t *task) {
	m.free(a, t.used)
	t.used = nil
}

// forget removes an ended and acknowledged task.
func (m *master) forget(t *task) {
	m.giveBack(t.agent, t)
	delete(t.framework.tasks, t.id())
	delete(t.agent.tasks, t.key())
	t.framework.completed = append(t.framework.completed, t)
	if extra := len(t.framework.completed) - completedKept; extra > 0 {
		t.framework.completed = t.framework.completed[extra:]
	}
	m.checkDrained(t.agent)
}

func (m *master) dropExecutor(a *agentEntry, key executorKey) {
	if x := a.executors[key]; x != nil {
		delete(a.executors, key)
		m.free(a, x.used)
	}
}

// statusUpdate records an agent's status and forwards it.
func (m *master) statusUpdate(a *agentEntry, u update) {
	f := m.frameworks[u.framework]
	t := a.tasks[taskKey{u.framework, api.TaskID(u.status.TaskID.Value)}]
	m.countOutcome("status_updates", f != nil && f.stream != "" && t != nil)
	if f == nil {
		return
	}
	if t != nil {
		m.updateTask(t, u.status, u.latest)
		t.latest, t.info.StatusUpdateState, t.info.StatusUpdateUUID = u.latest, u.status.State, u.status.UUID
		if t.terminal() {
			m.giveBack(a, t)
		}
	}
	m.tellStatus(f, u.status)
}

// updateTask shows a status of a task, and the state in the latest one, to operators (Master::updateTask in src/master/master.cpp). A
// task that has ended stays in that state. The end counts when the latest status has it; Mesos does not count one that waits for
// the acknowledgement of an earlier status.
func (m *master) updateTask(t *task, s, latest mesos.TaskStatus) {
	before, state := t.info.GetState(), latest.GetState()
	if !terminal(before) {
		t.info.State = &state
		if terminal(state) {
			t.framework.counts.add("tasks/terminal/" + metricName(state))
		}
	}
	if t.show(s) {
		m.publishTaskUpdated(t, s)
	}
	over := func(s mesos.TaskState) bool { return terminal(s) || s == mesos.TASK_UNREACHABLE }
	if !over(before) && over(state) {
		m.countEnd(&latest)
	}
}

// show adds a status to those that operators see, in the place of the last one if that has the same state. Like Mesos, it leaves out
// the data. It returns whether the status is news: another state, or the result of a check.
func (t *task) show(s mesos.TaskStatus) (news bool) {
	s.Data = nil
	shown := t.info.Statuses
	last := len(shown) - 1
	news = last < 0 || shown[last].GetState() != s.GetState()
	if !news {
		shown = shown[:last]
	}
	t.info.Statuses = append(shown[:len(shown):len(shown)], s)
	return news || s.GetReason() == mesos.REASON_TASK_CHECK_STATUS_UPDATED || s.GetReason() == mesos.REASON_TASK_HEALTH_CHECK_STATUS_UPDATED
}

// acknowledge forwards an acknowledgement to the agent. One of a terminal status removes the task.
func (m *master) acknowledge(f *framework, call *scheduler.Call_Acknowledge) {
	id := api.TaskID(call.TaskID.Value)
	sent := m.toAgent(call.AgentID.Value, acknowledge{framework: f.id, task: id, uuid: string(call.UUID)})
	m.countOutcome("status_update_acknowledgements", sent)
	t := f.tasks[id]
	if t != nil && string(t.info.StatusUpdateUUID) == string(call.UUID) && terminal(t.info.GetStatusUpdateState()) {
		m.forget(t)
	}
}

// kill forwards a KILL. For an unknown task it answers like reconciliation.
func (m *master) kill(f *framework, call *scheduler.Call_Kill) {
	id := api.TaskID(call.TaskID.Value)
	t := f.tasks[id]
	if t == nil {
		m.count("messages_reconcile_tasks")
		m.tellUnknown(f, call.TaskID, call.AgentID)
		return
	}
	m.toAgent(string(t.agent.id), killTask{f.id, id, call.KillPolicy})
}

// reconcile follows https://mesos.apache.org/documentation/latest/reconciliation/: explicit with tasks, implicit
// without. The master treats tasks of an unreachable agent as unknown (Master::reconcile in src/master/master.cpp).
func (m *master) reconcile(f *framework, tasks []scheduler.Call_Reconcile_Task) {
	if len(tasks) == 0 {
		for _, t := range f.tasks {
			if !t.agent.unreachable {
				m.tellKnown(t)
			}
		}
		return
	}
	for _, named := range tasks {
		if t := f.tasks[api.TaskID(named.TaskID.Value)]; t != nil && !t.agent.unreachable {
			m.tellKnown(t)
		} else {
			m.tellUnknown(f, named.TaskID, named.AgentID)
		}
	}
}

// tellKnown reports the state of the last update from the agent, not a later one that still waits for its acknowledgement.
func (m *master) tellKnown(t *task) {
	state := t.latest.GetState()
	if told := t.info.StatusUpdateState; told != nil {
		state = *told
	}
	s := masterStatus(state, mesos.REASON_RECONCILIATION, "Reconciliation: Latest task state")
	s.TaskID, s.AgentID = t.info.TaskID, &mesos.AgentID{Value: string(t.agent.id)}
	s.ContainerStatus, s.Healthy, s.Labels, s.Data = t.latest.ContainerStatus, t.latest.Healthy, t.latest.Labels, t.latest.Data
	m.tellStatus(t.framework, s)
}

// tellUnknown reports an unknown task: TASK_GONE if its agent is registered, else TASK_UNKNOWN. It reports nothing while its agent
// may still return with it.
func (m *master) tellUnknown(f *framework, id mesos.TaskID, agent *mesos.AgentID) {
	state, text := mesos.TASK_UNKNOWN, "Reconciliation: Task is unknown"
	named := api.AgentID(agent.GetValue())
	a := m.agents[named]
	switch {
	case m.registry.recovered[named] || agent == nil && len(m.registry.recovered) > 0:
		return
	case m.registry.gone[named]:
		state, text = mesos.TASK_GONE_BY_OPERATOR, "Reconciliation: Task is gone"
	case m.registry.lost[named] || a != nil && a.unreachable:
		state, text = mesos.TASK_UNREACHABLE, "Reconciliation: Task is unreachable"
	case a != nil: // also one that is disconnected, in Mesos
		state, text = mesos.TASK_GONE, "Reconciliation: Task is unknown to the agent"
	}
	s := masterStatus(f.stateFor(state), mesos.REASON_RECONCILIATION, text)
	s.TaskID, s.AgentID = id, agent
	m.tellStatus(f, s)
}
