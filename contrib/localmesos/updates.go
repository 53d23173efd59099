package localmesos

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/executor"

	"github.com/k8sm/k8sm/api"
)

// subscribe follows https://mesos.apache.org/documentation/latest/executor-http-api/#subscribe: an executor that
// reconnects sends its unacknowledged tasks and updates.
func (a *agent) subscribe(e executorSubscribe) {
	run := a.callersRun(e.call, e.who)
	switch {
	case run == nil:
		return
	case run.phase == terminating || run.phase == ended:
		a.do(answer{status: 200})
		a.do(send{stream: e.stream, kind: executor.Event_SHUTDOWN.String(), event: &executor.Event{Type: executor.Event_SHUTDOWN}})
		a.do(hangUp{e.stream})
		return
	case run.stream != "":
		delete(a.streams, run.stream)
		a.do(hangUp{run.stream})
	}
	a.do(answer{status: 200})
	before := run.phase
	if before == recovering {
		a.do(limit{run}) // not all isolators know the limits from the previous agent
	}
	run.stream, run.phase = e.stream, running
	a.streams[e.stream] = run
	if before == starting && len(run.queued) == 0 { // all were killed meanwhile: Slave::subscribe in src/slave/slave.cpp
		a.do(saveRun{run})
		a.shutdown(run)
		return
	}
	a.tell(run, &executor.Event{Type: executor.Event_SUBSCRIBED, Subscribed: &executor.Event_Subscribed{
		ExecutorInfo: run.info, FrameworkInfo: a.frameworks[run.key.framework], AgentInfo: a.info,
		ContainerID: &mesos.ContainerID{Value: run.container},
	}})
	a.takeUpdates(run, e.call.GetSubscribe().GetUnacknowledgedUpdates())
	if before != starting {
		a.dropUnlaunched(run, e.call.GetSubscribe().GetUnacknowledgedTasks())
	}
	for _, id := range run.queued {
		if t := run.tasks[id]; t != nil {
			a.launch(run, t)
		}
	}
	run.queued = nil
	if before == starting {
		a.do(saveRun{run})
	}
	if before == recovering && a.draining != nil {
		a.drainRun(run)
	}
}

// callersRun returns the run of the calling executor. Without one, and to anyone else who has authenticated, it refuses the call.
func (a *agent) callersRun(call *executor.Call, who identity) *executorRun {
	id := api.FrameworkID(call.FrameworkID.Value)
	run := a.executors[executorKey{id, api.ExecutorID(call.ExecutorID.Value)}]
	if _, known := a.frameworks[id]; !known {
		a.do(refused("Framework cannot be found"))
		return nil
	}
	if run == nil || run.command {
		a.do(refused("Executor cannot be found"))
		return nil
	}
	if problem := who.claimsProblem(call, run); problem != "" {
		a.do(answer{status: http.StatusForbidden, text: problem})
		return nil
	}
	return run
}

func (a *agent) takeUpdates(run *executorRun, updates []executor.Call_Update) {
	for i := range updates {
		a.executorUpdate(run, updates[i].Status)
	}
}

// dropUnlaunched ends tasks whose LAUNCH was lost with the executor's former stream.
func (a *agent) dropUnlaunched(run *executorRun, unacknowledged []mesos.TaskInfo) {
	has := map[string]bool{}
	for i := range unacknowledged {
		has[unacknowledged[i].TaskID.Value] = true
	}
	for _, id := range run.order {
		if t := run.tasks[id]; t != nil && t.latest.GetState() == mesos.TASK_STAGING && !has[string(id)] && !slices.Contains(run.queued, id) {
			a.update(run, t, agentStatus(mesos.TASK_DROPPED, mesos.REASON_AGENT_RESTARTED, "Task was launched while its executor was not connected"))
		}
	}
}

// call performs an executor's call that is not SUBSCRIBE.
func (a *agent) call(e executorCall) {
	call, run := e.call, a.callersRun(e.call, e.who)
	if run == nil {
		return
	}
	if run.phase == starting || run.phase == recovering {
		a.do(answer{status: http.StatusForbidden, text: "Executor is not subscribed"})
		return
	}
	switch call.Type {
	case executor.Call_UPDATE:
		if a.executorUpdate(run, call.Update.Status) {
			a.do(accepted)
		}
	case executor.Call_MESSAGE:
		a.counts.add("slave/valid_framework_messages")
		a.do(sendMaster{messageToFramework{run.key, call.Message.Data}})
		a.do(accepted)
	}
}

// executorCallProblem returns what makes an executor call malformed, in Mesos's words, or "" (validateExecutorCall in
// src/common/validation.cpp).
func executorCallProblem(call *executor.Call, _ string) string {
	const prefix = "Failed to validate Executor::Call: "
	switch {
	case call.Type == executor.Call_UNKNOWN:
		return prefix + "Expecting 'type' to be present"
	case call.Type == executor.Call_SUBSCRIBE && call.Subscribe == nil:
		return prefix + "Expecting 'subscribe' to be present"
	case call.Type == executor.Call_UPDATE && call.Update == nil:
		return prefix + "Expecting 'update' to be present"
	case call.Type == executor.Call_UPDATE:
		if problem := updateProblem(call, call.Update.Status); problem != "" {
			return prefix + problem
		}
	case call.Type == executor.Call_MESSAGE && call.Message == nil:
		return prefix + "Expecting 'message' to be present"
	}
	return ""
}

func updateProblem(call *executor.Call, s mesos.TaskStatus) string {
	from := "from executor " + call.ExecutorID.Value + " of framework " + call.FrameworkID.Value
	switch {
	case s.UUID == nil:
		return "Expecting 'uuid' to be present"
	case !validUUID(s.UUID):
		return notUUID
	case s.ExecutorID != nil && s.ExecutorID.Value != call.ExecutorID.Value:
		return "ExecutorID in Call: " + call.ExecutorID.Value + " does not match ExecutorID in TaskStatus: " + s.ExecutorID.Value
	case s.GetSource() != mesos.SOURCE_EXECUTOR:
		return "Received Call " + from + " with invalid source, expecting 'SOURCE_EXECUTOR'"
	case s.GetState() == mesos.TASK_STAGING:
		return "Received TASK_STAGING " + from + " which is not allowed"
	}
	return ""
}

// executorUpdate handles a status from an executor. For an unknown task it only acknowledges, so that the executor stops retrying.
func (a *agent) executorUpdate(run *executorRun, s mesos.TaskStatus) bool {
	switch t := run.tasks[api.TaskID(s.TaskID.Value)]; {
	case t == nil:
		a.counts.add("slave/invalid_status_updates")
	case t.has(s.UUID):
		a.counts.add("slave/valid_status_updates")
	default:
		a.update(run, t, s)
	}
	a.tell(run, &executor.Event{Type: executor.Event_ACKNOWLEDGED, Acknowledged: &executor.Event_Acknowledged{TaskID: s.TaskID, UUID: s.UUID}})
	return true
}

// has reports whether this update is a retry: an executor resends it until it is acknowledged.
func (t *agentTask) has(uuid []byte) bool {
	if string(t.latest.UUID) == string(uuid) {
		return true
	}
	for i := range t.pending {
		if string(t.pending[i].UUID) == string(uuid) {
			return true
		}
	}
	return false
}

// update queues a status. It drops statuses after a terminal one.
func (a *agent) update(run *executorRun, t *agentTask, s mesos.TaskStatus) {
	a.counts.add("slave/valid_status_updates")
	if terminal(t.latest.GetState()) {
		return
	}
	t.pending = append(t.pending, a.complete(run, t, a.drained(run.key.framework, s)))
	t.latest = t.pending[len(t.pending)-1]
	a.countEnd(run, t.latest.GetState())
	if run.container != "" {
		a.do(saveTask{run.container, t})
	}
	if terminal(t.latest.GetState()) && run.phase != ended && !run.destroyed {
		a.do(limit{run})
	}
	if len(t.pending) == 1 {
		t.retry = firstRetry
		a.unsent = append(a.unsent, func() { a.sendUpdate(run, t) })
	}
}

// complete sets the fields that an agent adds to a status.
func (a *agent) complete(run *executorRun, t *agentTask, s mesos.TaskStatus) mesos.TaskStatus {
	s.TaskID, s.AgentID = t.info.TaskID, a.info.ID
	if run.key.executor != "" {
		s.ExecutorID = &mesos.ExecutorID{Value: string(run.key.executor)}
	}
	if s.Timestamp == nil {
		s.Timestamp = a.seconds()
	}
	if len(s.UUID) == 0 {
		s.UUID = uuidBytes(a.newID())
	}
	if s.GetSource() == mesos.SOURCE_EXECUTOR && s.ContainerStatus == nil {
		pid, ip := uint32(run.process.PID), a.plan.IP
		s.ContainerStatus = &mesos.ContainerStatus{
			ContainerID: &mesos.ContainerID{Value: run.container}, ExecutorPID: &pid,
			NetworkInfos: []mesos.NetworkInfo{{IPAddresses: []mesos.NetworkInfo_IPAddress{{IPAddress: &ip}}}},
		}
	}
	return s
}

func (a *agent) seconds() *float64 {
	s := float64(a.now.UnixNano()) / float64(time.Second)
	return &s
}

// sendUpdate sends the oldest pending status and plans the retry.
func (a *agent) sendUpdate(run *executorRun, t *agentTask) {
	s := t.pending[0]
	t.sent = a.now
	a.do(sendMaster{update{framework: t.framework, status: s, latest: t.latest}})
	a.timers.add(a.now.Add(t.retry), resendDue{run.key, api.TaskID(s.TaskID.Value), run.container + string(s.UUID)})
}

func (a *agent) resend(e resendDue) {
	run, t := a.find(e.executor.framework, e.task)
	if t == nil || len(t.pending) == 0 || run.container+string(t.pending[0].UUID) != e.uuid || a.now.Sub(t.sent) < t.retry {
		return
	}
	t.retry = min(2*t.retry, longestRetry)
	a.sendUpdate(run, t)
}

// resendAll resends unacknowledged updates at once, for a new master or scheduler.
func (a *agent) resendAll(run *executorRun) {
	for _, id := range run.order {
		if t := run.tasks[id]; t != nil && len(t.pending) > 0 {
			t.retry = firstRetry
			a.sendUpdate(run, t)
		}
	}
}

// acknowledge stops the retries of a status. A terminal one removes the task.
func (a *agent) acknowledge(msg acknowledge) {
	run, t := a.find(msg.framework, msg.task)
	if t == nil || len(t.pending) == 0 || string(t.pending[0].UUID) != msg.uuid {
		return
	}
	done := terminal(t.pending[0].GetState())
	t.pending = t.pending[1:]
	switch {
	case run.container == "":
		delete(a.dropped, taskKey{msg.framework, msg.task})
	case done:
		delete(run.tasks, msg.task)
		run.order = without(run.order, []api.TaskID{msg.task})
		a.do(removeTask{run.container, msg.task})
		a.cleanUp(run)
	default:
		if len(t.pending) > 0 {
			t.retry = firstRetry
			a.sendUpdate(run, t)
		}
		a.do(saveTask{run.container, t})
	}
}

// agentStatus is a status from the agent itself.
func agentStatus(state mesos.TaskState, reason mesos.TaskStatus_Reason, text string) mesos.TaskStatus {
	return mesos.TaskStatus{State: state.Enum(), Source: mesos.SOURCE_AGENT.Enum(), Reason: reason.Enum(), Message: &text}
}

// commandStatus is a status as the command executor of Mesos would send it.
func commandStatus(state mesos.TaskState, text string) mesos.TaskStatus {
	s := mesos.TaskStatus{State: state.Enum(), Source: mesos.SOURCE_EXECUTOR.Enum()}
	if text != "" {
		s.Message = &text
	}
	return s
}

// commandEnd is the last status of a command with this wait status.
func commandEnd(status int32, killed bool) mesos.TaskStatus {
	w := syscall.WaitStatus(status)
	var text string
	switch {
	case status < 0:
		text = "The agent restarted while the command ran; how it ended is not known"
	case w.Signaled():
		text = "Command terminated with signal " + capitalised(w.Signal().String())
	default:
		text = fmt.Sprintf("Command exited with status %d", w.ExitStatus())
	}
	switch {
	case killed:
		return commandStatus(mesos.TASK_KILLED, text)
	case status == 0:
		return commandStatus(mesos.TASK_FINISHED, text)
	}
	s := commandStatus(mesos.TASK_FAILED, text)
	s.Reason = mesos.REASON_COMMAND_EXECUTOR_FAILED.Enum()
	return s
}

// killCommand ends a command: SIGTERM, and SIGKILL after the grace period.
func (a *agent) killCommand(run *executorRun, t *agentTask, policy *mesos.KillPolicy) {
	if policy == nil {
		policy = t.info.KillPolicy
	}
	grace := commandGrace
	if d := policy.GetGracePeriod(); d != nil {
		grace = time.Duration(d.Nanoseconds)
	}
	run.killed = true
	a.do(saveRun{run})
	if run.phase == running && hasCapability(a.frameworks[t.framework], mesos.FrameworkInfo_Capability_TASK_KILLING_STATE) {
		a.update(run, t, commandStatus(mesos.TASK_KILLING, ""))
	}
	run.phase = terminating
	a.do(terminate{run.process})
	a.timers.add(a.now.Add(grace), graceDue{run.container})
}

func uuidBytes(text string) []byte {
	id := uuid.MustParse(text)
	return id[:]
}

func capitalised(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
