package localmesos

import (
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/executor"

	"github.com/k8sm/k8sm/api"
)

func within(d time.Duration) *mesos.KillPolicy {
	return &mesos.KillPolicy{GracePeriod: &mesos.DurationInfo{Nanoseconds: d.Nanoseconds()}}
}

func TestDrainOnlyShortensKillPolicy(t *testing.T) {
	for _, test := range []struct {
		own, most, want *mesos.KillPolicy
	}{
		{within(time.Minute), within(time.Second), within(time.Second)},
		{within(time.Second), within(time.Minute), nil},
		{nil, within(time.Minute), within(time.Minute)},
		{&mesos.KillPolicy{}, within(time.Minute), within(time.Minute)},
		{within(time.Minute), nil, nil},
	} {
		if got := boundedPolicy(test.own, test.most.GetGracePeriod()); !got.Equal(test.want) {
			t.Errorf("own %v, at most %v: got %v, want %v", test.own, test.most, got, test.want)
		}
	}
}

func TestDrainSetsKillPolicyAndReasonOfUpdate(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "x")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	var kill *pb.Event_Kill
	for _, x := range s.a.step(s.now, fromMaster{drainAgent{mesos.DrainConfig{MaxGracePeriod: within(time.Second).GracePeriod}}}) {
		if e, ok := x.(send); ok {
			kill = e.event.(*pb.Event).Kill
		}
	}
	if kill == nil || kill.TaskID.Value != "t" || !kill.KillPolicy.Equal(within(time.Second)) {
		t.Fatalf("the executor was told %v", kill)
	}
	say := s.executorCall("x")
	say.Type, say.Update = pb.Call_UPDATE, &pb.Call_Update{Status: mesos.TaskStatus{
		TaskID: mesos.TaskID{Value: "t"}, State: mesos.TASK_KILLED.Enum(), Source: mesos.SOURCE_EXECUTOR.Enum(),
		UUID: []byte("0123456789abcdef"),
	}}
	s.step(executorCall{call: say})
	_, task := s.a.find(testFrameworkID, "t")
	if got := task.latest.GetReason(); got != mesos.REASON_AGENT_DRAINING {
		t.Errorf("reason %s", got)
	}
	s.acknowledge("t")
	if s.a.draining == nil {
		t.Fatal("it has drained although its executor runs")
	}
	container := s.container()
	s.step(fromMaster{shutdownExecutor{executorKey{testFrameworkID, "x"}}})
	s.step(processExited{container, 0})
	if s.a.draining != nil {
		t.Error("it drains although nothing is left")
	}
}

func TestDrainingAgentDropsLaunchesUntilLastExecutorHasEnded(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "x")
	container := s.container()
	s.step(processStarted{container, process{PID: 7}})
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.step(fromMaster{drainAgent{}})
	s.finish("x", "t")
	s.acknowledge("t")
	s.done = nil
	s.launch("u", "x", false)
	s.launch("v", "y", true)
	s.expect("update u TASK_DROPPED (latest TASK_DROPPED)", "update v TASK_DROPPED (latest TASK_DROPPED)", "exited y -1")
	s.expectDropped("u", mesos.REASON_AGENT_DRAINING, "Task was received while agent was already draining")
	s.acknowledge("u")
	s.pass(10 * time.Second)
	s.expect("update v TASK_DROPPED (latest TASK_DROPPED)")
	s.acknowledge("v")
	s.pass(time.Hour)
	s.expect()
	s.step(processExited{container, 0})
	s.done = nil
	s.launch("w", "x", true)
	s.expect("start x")
}

func TestIdleAgentDoesNotDrain(t *testing.T) {
	s := newAgentScript(t)
	s.step(fromMaster{drainAgent{}})
	s.launch("t", "x", true)
	s.expect("start x")
}

// finish sends TASK_FINISHED from a subscribed executor.
func (s *agentScript) finish(executor, task string) {
	say := s.executorCall(executor)
	say.Type, say.Update = pb.Call_UPDATE, &pb.Call_Update{Status: mesos.TaskStatus{
		TaskID: mesos.TaskID{Value: task}, State: mesos.TASK_FINISHED.Enum(), Source: mesos.SOURCE_EXECUTOR.Enum(),
		UUID: []byte("0123456789abcdef"),
	}}
	s.step(executorCall{call: say})
}

// expectDropped says why a task that waits for its acknowledgement was dropped.
func (s *agentScript) expectDropped(task string, reason mesos.TaskStatus_Reason, text string) {
	s.t.Helper()
	_, found := s.a.find(testFrameworkID, api.TaskID(task))
	if found == nil {
		s.t.Fatalf("task %s is not told of", task)
	}
	got := found.latest
	if got.GetState() != mesos.TASK_DROPPED || got.GetSource() != mesos.SOURCE_AGENT || got.GetReason() != reason || got.GetMessage() != text {
		s.t.Errorf("task %s: %s", task, got.String())
	}
}

func TestExecutorStaysTerminatedUntilItsUpdatesAreAcknowledged(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "x")
	container := s.container()
	s.step(processStarted{container, process{PID: 7}})
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.step(processExited{container, 9})
	s.done = nil
	s.launch("u", "x", true) // the master knows that it exited
	s.expect("update u TASK_DROPPED (latest TASK_DROPPED)", "exited x -1")
	s.expectDropped("u", mesos.REASON_EXECUTOR_TERMINATED, "Master wants to launch executor, but one already exists")
	s.launch("v", "x", false) // it has not
	s.expect("update v TASK_DROPPED (latest TASK_DROPPED)")
	s.expectDropped("v", mesos.REASON_EXECUTOR_TERMINATED, "Executor terminated")
	s.acknowledge("t")
	s.done = nil
	s.launch("w", "x", true)
	s.expect("start x")
}

func TestLaunchOnTerminatingExecutorIsDropped(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "x")
	container := s.container()
	s.step(processStarted{container, process{PID: 7}})
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.step(fromMaster{shutdownExecutor{executorKey{testFrameworkID, "x"}}})
	s.done = nil
	s.launch("u", "x", false)
	s.expect("update u TASK_DROPPED (latest TASK_DROPPED)")
	s.expectDropped("u", mesos.REASON_EXECUTOR_TERMINATED, "Executor terminating")
}

func TestLaunchOnUnknownExecutorIsDropped(t *testing.T) {
	s := newAgentScript(t)
	s.launch("t", "x", false)
	s.expect("update t TASK_DROPPED (latest TASK_DROPPED)")
	s.expectDropped("t", mesos.REASON_EXECUTOR_TERMINATED, "No executor is expected to launch and there is none running")
}

func TestExecutorWithoutTasksIsShutDownWhenItSubscribes(t *testing.T) {
	s := newAgentScript(t)
	s.run("t", "x")
	s.step(processStarted{s.container(), process{PID: 7}})
	s.step(fromMaster{killTask{framework: testFrameworkID, task: "t"}})
	s.expect("start x", "update t TASK_KILLED (latest TASK_KILLED)")
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.expect("answer 200", "tell SHUTDOWN")
}

func TestRestartedAgentContinuesDraining(t *testing.T) {
	s := newAgentScript(t)
	checkpoint := true
	info := mesos.FrameworkInfo{ID: &mesos.FrameworkID{Value: testFrameworkID}, Checkpoint: &checkpoint}
	run := &executorRun{
		key: executorKey{testFrameworkID, "x"}, container: "c", process: process{PID: 7}, order: []api.TaskID{"t"},
		tasks: map[api.TaskID]*agentTask{"t": {framework: testFrameworkID, latest: mesos.TaskStatus{State: mesos.TASK_RUNNING.Enum()}}},
	}
	s.step(recovered{runs: []savedRun{{framework: info, run: run}}, draining: &mesos.DrainConfig{}})
	s.launch("u", "x", false)
	s.expect("update u TASK_DROPPED (latest TASK_DROPPED)")
	s.step(executorSubscribe{stream: "s", call: s.executorCall("x")})
	s.expect("answer 200", "tell SUBSCRIBED", "tell KILL")
}
