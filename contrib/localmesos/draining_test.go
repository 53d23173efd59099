package localmesos

import (
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/executor"
)

func within(d time.Duration) *mesos.KillPolicy {
	return &mesos.KillPolicy{GracePeriod: &mesos.DurationInfo{Nanoseconds: d.Nanoseconds()}}
}

func TestDrainShortensAKillPolicyAndNeverProlongsIt(t *testing.T) {
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

func TestExecutorOfADrainingAgentIsToldTheKillPolicyAndItsUpdateGetsTheReason(t *testing.T) {
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
	s.step(executorCall{say})
	_, task := s.a.find(testFrameworkID, "t")
	if got := task.latest.GetReason(); got != mesos.REASON_AGENT_DRAINING {
		t.Errorf("reason %s", got)
	}
	s.acknowledge("t")
	if s.a.draining != nil {
		t.Error("it drains although nothing is left")
	}
}
