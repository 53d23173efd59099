package localmesos

import (
	"bytes"
	"fmt"
	"strings"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/api"
)

// launch is the state of an ACCEPT: the rest of its offers' resources.
type launch struct {
	framework *framework
	agent     *agentEntry
	role      string
	rest      pool
}

// launch checks one task as Mesos does, and starts it or reports the error.
func (m *master) launch(l *launch, info mesos.TaskInfo) {
	l.complete(&info)
	needed := poolOf(info.Resources)
	var executorNeeds pool
	problem := m.taskProblem(l, &info)
	if problem == "" && info.Executor != nil && l.agent.executors[l.executorKey(&info)] == nil {
		executorNeeds = poolOf(info.Executor.Resources)
	}
	if total := needed.plus(executorNeeds); problem == "" && !l.rest.contains(total) {
		problem = fmt.Sprintf("Total resources %s required by task and its executor is more than available %s", total, l.rest.rangesFirst())
	}
	if problem != "" {
		m.refuseTask(l.framework, info, problem)
		return
	}
	l.rest = l.rest.minus(needed).minus(executorNeeds)
	launchExecutor := info.Executor == nil
	if info.Executor != nil && l.agent.executors[l.executorKey(&info)] == nil {
		launchExecutor = true
		l.agent.executors[l.executorKey(&info)] = &executorEntry{info: *info.Executor, used: executorNeeds}
	}
	l.framework.count("operations", mesos.Offer_Operation_LAUNCH)
	m.addTask(l.framework, l.agent, info, mesos.TaskStatus{
		TaskID: info.TaskID, AgentID: &info.AgentID, State: mesos.TASK_STAGING.Enum(), Timestamp: m.seconds(),
	})
	m.do(sendAgent{l.agent.id, runTask{framework: l.framework.info, task: info, launchExecutor: launchExecutor}})
}

// complete sets the same defaults as Mesos: allocation, the executor's framework and type, a command's shell.
func (l *launch) complete(info *mesos.TaskInfo) {
	info.Resources = l.allocate(info.Resources)
	if info.Executor == nil {
		return
	}
	x := *info.Executor
	x.Resources = l.allocate(x.Resources)
	if x.FrameworkID == nil {
		x.FrameworkID = &mesos.FrameworkID{Value: string(l.framework.id)}
	}
	if x.Type == mesos.ExecutorInfo_UNKNOWN {
		x.Type = mesos.ExecutorInfo_CUSTOM
	}
	info.Executor = &x
}

func (l *launch) allocate(resources []mesos.Resource) []mesos.Resource {
	out := make([]mesos.Resource, len(resources))
	for i, r := range resources {
		if r.AllocationInfo == nil {
			role := l.role
			r.AllocationInfo = &mesos.Resource_AllocationInfo{Role: &role}
		}
		out[i] = r
	}
	return out
}

func (l *launch) executorKey(info *mesos.TaskInfo) executorKey {
	return executorKey{l.framework.id, api.ExecutorID(info.Executor.ExecutorID.Value)}
}

func (m *master) refuseTask(f *framework, info mesos.TaskInfo, problem string) {
	s := masterStatus(mesos.TASK_ERROR, mesos.REASON_TASK_INVALID, problem)
	s.TaskID, s.AgentID = info.TaskID, &mesos.AgentID{Value: info.AgentID.Value}
	m.countEnd(&s)
	m.tellStatus(f, s)
}

// taskProblem returns why Mesos refuses a task regardless of the offer, or "".
func (m *master) taskProblem(l *launch, info *mesos.TaskInfo) string {
	switch {
	case idProblem(info.TaskID.Value) != "":
		return idProblem(info.TaskID.Value)
	case l.framework.tasks[api.TaskID(info.TaskID.Value)] != nil:
		return "Task has duplicate ID: " + info.TaskID.Value
	case info.AgentID.Value != string(l.agent.id):
		return fmt.Sprintf("Task uses invalid agent %s while agent %s is expected", info.AgentID.Value, l.agent.id)
	case info.GetKillPolicy().GetGracePeriod().GetNanoseconds() < 0:
		return "Task's 'kill_policy.grace_period' must be non-negative"
	case (info.Command == nil) == (info.Executor == nil):
		return "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
	case poolOf(info.Resources).empty():
		return "Task uses no resources"
	case poolOf(info.Resources).mixed() != "":
		return "Task mixes revocable and non-revocable resources: " + mixedText(poolOf(info.Resources))
	case info.Executor != nil:
		return m.executorProblem(l, info)
	}
	return ""
}

func (m *master) executorProblem(l *launch, info *mesos.TaskInfo) string {
	x := info.Executor
	switch {
	case idProblem(x.ExecutorID.Value) != "":
		return idProblem(x.ExecutorID.Value)
	case x.FrameworkID.Value != string(l.framework.id):
		return fmt.Sprintf("ExecutorInfo has an invalid FrameworkID (Actual: %s vs Expected: %s)", x.FrameworkID.Value, l.framework.id)
	case x.Type == mesos.ExecutorInfo_DEFAULT:
		return "The local Mesos has no default executor"
	case x.Command == nil:
		return "'ExecutorInfo.command' must be set for 'CUSTOM' executor"
	}
	if both := poolOf(info.Resources).plus(poolOf(x.Resources)); both.mixed() != "" {
		return "Task and its executor mix revocable and non-revocable resources: " + mixedText(both)
	}
	running := l.agent.executors[l.executorKey(info)]
	if running != nil && !sameExecutor(running.info, *x) {
		return fmt.Sprintf("ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID.\nExisting ExecutorInfo:\n%s\nExecutorInfo:\n%s", running.info.String(), x.String())
	}
	return ""
}

func mixedText(p pool) string {
	return "Cannot use both revocable and non-revocable '" + p.mixed() + "' at the same time"
}

// sameExecutor compares all fields, as Mesos does.
func sameExecutor(a, b mesos.ExecutorInfo) bool {
	x, err1 := a.Marshal()
	y, err2 := b.Marshal()
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// idProblem returns why Mesos refuses an id that becomes part of a path, or "".
func idProblem(id string) string {
	switch {
	case id == "":
		return "ID must not be empty"
	case id == "." || id == "..":
		return "'" + id + "' is disallowed"
	case len(id) > 255:
		return "ID must not be greater than 255 characters"
	case strings.ContainsAny(id, "/\\") || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "'" + id + "' contains invalid characters"
	}
	return ""
}
