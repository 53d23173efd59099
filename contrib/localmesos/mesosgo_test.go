package localmesos

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	mesosexecutor "github.com/mesos/mesos-go/api/v1/lib/executor"
	executorcalls "github.com/mesos/mesos-go/api/v1/lib/executor/calls"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpexec"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpsched"
	"github.com/mesos/mesos-go/api/v1/lib/resources"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"
)

// runMesosGoExecutor is a mesos-go executor with protobuf. It sends TASK_RUNNING for each LAUNCH and ends on SHUTDOWN.
func runMesosGoExecutor() int {
	ctx := context.Background()
	client := httpcli.New(httpcli.Endpoint("http://"+os.Getenv("MESOS_AGENT_ENDPOINT")+"/api/v1/executor"), httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeProtobuf]))
	options := mesosexecutor.CallOptions{
		executorcalls.Framework(os.Getenv("MESOS_FRAMEWORK_ID")), executorcalls.Executor(os.Getenv("MESOS_EXECUTOR_ID")),
	}
	sender := executorcalls.SenderWith(httpexec.NewSender(client.Send), options...)
	subscriber := executorcalls.SenderWith(httpexec.NewSender(client.Send, httpcli.Close(true)), options...)
	resp, err := subscriber.Send(ctx, executorcalls.NonStreaming(executorcalls.Subscribe(nil, nil)))
	if err != nil {
		return 1
	}
	defer resp.Close()
	for {
		var e mesosexecutor.Event
		if err := resp.Decode(&e); err != nil {
			return 2
		}
		switch e.Type {
		case mesosexecutor.Event_SHUTDOWN:
			return 0
		case mesosexecutor.Event_LAUNCH:
			id := uuid.New()
			status := mesos.TaskStatus{
				TaskID: e.Launch.Task.TaskID, State: mesos.TASK_RUNNING.Enum(), Source: mesos.SOURCE_EXECUTOR.Enum(), UUID: id[:],
			}
			answer, err := sender.Send(ctx, executorcalls.NonStreaming(executorcalls.Update(status)))
			if err != nil {
				return 3
			}
			if answer != nil {
				answer.Close()
			}
		}
	}
}

// mesosGoScheduler is a mesos-go scheduler with protobuf.
type mesosGoScheduler struct {
	t      *testing.T
	caller calls.Caller
	id     string
	events mesos.Response
}

func (s *mesosGoScheduler) call(ctx context.Context, call *scheduler.Call) {
	s.t.Helper()
	if err := calls.CallNoData(ctx, s.caller, call.With(calls.Framework(s.id))); err != nil {
		s.t.Fatalf("%s: %v", call.Type, err)
	}
}

func (s *mesosGoScheduler) next(kind scheduler.Event_Type) scheduler.Event {
	s.t.Helper()
	for {
		var e scheduler.Event
		if err := s.events.Decode(&e); err != nil {
			s.t.Fatalf("waiting for %s: %v", kind, err)
		}
		if e.Type == kind {
			return e
		}
	}
}

// TestMesosGoClientsWorkInProtobuf runs a task with a scheduler and an executor of mesos-go.
func TestMesosGoClientsWorkInProtobuf(t *testing.T) {
	t.Parallel()
	c := startCluster(t, testConfig(t))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := httpcli.New(httpcli.Endpoint("http://"+c.MasterAddr()+"/api/v1/scheduler"), httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeProtobuf]))
	s := &mesosGoScheduler{t: t, caller: httpsched.NewCaller(client)}
	checkpoint := true
	var err error
	s.events, err = s.caller.Call(ctx, calls.Subscribe(&mesos.FrameworkInfo{
		User: "root", Name: "mesos-go", Checkpoint: &checkpoint, Roles: []string{"*"},
		Capabilities: []mesos.FrameworkInfo_Capability{{Type: mesos.FrameworkInfo_Capability_MULTI_ROLE}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.events.Close()
	id := s.next(scheduler.Event_SUBSCRIBED).Subscribed.FrameworkID
	s.id = id.Value
	offer := s.next(scheduler.Event_OFFERS).Offers.Offers[0]
	s.call(ctx, calls.Accept(calls.OfferOperations{calls.OpLaunch(protobufTask(t, offer, id))}.WithOffers(offer.ID)))
	status := s.next(scheduler.Event_UPDATE).Update.Status
	if status.GetState() != mesos.TASK_RUNNING || status.GetExecutorID().GetValue() != "in-go" {
		t.Fatalf("the first update is %v", status)
	}
	s.call(ctx, calls.Acknowledge(status.AgentID.Value, status.TaskID.Value, status.UUID))
	s.call(ctx, calls.Shutdown("in-go", status.AgentID.Value))
	last := s.next(scheduler.Event_UPDATE).Update.Status
	if last.GetState() != mesos.TASK_FAILED || last.GetReason() != mesos.REASON_EXECUTOR_TERMINATED {
		t.Fatalf("after SHUTDOWN: %v", last)
	}
	s.call(ctx, calls.Acknowledge(last.AgentID.Value, last.TaskID.Value, last.UUID))
	if failure := s.next(scheduler.Event_FAILURE).Failure; failure.GetStatus() != 0 {
		t.Errorf("the executor ended with wait status %d", failure.GetStatus())
	}
	s.call(ctx, &scheduler.Call{Type: scheduler.Call_TEARDOWN})
	if err := drain(s.events); !errors.Is(err, io.EOF) {
		t.Errorf("after TEARDOWN the stream ended with %v", err)
	}
}

func drain(events mesos.Response) error {
	for {
		var e scheduler.Event
		if err := events.Decode(&e); err != nil {
			return err
		}
	}
}

func protobufTask(t *testing.T, offer mesos.Offer, framework *mesos.FrameworkID) mesos.TaskInfo {
	t.Helper()
	line, env := asProgram(t, "mesos-go-executor")
	var variables []mesos.Environment_Variable
	for _, v := range env {
		s := text(v, "value")
		variables = append(variables, mesos.Environment_Variable{Name: text(v, "name"), Value: &s})
	}
	some := mesos.Resources{resources.NewCPUs(0.1).Resource, resources.NewMemory(32).Resource}.Allocate("*")
	return mesos.TaskInfo{
		Name: "go", TaskID: mesos.TaskID{Value: "go-1"}, AgentID: offer.AgentID, Resources: some,
		Executor: &mesos.ExecutorInfo{
			Type: mesos.ExecutorInfo_CUSTOM, ExecutorID: mesos.ExecutorID{Value: "in-go"}, FrameworkID: framework, Resources: some,
			Command: &mesos.CommandInfo{Value: &line, Environment: &mesos.Environment{Variables: variables}},
		},
	}
}
