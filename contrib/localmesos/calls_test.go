package localmesos

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/executor"
)

func TestAcknowledgementWithoutAValidUUIDIsRefused(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, testConfig(t))
	f := subscribeWith(t, cluster, nil)
	for _, bytes := range []string{"", "short", strings.Repeat("x", 17), "a version\x00 nine"} {
		got := f.call("ACKNOWLEDGE", object{"acknowledge": object{
			"agent_id": named("a"), "task_id": named("t"), "uuid": base64.StdEncoding.EncodeToString([]byte(bytes)),
		}})
		if got["status"] != http.StatusBadRequest || got["body"] != "Failed to validate scheduler::Call: Not a valid UUID\n" {
			t.Errorf("%q: %v", bytes, got)
		}
	}
}

func TestUpdateOfAnExecutorIsValidated(t *testing.T) {
	good := func() *executor.Call {
		return &executor.Call{
			Type: executor.Call_UPDATE, ExecutorID: mesos.ExecutorID{Value: "x"}, FrameworkID: mesos.FrameworkID{Value: "f"},
			Update: &executor.Call_Update{Status: mesos.TaskStatus{
				State: mesos.TASK_RUNNING.Enum(), Source: mesos.SOURCE_EXECUTOR.Enum(), UUID: []byte("0123456789abcdef"),
			}},
		}
	}
	for _, test := range []struct {
		change func(*mesos.TaskStatus)
		want   string
	}{
		{func(*mesos.TaskStatus) {}, ""},
		{func(s *mesos.TaskStatus) { s.UUID = nil }, "Expecting 'uuid' to be present"},
		{func(s *mesos.TaskStatus) { s.UUID = []byte("x") }, "Not a valid UUID"},
		{func(s *mesos.TaskStatus) { s.ExecutorID = &mesos.ExecutorID{Value: "y"} }, "ExecutorID in Call: x does not match ExecutorID in TaskStatus: y"},
		{func(s *mesos.TaskStatus) { s.Source = nil }, "Received Call from executor x of framework f with invalid source, expecting 'SOURCE_EXECUTOR'"},
		{func(s *mesos.TaskStatus) { s.State = mesos.TASK_STAGING.Enum() }, "Received TASK_STAGING from executor x of framework f which is not allowed"},
	} {
		call := good()
		test.change(&call.Update.Status)
		want := test.want
		if want != "" {
			want = "Failed to validate Executor::Call: " + want
		}
		if got := executorCallProblem(call, ""); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
