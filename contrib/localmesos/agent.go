package localmesos

import (
	"fmt"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/executor"

	"github.com/k8sm/k8sm/api"
)

// agent is the state machine of a Mesos agent. step is its only entry; its owner calls it from one goroutine.
type agent struct {
	plan         plan
	info         mesos.AgentInfo // with an id once the master gave one
	newID        func() string   // makes uuids of 16 bytes' text form
	isRegistered bool            // with the master that was last found
	stopping     bool
	leaving      bool               // it has no id, and registers when its runs have ended
	gone         bool               // it does not register any more
	draining     *mesos.DrainConfig // nil if it does not drain
	ended        bool               // allEnded was said

	frameworks map[api.FrameworkID]mesos.FrameworkInfo
	executors  map[executorKey]*executorRun // those that ended, too, until their updates are acknowledged
	dropped    map[taskKey]*executorRun     // of tasks that no executor got: until their update is acknowledged
	runs       map[string]*executorRun      // by container id
	streams    map[string]*executorRun

	timers  timers
	now     time.Time
	actions []action
	unsent  []func() // updates and what must come after them, sent at the end of a step, when the latest state is settled
}

// phase is where an executor's run stands.
type phase int

const (
	starting    phase = iota // no subscription yet
	recovering               // no subscription since the agent restarted
	running                  // subscribed, or a command's process
	terminating              // asked to exit
	ended                    // its process is gone; updates may still wait for acknowledgement
)

// executorRun is one run of an executor: one process and one sandbox.
type executorRun struct {
	key       executorKey
	info      mesos.ExecutorInfo
	command   bool   // no executor of the framework's, but the task's own command
	container string // names the run
	process   process
	phase     phase
	stream    string
	queued    []api.TaskID // tasks to be sent when it subscribes
	tasks     map[api.TaskID]*agentTask
	order     []api.TaskID    // of tasks, as they were launched
	launched  int             // how many tasks it ever got
	silent    bool            // its framework was removed: send no updates
	fetching  bool            // what its command needs is being fetched
	became    mesos.TaskState // what its tasks are when we ended it
	destroyed bool            // we have ended it for good
	reason    mesos.TaskStatus_Reason
	text      string // why we ended it, when it was us
	killed    bool   // the command was killed on request
}

// process names a process so that a later one with the same id is not taken for it.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // ticks since boot, from /proc/PID/stat
}

// agentTask is a task on an agent.
type agentTask struct {
	framework api.FrameworkID
	number    int // counts up in the order of launches
	info      mesos.TaskInfo
	latest    mesos.TaskStatus
	pending   []mesos.TaskStatus // not acknowledged, oldest first; only the oldest is under way
	retry     time.Duration      // what the next wait for its acknowledgement is
	sent      time.Time
}

const (
	firstRetry   = 10 * time.Second
	longestRetry = 10 * time.Minute
	// registerRetry is how long the agent waits for the answer to its registration.
	registerRetry = time.Second
	// commandGrace is a command's time between SIGTERM and SIGKILL where its task has no kill policy.
	commandGrace = 3 * time.Second
)

// Events of the agent.
type (
	fromMaster struct{ message message }
	// executorSubscribe is a SUBSCRIBE call of an executor.
	executorSubscribe struct {
		stream string
		call   *executor.Call
	}
	executorCall struct{ call *executor.Call }
	// masterFound tells that there is a master to register with.
	masterFound struct{}
	// fetched tells that what the command needs is in the sandbox, or why it is not.
	fetched struct {
		container string
		err       error
	}
	processStarted struct {
		container string
		process   process
	}
	startFailed struct {
		container string
		err       error
	}
	processExited struct {
		container string
		status    int32
	}
	// updateFailed tells that what a container may use could not be changed.
	updateFailed struct {
		container string
		err       error
	}
	// limited tells that a container has taken what it does not have.
	limited struct {
		container string
		limitation
	}
	// stopAgent ends all executors; allEnded is done when there are none.
	stopAgent struct{}
)

// Actions of the agent.
type (
	sendMaster struct{ message message }
	// saveAgent stores the id that the master gave, and how the agent drains.
	saveAgent struct{}
	// fetch brings what the command's URIs name into the sandbox; fetched answers it.
	fetch struct{ run *executorRun }
	// stopFetching ends that, if need be early.
	stopFetching struct{ container string }
	start        struct{ run *executorRun }
	// terminate sends SIGTERM to the process group of a command.
	terminate struct{ process process }
	// destroy kills the process with all that it started, and removes the container's cgroups.
	destroy struct {
		process   process
		container string
	}
	// limit has a container's cgroups allow what its executor and tasks may use.
	limit struct{ run *executorRun }
	// watch posts processExited for a process that this agent did not start.
	watch struct {
		container string
		process   process
	}
	saveRun   struct{ run *executorRun }
	removeRun struct{ container string }
	saveTask  struct {
		container string
		task      *agentTask
	}
	removeTask struct {
		container string
		task      api.TaskID
	}
	allEnded struct{}
)

// Events that the agent sends to itself later.
type (
	resendDue struct {
		executor executorKey
		task     api.TaskID
		uuid     string
	}
	registrationDue struct{ container string }
	registerDue     struct{}
	graceDue        struct{ container string }
)

func newAgent(info mesos.AgentInfo, p plan, newID func() string) *agent {
	return &agent{
		plan: p, info: info, newID: newID,
		frameworks: map[api.FrameworkID]mesos.FrameworkInfo{}, executors: map[executorKey]*executorRun{},
		runs: map[string]*executorRun{}, streams: map[string]*executorRun{}, dropped: map[taskKey]*executorRun{},
	}
}

// wake returns when the agent wants a tick; zero means never.
func (a *agent) wake() time.Time { return a.timers.next() }

// step takes one event at the given time and returns the resulting actions. The owner performs them before the next step: save and
// start refer to the state at that time.
func (a *agent) step(now time.Time, e event) []action {
	a.now, a.actions = now, nil
	for _, due := range a.timers.due(now) {
		a.handle(due)
	}
	a.handle(e)
	for _, sendFirst := range a.unsent {
		sendFirst()
	}
	a.unsent = nil
	return a.actions
}

func (a *agent) handle(e event) {
	switch e := e.(type) {
	case fromMaster:
		a.fromMaster(e.message)
	case executorSubscribe:
		a.subscribe(e)
	case executorCall:
		a.call(e.call)
	case streamClosed:
		if run := a.streams[e.stream]; run != nil {
			delete(a.streams, e.stream)
			run.stream = ""
		}
	case masterFound:
		a.isRegistered = false
		a.register()
	case registerDue:
		if !a.isRegistered {
			a.register()
		}
	case fetched:
		a.fetched(e)
	case processStarted:
		a.started(e)
	case startFailed:
		a.startFailed(e)
	case processExited:
		a.exited(e)
	case updateFailed:
		a.updateFailed(e)
	case limited:
		a.limited(e)
	case recovered:
		a.recover(e)
	case stopAgent:
		a.stop()
	case resendDue:
		a.resend(e)
	case registrationDue:
		a.registrationDue(e.container)
	case graceDue:
		if run := a.runs[e.container]; run != nil && run.phase == terminating {
			a.destroy(run)
		}
	}
}

func (a *agent) do(x action) { a.actions = append(a.actions, x) }

func (a *agent) id() string { return a.info.GetID().GetValue() }

// register names all that this agent has to a master.
func (a *agent) register() {
	if a.stopping || a.gone {
		return
	}
	if a.leaving && len(a.runs) > 0 {
		a.timers.add(a.now.Add(registerRetry), registerDue{})
		return
	}
	r := register{info: a.info}
	for _, info := range a.frameworks {
		r.frameworks = append(r.frameworks, info)
	}
	for _, run := range a.runs {
		if !run.command && run.phase != ended && !run.silent {
			r.executors = append(r.executors, run.info)
		}
		for _, t := range run.tasks {
			r.tasks = append(r.tasks, agentTask{framework: t.framework, info: t.info, latest: t.latest})
		}
	}
	a.do(sendMaster{r})
	a.timers.add(a.now.Add(registerRetry), registerDue{})
}

func (a *agent) fromMaster(msg message) {
	switch msg := msg.(type) {
	case registered:
		a.registered(msg.agent)
	case runTask:
		a.runTask(msg)
	case killTask:
		a.kill(msg)
	case shutdownExecutor:
		if run := a.executors[msg.executor]; run != nil {
			a.shutdown(run)
		}
	case shutdownFramework:
		a.shutdownFramework(msg.framework)
	case updateFramework:
		a.updateFramework(msg.framework)
	case drainAgent:
		a.drain(msg.config)
	case shutdownAgent:
		a.leave(msg.forGood)
	case acknowledge:
		a.acknowledge(msg)
	case messageToExecutor:
		if run := a.executors[msg.executor]; run != nil && run.stream != "" {
			a.tell(run, &executor.Event{Type: executor.Event_MESSAGE, Message: &executor.Event_Message{Data: msg.data}})
		}
	}
}

// registered stores the id, and sends again what the master before may have missed.
func (a *agent) registered(id api.AgentID) {
	a.isRegistered, a.leaving = true, false
	if a.id() != string(id) {
		a.info.ID = &mesos.AgentID{Value: string(id)}
		a.do(saveAgent{})
	}
	for _, run := range a.runs {
		a.resendAll(run)
	}
	for _, run := range a.dropped {
		a.resendAll(run)
	}
}

func (a *agent) updateFramework(info mesos.FrameworkInfo) {
	id := api.FrameworkID(info.GetID().GetValue())
	if _, known := a.frameworks[id]; !known {
		return
	}
	a.frameworks[id] = info
	for _, run := range a.runs {
		if run.key.framework == id {
			a.do(saveRun{run})
			a.resendAll(run)
		}
	}
	for key, run := range a.dropped {
		if key.framework == id {
			a.resendAll(run)
		}
	}
}

// runTask starts a task: on its executor if that runs, else with a new one (Slave::__run in src/slave/slave.cpp).
func (a *agent) runTask(msg runTask) {
	if a.stopping || a.leaving {
		return
	}
	id := api.FrameworkID(msg.framework.GetID().GetValue())
	a.frameworks[id] = msg.framework
	key := executorKey{id, api.ExecutorID(msg.task.TaskID.Value)}
	if msg.task.Executor != nil {
		key.executor = api.ExecutorID(msg.task.Executor.ExecutorID.Value)
	}
	if a.dropLaunch(msg, key) {
		return
	}
	run := a.executors[key]
	if run == nil {
		run = a.newRun(key, msg.task)
	}
	t := &agentTask{framework: id, info: msg.task, latest: mesos.TaskStatus{
		TaskID: msg.task.TaskID, AgentID: a.info.ID, State: mesos.TASK_STAGING.Enum(),
	}}
	task := api.TaskID(msg.task.TaskID.Value)
	run.tasks[task] = t
	run.order = append(run.order, task)
	run.launched++
	t.number = run.launched
	a.do(saveTask{run.container, t})
	if run.process != (process{}) {
		a.do(limit{run})
	}
	switch {
	case run.command:
	case run.stream != "":
		a.launch(run, t)
	default:
		run.queued = append(run.queued, task)
	}
}

// newRun makes an executor's run and has its process started.
func (a *agent) newRun(key executorKey, task mesos.TaskInfo) *executorRun {
	run := &executorRun{key: key, container: a.newID(), tasks: map[api.TaskID]*agentTask{}}
	if task.Executor != nil {
		run.info = *task.Executor
	} else {
		run.command = true
		run.info = mesos.ExecutorInfo{
			ExecutorID: mesos.ExecutorID{Value: string(key.executor)}, FrameworkID: &mesos.FrameworkID{Value: string(key.framework)},
			Command: task.Command,
		}
	}
	a.executors[key], a.runs[run.container] = run, run
	if len(run.info.Command.URIs) > 0 {
		run.fetching = true
		a.do(fetch{run})
		if !run.command { // Mesos counts the time that it takes
			a.timers.add(a.now.Add(a.plan.ExecutorRegistrationTimeout), registrationDue{run.container})
		}
		return run
	}
	a.do(start{run})
	return run
}

// fetched starts a run whose sandbox is complete, unless it has been killed.
func (a *agent) fetched(e fetched) {
	run := a.runs[e.container]
	if run == nil || !run.fetching {
		return
	}
	run.fetching = false
	if run.phase != terminating { // else it was said already
		a.do(stopFetching{run.container})
	}
	switch {
	case run.phase == terminating:
		a.exited(processExited{container: e.container, status: -1})
	case e.err != nil:
		a.startFailed(startFailed{e.container, fmt.Errorf("%s '%s': %w", fetchFailed, e.container, e.err)})
	default:
		a.do(start{run})
	}
}

func (a *agent) launch(run *executorRun, t *agentTask) {
	a.tell(run, &executor.Event{Type: executor.Event_LAUNCH, Launch: &executor.Event_Launch{Task: t.info}})
}

func (a *agent) tell(run *executorRun, e *executor.Event) {
	a.do(send{stream: run.stream, event: e, kind: e.Type.String()})
}

// kill passes a KILL to the executor; one that has not subscribed never sees the task.
func (a *agent) kill(msg killTask) {
	run, t := a.find(msg.framework, msg.task)
	switch {
	case t == nil:
		a.unknownTask(msg)
	case terminal(t.latest.GetState()):
	case !run.command && (run.phase == terminating || run.phase == ended): // Slave::kill passes it over
	case run.command:
		a.killCommand(run, t, msg.policy)
	case run.stream != "":
		a.tell(run, &executor.Event{Type: executor.Event_KILL, Kill: &executor.Event_Kill{TaskID: t.info.TaskID, KillPolicy: msg.policy}})
	case run.phase == starting:
		// Its executor goes on starting, and is shut down when it subscribes: Slave::kill and Slave::subscribe in
		// src/slave/slave.cpp.
		run.queued = without(run.queued, []api.TaskID{msg.task})
		a.update(run, t, agentStatus(mesos.TASK_KILLED, mesos.REASON_TASK_KILLED_DURING_LAUNCH, "Killed before delivery to the executor"))
	}
}

// unknownTask tells of a task that the master has and this agent never got. Of a framework that has nothing here it says
// nothing (Slave::killTask in src/slave/slave.cpp).
func (a *agent) unknownTask(msg killTask) {
	if _, known := a.frameworks[msg.framework]; !known {
		return
	}
	a.drop(executorKey{framework: msg.framework}, mesos.TaskInfo{TaskID: mesos.TaskID{Value: string(msg.task)}},
		mesos.REASON_EXECUTOR_TERMINATED, "Cannot find executor")
}

func (a *agent) find(framework api.FrameworkID, task api.TaskID) (*executorRun, *agentTask) {
	for _, run := range a.runs {
		if t := run.tasks[task]; t != nil && run.key.framework == framework {
			return run, t
		}
	}
	if run := a.dropped[taskKey{framework, task}]; run != nil {
		return run, run.tasks[task]
	}
	return nil, nil
}

// resources are those of the executor and of its tasks that are not over.
func (run *executorRun) resources() pool {
	sum := poolOf(run.info.Resources)
	for _, t := range run.tasks {
		if !terminal(t.latest.GetState()) {
			sum = sum.plus(poolOf(t.info.Resources))
		}
	}
	return sum
}

// shutdown asks an executor to end, and ends it after its grace period.
func (a *agent) shutdown(run *executorRun) {
	if run.phase == terminating || run.phase == ended {
		return
	}
	switch {
	case run.command:
		run.phase = terminating
		a.do(terminate{run.process})
	case run.stream != "":
		run.phase = terminating
		a.tell(run, &executor.Event{Type: executor.Event_SHUTDOWN})
	default:
		a.end(run, mesos.REASON_EXECUTOR_TERMINATED, "Executor terminated")
		return
	}
	a.timers.add(a.now.Add(a.grace(run)), graceDue{run.container})
}

// end kills an executor at once.
func (a *agent) end(run *executorRun, reason mesos.TaskStatus_Reason, text string) {
	run.phase, run.became, run.reason, run.text = terminating, mesos.TASK_FAILED, reason, text
	if run.fetching {
		a.do(stopFetching{run.container})
	}
	a.destroy(run)
}

func (a *agent) destroy(run *executorRun) {
	run.destroyed = true
	a.do(destroy{run.process, run.container})
}

func (a *agent) grace(run *executorRun) time.Duration {
	if d := run.info.ShutdownGracePeriod; d != nil {
		return time.Duration(d.Nanoseconds)
	}
	return a.plan.ExecutorShutdownGracePeriod
}

func (a *agent) shutdownFramework(id api.FrameworkID) {
	for _, run := range a.runs {
		if run.key.framework == id {
			run.silent = true
			a.shutdown(run)
			a.cleanUp(run)
		}
	}
	a.forgetFramework(id)
}

// stop ends everything for a clean end of the agent.
func (a *agent) stop() {
	a.stopping = true
	for _, run := range a.runs {
		run.silent = true
		a.shutdown(run)
		a.cleanUp(run)
	}
	a.checkEnded()
}

// checkEnded says once that a stopping agent runs nothing any more.
func (a *agent) checkEnded() {
	if a.stopping && !a.ended && len(a.runs) == 0 {
		a.ended = true
		a.do(allEnded{})
	}
}

// cleanUp forgets a run that is over and has nothing left to tell.
func (a *agent) cleanUp(run *executorRun) {
	if run.phase != ended || !run.silent && len(run.tasks) > 0 {
		return
	}
	delete(a.runs, run.container)
	if a.executors[run.key] == run {
		delete(a.executors, run.key)
	}
	a.do(removeRun{run.container})
	a.forgetFramework(run.key.framework)
	a.checkEnded()
}

// forgetFramework forgets a framework that has no executor here. With the last of them ends the draining
// (Slave::removeFramework and Slave::updateDrainStatus in src/slave/slave.cpp).
func (a *agent) forgetFramework(id api.FrameworkID) {
	for _, run := range a.runs {
		if run.key.framework == id {
			return
		}
	}
	delete(a.frameworks, id)
	a.forgetDropped(id)
	if a.draining != nil && len(a.frameworks) == 0 {
		a.draining = nil
		a.do(saveAgent{})
	}
}

// started records a process. For a command task it sends TASK_STARTING and TASK_RUNNING at once, because no executor does.
func (a *agent) started(e processStarted) {
	run := a.runs[e.container]
	if run == nil {
		return
	}
	run.process = e.process
	a.do(saveRun{run})
	if run.phase == terminating {
		a.destroy(run)
		return
	}
	if !run.command {
		if len(run.info.Command.URIs) == 0 {
			a.timers.add(a.now.Add(a.plan.ExecutorRegistrationTimeout), registrationDue{run.container})
		}
		return
	}
	run.phase = running
	for _, t := range run.tasks {
		a.update(run, t, commandStatus(mesos.TASK_STARTING, ""))
		a.update(run, t, commandStatus(mesos.TASK_RUNNING, ""))
	}
}

// fetchFailed is how Mesos begins to say that a container's files could not be had.
const fetchFailed = "Failed to fetch all URIs for container"

func (a *agent) startFailed(e startFailed) {
	run := a.runs[e.container]
	if run == nil {
		return
	}
	run.became, run.reason, run.text = mesos.TASK_FAILED, mesos.REASON_CONTAINER_LAUNCH_FAILED, fmt.Sprintf("Failed to launch container: %v", e.err)
	a.exited(processExited{container: e.container, status: -1})
}

// updateFailed ends a container whose limits could not be changed; its tasks are gone (___run and __statusUpdate of
// src/slave/slave.cpp).
func (a *agent) updateFailed(e updateFailed) {
	if run := a.runs[e.container]; run != nil && !run.destroyed && run.phase != ended {
		a.end(run, mesos.REASON_CONTAINER_UPDATE_FAILED, fmt.Sprintf("Failed to update resources for container: %v", e.err))
		run.became = stateFor(a.frameworks[run.key.framework], mesos.TASK_GONE)
	}
}

// limited ends a container; its tasks have failed (MesosContainerizerProcess::limited of
// src/slave/containerizer/mesos/containerizer.cpp).
func (a *agent) limited(e limited) {
	if run := a.runs[e.container]; run != nil && !run.destroyed && run.phase != ended {
		a.end(run, e.reason, e.text)
	}
}

// registrationDue ends an executor that did not subscribe in time.
func (a *agent) registrationDue(container string) {
	run := a.runs[container]
	switch {
	case run == nil:
	case run.phase == starting:
		a.end(run, mesos.REASON_EXECUTOR_REGISTRATION_TIMEOUT, "Executor did not register within "+a.plan.ExecutorRegistrationTimeout.String())
	case run.phase == recovering:
		a.end(run, mesos.REASON_EXECUTOR_REREGISTRATION_TIMEOUT, "Executor did not reregister within "+a.plan.ExecutorReregistrationTimeout.String())
	}
}

// exited ends the tasks of an executor whose process is gone, and what that process left behind. The run stays, and its
// executor's id with it, until all of its updates are acknowledged (Slave::executorTerminated in src/slave/slave.cpp).
func (a *agent) exited(e processExited) {
	run := a.runs[e.container]
	if run == nil || run.phase == ended {
		return
	}
	run.phase = ended
	a.do(destroy{run.process, run.container})
	if run.stream != "" {
		delete(a.streams, run.stream)
		a.do(hangUp{run.stream})
		run.stream = ""
	}
	for _, id := range run.order {
		if t := run.tasks[id]; t != nil && !run.silent && !terminal(t.latest.GetState()) {
			a.update(run, t, run.lastStatus(e.status))
		}
	}
	if !run.command && !run.silent {
		a.sendExited(run.key, e.status)
	}
	a.do(saveRun{run})
	a.cleanUp(run)
}

// lastStatus returns the final status of a task whose process is gone.
func (run *executorRun) lastStatus(status int32) mesos.TaskStatus {
	switch {
	case run.text != "":
		return agentStatus(run.became, run.reason, run.text)
	case run.command:
		return commandEnd(status, run.killed)
	}
	return agentStatus(mesos.TASK_FAILED, mesos.REASON_EXECUTOR_TERMINATED, "Executor terminated")
}
