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
	newID        func() string   // returns a new UUID as text
	isRegistered bool            // with the current master
	stopping     bool
	leaving      bool               // it gave up its id, and registers again when its runs have ended
	gone         bool               // it never registers again
	draining     *mesos.DrainConfig // nil if it does not drain
	ended        bool               // it has returned allEnded
	counts       metrics            // since the start

	frameworks map[api.FrameworkID]mesos.FrameworkInfo
	executors  map[executorKey]*executorRun // an ended one stays until its updates are acknowledged
	dropped    map[taskKey]*executorRun     // tasks that no executor got, until their update is acknowledged
	runs       map[string]*executorRun      // by container id
	streams    map[string]*executorRun

	timers  timers
	now     time.Time
	actions []action
	unsent  []func() // updates and what follows them, sent at the end of a step, when the latest state is known
}

// phase of an executor's run.
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
	command   bool   // the task has a command instead of an executor
	container string // id of the run
	process   process
	phase     phase
	stream    string
	queued    []api.TaskID // tasks to send when it subscribes
	tasks     map[api.TaskID]*agentTask
	order     []api.TaskID    // tasks in the order of their launch
	launched  int             // number of tasks launched so far
	silent    bool            // its framework was removed: send no updates
	fetching  bool            // the fetcher is running
	became    mesos.TaskState // final state of its tasks if we ended it
	destroyed bool            // its container was destroyed
	reason    mesos.TaskStatus_Reason
	text      string // why we ended it, if we did
	killed    bool   // the command was killed on request
}

// process identifies a process even if its PID is reused.
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
	pending   []mesos.TaskStatus // not acknowledged, oldest first; only the oldest has been sent
	retry     time.Duration      // how long to wait for the next acknowledgement
	sent      time.Time
}

const (
	firstRetry   = 10 * time.Second
	longestRetry = 10 * time.Minute
	// registerRetry is how long the agent waits before it registers again.
	registerRetry = time.Second
	// commandGrace is a command's time between SIGTERM and SIGKILL if its task has no kill policy.
	commandGrace = 3 * time.Second
)

// Events of the agent.
type (
	fromMaster struct{ message message }
	// executorSubscribe is a SUBSCRIBE call of an executor.
	executorSubscribe struct {
		stream string
		call   *executor.Call
		who    identity
	}
	executorCall struct {
		call *executor.Call
		who  identity
	}
	// masterFound: there is a master to register with.
	masterFound struct{}
	// fetched: the fetcher has ended, with an error if it failed.
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
	// updateFailed: changing a container's limits failed.
	updateFailed struct {
		container string
		err       error
	}
	// limited: a container has exceeded its resources.
	limited struct {
		container string
		limitation
	}
	// stopAgent ends all executors; the agent returns allEnded when none is left.
	stopAgent struct{}
)

// Actions of the agent.
type (
	sendMaster struct{ message message }
	// saveAgent stores the agent's id and its drain configuration.
	saveAgent struct{}
	// fetch downloads the command's URIs into the sandbox; fetched is the answer.
	fetch struct{ run *executorRun }
	// stopFetching cancels or finishes the fetch.
	stopFetching struct{ container string }
	start        struct{ run *executorRun }
	// terminate sends SIGTERM to the process group of a command.
	terminate struct{ process process }
	// destroy kills the process and everything it started, and removes the container's cgroups.
	destroy struct {
		process   process
		container string
	}
	// limit sets the limits of a container to the resources of its executor and tasks.
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

// Events from the agent's own timers.
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
		plan: p, info: info, newID: newID, counts: newAgentCounts(),
		frameworks: map[api.FrameworkID]mesos.FrameworkInfo{}, executors: map[executorKey]*executorRun{},
		runs: map[string]*executorRun{}, streams: map[string]*executorRun{}, dropped: map[taskKey]*executorRun{},
	}
}

// wake returns when the agent wants a tick; zero means never.
func (a *agent) wake() time.Time { return a.timers.next() }

// step handles one event at the given time and returns the resulting actions. The owner performs them before the next step,
// because save and start read the agent's state.
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
		a.call(e)
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

// register sends all executors and tasks of this agent to a master.
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
		run := a.executors[msg.executor]
		if run == nil || run.stream == "" {
			a.counts.add("slave/invalid_framework_messages")
			return
		}
		a.counts.add("slave/valid_framework_messages")
		a.tell(run, &executor.Event{Type: executor.Event_MESSAGE, Message: &executor.Event_Message{Data: msg.data}})
	}
}

// registered stores the id, and resends what the previous master may have missed.
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

// runTask sends a task to its executor, or starts the executor first (Slave::__run in src/slave/slave.cpp).
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

// newRun creates an executor's run and starts it.
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
		if !run.command { // in Mesos the fetch counts towards this timeout
			a.timers.add(a.now.Add(a.plan.ExecutorRegistrationTimeout), registrationDue{run.container})
		}
		return run
	}
	a.do(start{run})
	return run
}

// fetched starts a run after its fetch, unless it has been killed.
func (a *agent) fetched(e fetched) {
	run := a.runs[e.container]
	if run == nil || !run.fetching {
		return
	}
	run.fetching = false
	a.counts.add("containerizer/fetcher/task_fetches_" + either(e.err == nil, "succeeded", "failed"))
	if run.phase != terminating { // else its end was reported already
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

// kill sends KILL to the executor. An executor that has not subscribed never gets the task.
func (a *agent) kill(msg killTask) {
	run, t := a.find(msg.framework, msg.task)
	switch {
	case t == nil:
		a.unknownTask(msg)
	case terminal(t.latest.GetState()):
	case !run.command && (run.phase == terminating || run.phase == ended): // Slave::kill ignores it
	case run.command:
		a.killCommand(run, t, msg.policy)
	case run.stream != "":
		a.tell(run, &executor.Event{Type: executor.Event_KILL, Kill: &executor.Event_Kill{TaskID: t.info.TaskID, KillPolicy: msg.policy}})
	case run.phase == starting:
		// Its executor keeps starting, and is shut down when it subscribes: Slave::kill and Slave::subscribe in
		// src/slave/slave.cpp.
		run.queued = without(run.queued, []api.TaskID{msg.task})
		a.update(run, t, agentStatus(mesos.TASK_KILLED, mesos.REASON_TASK_KILLED_DURING_LAUNCH, "Killed before delivery to the executor"))
	}
}

// unknownTask reports a task that the master has and this agent never got, unless its framework has nothing here
// (Slave::killTask in src/slave/slave.cpp).
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

// resources returns the sum for the executor and its tasks that have not ended.
func (run *executorRun) resources() pool {
	sum := poolOf(run.info.Resources)
	for _, t := range run.tasks {
		if !terminal(t.latest.GetState()) {
			sum = sum.plus(poolOf(t.info.Resources))
		}
	}
	return sum
}

// shutdown asks an executor to end, and kills it after its grace period.
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

// end kills an executor without a grace period.
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

// stop ends all executors before the agent stops.
func (a *agent) stop() {
	a.stopping = true
	for _, run := range a.runs {
		run.silent = true
		a.shutdown(run)
		a.cleanUp(run)
	}
	a.checkEnded()
}

// checkEnded returns allEnded, once, when a stopping agent has nothing left.
func (a *agent) checkEnded() {
	if a.stopping && !a.ended && len(a.runs) == 0 {
		a.ended = true
		a.do(allEnded{})
	}
}

// cleanUp removes a run that has ended and has no pending updates.
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

// forgetFramework removes a framework without executors. Draining ends with the last one
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

// fetchFailed is the start of Mesos' message for a failed fetch.
const fetchFailed = "Failed to fetch all URIs for container"

func (a *agent) startFailed(e startFailed) {
	run := a.runs[e.container]
	if run == nil {
		return
	}
	a.counts.add("slave/container_launch_errors")
	run.became, run.reason, run.text = mesos.TASK_FAILED, mesos.REASON_CONTAINER_LAUNCH_FAILED, fmt.Sprintf("Failed to launch container: %v", e.err)
	a.exited(processExited{container: e.container, status: -1})
}

// updateFailed destroys a container whose limits could not be changed; its tasks become TASK_GONE (___run and __statusUpdate of
// src/slave/slave.cpp).
func (a *agent) updateFailed(e updateFailed) {
	if run := a.runs[e.container]; run != nil && !run.destroyed && run.phase != ended {
		a.end(run, mesos.REASON_CONTAINER_UPDATE_FAILED, fmt.Sprintf("Failed to update resources for container: %v", e.err))
		run.became = stateFor(a.frameworks[run.key.framework], mesos.TASK_GONE)
	}
}

// limited destroys a container; its tasks become TASK_FAILED (MesosContainerizerProcess::limited in
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

// exited ends the tasks of an executor whose process has exited, and kills what that left behind. The run and its executor's id
// stay until all updates are acknowledged (Slave::executorTerminated in src/slave/slave.cpp).
func (a *agent) exited(e processExited) {
	run := a.runs[e.container]
	if run == nil || run.phase == ended {
		return
	}
	run.phase = ended
	a.counts.add("slave/executors_terminated")
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

// lastStatus returns the final status of a task whose process has exited.
func (run *executorRun) lastStatus(status int32) mesos.TaskStatus {
	switch {
	case run.text != "":
		return agentStatus(run.became, run.reason, run.text)
	case run.command:
		return commandEnd(status, run.killed)
	}
	return agentStatus(mesos.TASK_FAILED, mesos.REASON_EXECUTOR_TERMINATED, "Executor terminated")
}
