package localmesos

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/executor"

	"github.com/k8sm/k8sm/api"
)

// agentScript drives an agent without clock, processes and disk.
type agentScript struct {
	t    *testing.T
	a    *agent
	now  time.Time
	done []string // the actions, in short
}

func newAgentScript(t *testing.T) *agentScript {
	ids := 0
	newID := func() string {
		ids++
		return fmt.Sprintf("00000000-0000-0000-0000-%012d", ids)
	}
	p := plan{Config: Config{
		IP: "127.0.0.1", ExecutorShutdownGracePeriod: 5 * time.Second, ExecutorRegistrationTimeout: time.Minute, ExecutorReregistrationTimeout: 15 * time.Second,
	}}
	s := &agentScript{t: t, now: time.Unix(1_800_000_000, 0), a: newAgent(mesos.AgentInfo{}, p, newID)}
	s.step(fromMaster{registered{"S0"}})
	s.done = nil
	return s
}

func (s *agentScript) step(e event) {
	for _, x := range s.a.step(s.now, e) {
		if text := brief(x); text != "" {
			s.done = append(s.done, text)
		}
	}
}

// brief describes an action in a few words; "" for checkpoints.
func brief(x action) string {
	switch x := x.(type) {
	case send:
		return "tell " + x.kind
	case hangUp:
		return "hang up"
	case fetch:
		return "fetch for " + string(x.run.key.executor)
	case stopFetching:
		return "stop fetching"
	case start:
		return "start " + string(x.run.key.executor)
	case terminate:
		return fmt.Sprintf("terminate %d", x.process.PID)
	case destroy:
		return fmt.Sprintf("destroy %d", x.process.PID)
	case answer:
		return fmt.Sprintf("answer %d", x.status)
	case allEnded:
		return "all ended"
	case sendMaster:
		switch m := x.message.(type) {
		case update:
			return fmt.Sprintf("update %s %s (latest %s)", m.status.TaskID.Value, m.status.GetState(), m.latest.GetState())
		case exitedExecutor:
			return fmt.Sprintf("exited %s %d", m.executor.executor, m.status)
		}
		return "send " + x.message.kind()
	}
	return ""
}

func (s *agentScript) pass(d time.Duration) {
	for end := s.now.Add(d); ; {
		at := s.a.wake()
		if at.IsZero() || at.After(end) {
			s.now = end
			return
		}
		s.now = at
		s.step(tick{})
	}
}

// expect compares the actions since the last call.
func (s *agentScript) expect(want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.done); diff != "" {
		s.t.Fatal(diff)
	}
	s.done = nil
}

const testFrameworkID = "m-0000"

// run launches a task, with a new executor if the agent has none of that id.
func (s *agentScript) run(task, executor string) {
	s.launch(task, executor, s.a.executors[executorKey{testFrameworkID, api.ExecutorID(executor)}] == nil)
}

func (s *agentScript) launch(task, executor string, launchExecutor bool) {
	checkpoint := true
	msg := runTask{
		framework: mesos.FrameworkInfo{
			ID: &mesos.FrameworkID{Value: testFrameworkID}, Checkpoint: &checkpoint,
			Capabilities: []mesos.FrameworkInfo_Capability{{Type: mesos.FrameworkInfo_Capability_PARTITION_AWARE}},
		},
		task:           mesos.TaskInfo{TaskID: mesos.TaskID{Value: task}, Command: &mesos.CommandInfo{}},
		launchExecutor: launchExecutor,
	}
	if executor != "" {
		msg.task.Command = nil
		msg.task.Executor = &mesos.ExecutorInfo{ExecutorID: mesos.ExecutorID{Value: executor}, FrameworkID: msg.framework.ID, Command: &mesos.CommandInfo{}}
	}
	s.step(fromMaster{msg})
}

// container returns the container of the only run.
func (s *agentScript) container() string {
	s.t.Helper()
	for id := range s.a.runs {
		return id
	}
	s.t.Fatal("nothing runs")
	return ""
}

func (s *agentScript) executorCall(executor string) *pb.Call {
	return &pb.Call{
		FrameworkID: mesos.FrameworkID{Value: testFrameworkID}, ExecutorID: mesos.ExecutorID{Value: executor},
		Type: pb.Call_SUBSCRIBE, Subscribe: &pb.Call_Subscribe{},
	}
}

func (s *agentScript) acknowledge(task string) {
	s.t.Helper()
	_, t := s.a.find(testFrameworkID, api.TaskID(task))
	s.step(fromMaster{acknowledge{testFrameworkID, api.TaskID(task), string(t.pending[0].UUID)}})
}

func TestUpdatesAreSentOneByOneWithBackOff(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "")
	s.expect("start t")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.expect("update t TASK_STARTING (latest TASK_RUNNING)")
	s.pass(9 * time.Second)
	s.expect()
	s.pass(time.Second)
	s.expect("update t TASK_STARTING (latest TASK_RUNNING)")
	s.pass(19 * time.Second)
	s.expect()
	s.pass(time.Second)
	s.expect("update t TASK_STARTING (latest TASK_RUNNING)")
	s.acknowledge("t")
	s.expect("update t TASK_RUNNING (latest TASK_RUNNING)")
	s.acknowledge("t")
	s.pass(time.Hour)
	s.expect()
}

func TestAcknowledgementOfLastUpdateEndsRun(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.step(processExited{s.container(), 0})
	for range 3 {
		if len(s.a.runs) != 1 {
			t.Fatal("the run was forgotten with updates left")
		}
		s.acknowledge("t")
	}
	if len(s.a.runs)+len(s.a.executors)+len(s.a.frameworks) != 0 {
		t.Errorf("left are %v %v %v", s.a.runs, s.a.executors, s.a.frameworks)
	}
}

func TestExecutorRegistrationTimeout(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "x")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.expect("start x")
	s.pass(time.Minute)
	s.expect("destroy 7")
	s.step(processExited{s.container(), 9})
	s.expect("destroy 7", "update t TASK_FAILED (latest TASK_FAILED)", "exited x 9")
	_, task := s.a.find(testFrameworkID, "t")
	if reason := task.latest.GetReason(); reason != mesos.REASON_EXECUTOR_REGISTRATION_TIMEOUT {
		t.Errorf("the reason is %s", reason)
	}
}

func TestQueuedTaskIsLaunchedWhenExecutorSubscribes(t *testing.T) {
	s := newAgentScript(t)
	s.run("t1", "x")
	s.run("t2", "x")
	s.run("t3", "x")
	s.step(fromMaster{killTask{framework: testFrameworkID, task: "t2"}})
	s.step(processStarted{s.container(), process{PID: 7}})
	s.expect("start x", "update t2 TASK_KILLED (latest TASK_KILLED)")
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.expect("answer 200", "tell SUBSCRIBED", "tell LAUNCH", "tell LAUNCH")
}

func TestShutdownOfAnExecutorHasAGracePeriod(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "x")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.done = nil
	s.step(fromMaster{shutdownExecutor{executorKey{testFrameworkID, "x"}}})
	s.expect("tell SHUTDOWN")
	s.pass(4 * time.Second)
	s.expect()
	s.pass(time.Second)
	s.expect("destroy 7")
}

func TestLaunchLostWithAgentIsDroppedButQueuedOneIsNot(t *testing.T) {
	s := newAgentScript(t)
	checkpoint := true
	info := mesos.FrameworkInfo{ID: &mesos.FrameworkID{Value: testFrameworkID}, Checkpoint: &checkpoint}
	staging := mesos.TaskStatus{TaskID: mesos.TaskID{Value: "lost"}, State: mesos.TASK_STAGING.Enum()}
	run := &executorRun{
		key: executorKey{testFrameworkID, "x"}, container: "c", process: process{PID: 7}, order: []api.TaskID{"lost"},
		tasks: map[api.TaskID]*agentTask{"lost": {framework: testFrameworkID, info: mesos.TaskInfo{TaskID: staging.TaskID}, latest: staging}},
	}
	s.step(recovered{runs: []savedRun{{framework: info, run: run}}})
	s.run("new", "x")
	s.expect()
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.expect("answer 200", "tell SUBSCRIBED", "tell LAUNCH", "update lost TASK_DROPPED (latest TASK_DROPPED)")
}

func TestLaunchLostWithExecutorStreamIsDropped(t *testing.T) {
	s := newAgentScript(t)
	s.run("t1", "x")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.step(executorSubscribe{stream: "s1", call: s.executorCall("x")})
	s.run("t2", "x")
	s.step(streamClosed{"s1"})
	s.done = nil
	again := s.executorCall("x")
	again.Subscribe.UnacknowledgedTasks = []mesos.TaskInfo{{TaskID: mesos.TaskID{Value: "t1"}}}
	s.step(executorSubscribe{stream: "s2", call: again})
	s.expect("answer 200", "tell SUBSCRIBED", "update t2 TASK_DROPPED (latest TASK_DROPPED)")
}

func TestExecutorReregistrationTimeout(t *testing.T) {
	s := newAgentScript(t)
	checkpoint := true
	info := mesos.FrameworkInfo{ID: &mesos.FrameworkID{Value: testFrameworkID}, Checkpoint: &checkpoint}
	run := &executorRun{key: executorKey{testFrameworkID, "x"}, container: "c", process: process{PID: 7}, tasks: map[api.TaskID]*agentTask{}}
	s.step(recovered{runs: []savedRun{{framework: info, run: run}}})
	s.pass(15 * time.Second)
	s.expect("destroy 7")
}

func TestRegistrationIsRetriedUntilAnswered(t *testing.T) {
	s := newAgentScript(t)
	s.step(masterFound{})
	s.pass(2 * time.Second)
	s.expect("send REGISTER", "send REGISTER", "send REGISTER")
	s.step(fromMaster{registered{"S0"}})
	s.pass(time.Hour)
	s.expect()
}

func TestStopEndsWhenNothingRuns(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.done = nil
	container := s.container()
	s.step(stopAgent{})
	s.expect("terminate 7")
	s.step(processExited{container, 15})
	s.expect("destroy 7", "all ended")
}

func TestCommandThatCannotBeStartedFailsItsTask(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "")
	s.step(startFailed{s.container(), errors.New("no such file")})
	s.expect("start t", "destroy 0", "update t TASK_FAILED (latest TASK_FAILED)")
}

func TestWaitStatusOfCommandDecidesFinalState(t *testing.T) {
	for _, c := range []struct {
		status int32
		killed bool
		state  mesos.TaskState
		text   string
	}{
		{0, false, mesos.TASK_FINISHED, "Command exited with status 0"},
		{3 << 8, false, mesos.TASK_FAILED, "Command exited with status 3"},
		{9, false, mesos.TASK_FAILED, "Command terminated with signal Killed"},
		{15, true, mesos.TASK_KILLED, "Command terminated with signal Terminated"},
		{-1, false, mesos.TASK_FAILED, "The agent restarted while the command ran; how it ended is not known"},
	} {
		if s := commandEnd(c.status, c.killed); s.GetState() != c.state || s.GetMessage() != c.text {
			t.Errorf("%d (killed: %t): %s %q", c.status, c.killed, s.GetState(), s.GetMessage())
		}
	}
}

func TestStopWithAnExecutorThatEndedBeforeEndsOnce(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "")
	container := s.container()
	s.step(processStarted{container, process{PID: 7}})
	s.step(processExited{container, 9}) // its task's update waits for an absent master
	s.done = nil
	s.step(stopAgent{})
	s.expect("all ended")
}

// fetching launches a task whose executor's command has a URI.
func fetching(t *testing.T) (s *agentScript, container string) {
	s = newAgentScript(t)
	s.step(fromMaster{runTask{
		launchExecutor: true,
		framework:      mesos.FrameworkInfo{ID: &mesos.FrameworkID{Value: testFrameworkID}},
		task: mesos.TaskInfo{TaskID: mesos.TaskID{Value: "t"}, Executor: &mesos.ExecutorInfo{
			ExecutorID: mesos.ExecutorID{Value: "x"}, FrameworkID: &mesos.FrameworkID{Value: testFrameworkID},
			Command: &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{{Value: "http://server/km"}}},
		}},
	}})
	s.expect("fetch for x")
	return s, s.container()
}

func TestExecutorStartsAfterFetch(t *testing.T) {
	s, container := fetching(t)
	s.step(fetched{container, nil})
	s.expect("stop fetching", "start x")
}

func TestFailedFetchFailsTaskLikeFailedLaunch(t *testing.T) {
	s, container := fetching(t)
	s.step(fetched{container, errors.New("404 Not Found")})
	s.expect("stop fetching", "destroy 0", "update t TASK_FAILED (latest TASK_FAILED)", "exited x -1")
	for _, run := range s.a.runs {
		latest := run.tasks["t"].latest
		if got := latest.GetReason(); got != mesos.REASON_CONTAINER_LAUNCH_FAILED {
			t.Errorf("reason %s", got)
		}
		if got, want := latest.GetMessage(), "Failed to launch container: Failed to fetch all URIs for container '"+container+"': 404 Not Found"; got != want {
			t.Errorf("message %q, want %q", got, want)
		}
	}
}

func TestFetchCountsTowardsRegistrationTimeout(t *testing.T) {
	s, container := fetching(t)
	s.pass(50 * time.Second)
	s.step(fetched{container, nil})
	s.step(processStarted{container, process{PID: 7}})
	s.expect("stop fetching", "start x")
	s.pass(10 * time.Second)
	s.expect("destroy 7")
	s, container = fetching(t)
	s.pass(time.Minute)
	s.expect("stop fetching", "destroy 0")
	s.step(fetched{container, errors.New("interrupted")})
	for _, run := range s.a.runs {
		if got := run.tasks["t"].latest.GetReason(); got != mesos.REASON_EXECUTOR_REGISTRATION_TIMEOUT {
			t.Errorf("reason %s", got)
		}
	}
}

func TestExecutorShutDownDuringFetchNeverStarts(t *testing.T) {
	s, container := fetching(t)
	s.step(fromMaster{shutdownExecutor{executorKey{testFrameworkID, "x"}}})
	s.expect("stop fetching", "destroy 0")
	s.step(fetched{container, errors.New("interrupted")})
	s.expect("destroy 0", "update t TASK_FAILED (latest TASK_FAILED)", "exited x -1")
}
